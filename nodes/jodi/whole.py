"""Whole wishes in one box: perceive a picture, relight it, change a LATENT as a whole."""

from comfy_api.latest import io

from ...jodi_core.domains import DOMAINS
from ...jodi_core.exits.relight import find_light_direction, read_color, relight
from ...jodi_core.labels.normals import NORMAL_CONVENTIONS, convert_normals
from ...kit.errors import JodiError, RoleError
from ..host.graph import start_graph
from ..host.sampler import check_cancel, decode_domain, encode_domain, read_vae_facts
from ..wires.agreement import BUILT_IN
from ..wires.pictures import count_rows, to_image, to_picture
from ..wires.places import check_pasted
from ..wires.transform import OPERATIONS, Area, transform

LABELS = DOMAINS[1:]


class JodiPerceive(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiPerceive",
            display_name="Jodi Perceive",
            category="Jodi",
            description=(
                "Picture in, maps out, each at the picture's own size and all from one run. Tick "
                "what you need; what is not ticked costs nothing. Works without any download."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The picture, or the frames of a video."),
                *(
                    io.Boolean.Input(d.name, default=True, tooltip=f"{d.title}: {d.description}.")
                    for d in LABELS
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Another seed gives another, equally likely reading.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="0 is automatic: what the model needs for reading pictures.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A Jodi model (Load Jodi), with its vae. Not connected: the small "
                    "built-in one.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE of that model (Load Jodi)."),
                io.Boolean.Input(
                    "fixed_noise",
                    default=False,
                    optional=True,
                    tooltip="Every picture starts from the same noise. Steadies the maps of a "
                    "video.",
                ),
                io.Int.Input(
                    "chunk",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Pictures worked on at a time, for long videos; 0 is all at once.",
                ),
            ],
            outputs=[
                io.Image.Output(d.name, d.name, tooltip=f"{d.title}, if it is ticked.")
                for d in LABELS
            ],
            enable_expand=True,
        )

    @classmethod
    def execute(
        cls, image, seed, steps, model=None, vae=None, fixed_noise=False, chunk=0, **ticked
    ):
        if (model is None) != (vae is None):
            missing = "VAE" if vae is None else "MODEL"
            raise JodiError(f"connect MODEL and VAE together, or neither; the {missing} is missing")
        if not any(ticked.get(d.name) for d in LABELS):
            raise RoleError("no label is ticked, so there is nothing to make; tick at least one")
        graph = start_graph()
        if model is None:
            built_in = dict.fromkeys(("model", "vae"), BUILT_IN)
            load = graph.node("JodiLoad", **built_in, text_encoder="none", weight_dtype="default")
            model, vae = load.out(0), load.out(2)
        roles = {f"{d.name}_role": "generate" if ticked.get(d.name) else "ignore" for d in LABELS}
        job = graph.node(
            "JodiRoles", model=model, vae=vae, image=image, image_role="condition", **roles
        )
        sampled = graph.node(
            "JodiSampler",
            model=model,
            positive=job.out(0),
            negative=job.out(1),
            latent_image=job.out(2),
            seed=seed,
            steps=steps,
            cfg=0.0,
            fixed_noise=fixed_noise,
            chunk=chunk,
        )
        decoded = graph.node(
            "JodiDecodeAll", latent=sampled.out(0), vae=vae, original_frame=True, given=False
        )
        results = [decoded.out(d.index) for d in LABELS]
        return io.NodeOutput(*results, expand=graph.finalize())


class JodiRelight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"min": 0.0, "max": 10.0, "step": 0.01}
        color = "as #rrggbb"
        return io.Schema(
            node_id="JodiRelight",
            display_name="Jodi Relight",
            category="Jodi/exits",
            description=(
                "The picture under a new light, from albedo and normals alone. Surfaces are "
                "matte, and nothing throws a shadow."
            ),
            inputs=[
                io.Image.Input("albedo", tooltip="Jodi's albedo: the colours without light."),
                io.Image.Input("normal", tooltip="Normals of the same picture."),
                io.Float.Input(
                    "azimuth",
                    default=45.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Where the light comes from, in degrees around you: 0 behind you, 90 "
                    "from the right, -90 from the left, 180 from behind the scene.",
                ),
                io.Float.Input(
                    "elevation",
                    default=35.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Degrees above the horizon; 90 is straight down from above.",
                ),
                io.String.Input(
                    "color", default="#fff0dc", tooltip=f"Colour of the light {color}."
                ),
                io.Float.Input(
                    "strength", default=1.0, **strength, tooltip="Strength of the light."
                ),
                io.String.Input(
                    "ambient", default="#cfdcff", tooltip=f"Colour of the light all around {color}."
                ),
                io.Float.Input(
                    "ambient_strength",
                    default=0.35,
                    **strength,
                    tooltip="Strength of the light all around.",
                ),
                io.Float.Input(
                    "from_above",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of it comes from above rather than from all around.",
                ),
                io.Combo.Input(
                    "normals",
                    options=list(NORMAL_CONVENTIONS),
                    default="jodi",
                    optional=True,
                    tooltip="How the normals are drawn: jodi (red to the left), opengl (red to "
                    "the right) or directx (red to the right, green down).",
                ),
                io.Mask.Input(
                    "unlit",
                    optional=True,
                    tooltip="Where it is white, the albedo stays as it is: sky, lamps, screens.",
                ),
            ],
            outputs=[io.Image.Output("image", "image", tooltip="The picture in the new light.")],
        )

    @classmethod
    def execute(
        cls,
        albedo,
        normal,
        azimuth,
        elevation,
        color,
        strength,
        ambient,
        ambient_strength,
        from_above=0.2,
        normals="jodi",
        unlit=None,
    ):
        pictures = {"albedo": to_picture(albedo, "albedo"), "normal": to_picture(normal, "normal")}
        count_rows(pictures)
        light = [strength * c for c in read_color(color)]
        around = [ambient_strength * c for c in read_color(ambient)]
        vectors = convert_normals(pictures["normal"], normals, "jodi")
        direction = find_light_direction(azimuth, elevation)
        made = relight(pictures["albedo"], vectors, direction, light, around, from_above, unlit)
        return io.NodeOutput(to_image(made))


class JodiLatentTransform(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        pixels = {"min": 0, "max": 16384, "step": 8, "optional": True}
        return io.Schema(
            node_id="JodiLatentTransform",
            display_name="Jodi Latent Transform",
            category="Jodi/exits",
            description=(
                "Flips, turns, cuts, pastes and resizes a Jodi LATENT, all its domains together. "
                "ComfyUI's own latent nodes take the domains for the height. Normals turn with "
                "the picture, and a mirrored figure's left becomes its right."
            ),
            inputs=[
                io.Latent.Input("latent", tooltip="A Jodi LATENT."),
                io.Vae.Input(
                    "vae",
                    tooltip="Its VAE (Load Jodi): to flip, turn and resize, the domains are "
                    "decoded and encoded again. Cutting and pasting change no number.",
                ),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default=OPERATIONS[0],
                    tooltip="flip horizontal, flip vertical; rotate 90, rotate 180, rotate 270 "
                    "clockwise; crop takes the area out; paste puts `other` at x and y; resize "
                    "makes it width x height.",
                ),
                io.Int.Input("x", default=0, **pixels, tooltip="Left edge, in pixels; rounded."),
                io.Int.Input("y", default=0, **pixels, tooltip="Upper edge, in pixels; rounded."),
                io.Int.Input("width", default=512, **pixels, tooltip="Pixels; rounded."),
                io.Int.Input("height", default=512, **pixels, tooltip="Pixels; rounded."),
                io.Latent.Input("other", optional=True, tooltip="The LATENT to paste."),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Latent.Output(
                    "latent_out",
                    "latent",
                    tooltip="To decode, to save, or to go on from with a Jodi Roles of the same "
                    "roles and size.",
                )
            ],
        )

    @classmethod
    def execute(cls, latent, vae, operation, x=0, y=0, width=512, height=512, other=None):
        check_pasted(latent["samples"], cls.hidden)

        def decode(samples, index):
            check_cancel()
            return decode_domain(vae, samples, index).movedim(-1, 1).float()

        return io.NodeOutput(
            transform(
                latent,
                operation,
                Area(x, y, width, height),
                read_vae_facts(vae).factor,
                decode,
                lambda pictures: encode_domain(vae, pictures),
                other,
            )
        )


NODES = [JodiPerceive, JodiRelight, JodiLatentTransform]
