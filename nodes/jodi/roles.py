"""Jodi Roles: which domains are given, which are made, and everything a sampler needs for it."""

from collections.abc import Iterator

from comfy_api.latest import io

from ...jodi_core.auto_roles import AUTO, ROLE_CHOICES
from ...jodi_core.domains import DOMAIN_NAMES, DOMAINS
from ...jodi_core.job.size import DEFAULT_SIZE, SIZE_CHOICES
from ...kit.errors import RoleError
from ..host.sampler import (
    check_cancel,
    encode_domain,
    make_null_text,
    progress,
    read_model_facts,
    read_vae_facts,
)
from ..wires.request import NEGATIVE_MASKS, Request, encode_request

Extra = io.Custom("JODI_EXTRA")

MAX_SIDE, MAX_BATCH = 16384, 4096


def make_role_input(domain_id: str, what: str, id: str = "role") -> io.Combo.Input:
    """The role choice of one domain."""
    return io.Combo.Input(
        id,
        options=list(ROLE_CHOICES),
        default=AUTO,
        optional=True,
        tooltip=(
            f"Role of {what}. auto: connected means given; the image is made when it is not "
            "connected; if that leaves nothing to make, all labels that are not connected are "
            "made. generate: make it (a connected picture counts only with denoise below 1, a "
            "repaint mask or hold). "
            "condition: take it as given. ignore: leave it out, which costs nothing."
        ),
    )


class JodiRoles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiRoles",
            display_name="Jodi Roles",
            category="Jodi",
            description=(
                "Connect what you have; the rest is made from it. Nothing connected: text to "
                "image. The image alone: all labels. Labels alone: the image. The role choices "
                "below override that, domain by domain."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The Jodi model (Load Jodi). It says which domains there are, which "
                    "sizes it can work at and which mixes of roles it was trained on.",
                ),
                io.Vae.Input(
                    "vae", tooltip="The VAE of the same release (Load Jodi); it reads the pictures."
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The prompt (Jodi Text Encode). Not connected means an empty prompt. "
                    "It has no effect when the image is given.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip=(
                        "What to stay away from (Jodi Text Encode, as a negative). Not connected "
                        "means an empty prompt."
                    ),
                ),
                *(_picture_input(domain) for domain in DOMAINS),
                Extra.Input(
                    "extra",
                    optional=True,
                    tooltip="Further domains of an extended model, from Jodi Extra Domain.",
                ),
                io.Mask.Input(
                    "repaint_mask",
                    optional=True,
                    tooltip="White is repainted, black keeps the connected picture. It acts on "
                    "generated domains that have a picture connected; a connected image counts "
                    "as generated then, unless its role says otherwise.",
                ),
                *(make_role_input(d.name, d.title, f"{d.name}_role") for d in DOMAINS),
                *_size_inputs(),
                io.String.Input(
                    "hold",
                    default="",
                    optional=True,
                    tooltip=(
                        "Names of domains, separated by commas (for example: depth, normal), that "
                        "are generated together with the others and yet keep their connected "
                        "picture everywhere. Useful where the model was not trained to take them "
                        "as conditions in this mix."
                    ),
                ),
                io.Combo.Input(
                    "negative_mask",
                    options=list(NEGATIVE_MASKS),
                    default=NEGATIVE_MASKS[0],
                    optional=True,
                    tooltip="as released: the negative prompt is read only as far as the prompt "
                    "is long, as in the published code. own: it is read to its own end.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive_out", "positive", tooltip="Prompt, roles and given pictures."
                ),
                io.Conditioning.Output(
                    "negative_out", "negative", tooltip="Negative prompt, roles, given pictures."
                ),
                io.Latent.Output(
                    "latent", "latent", tooltip="All domains to sample, domains on the third axis."
                ),
                io.String.Output(
                    "summary",
                    "summary",
                    tooltip="What this amounts to, in words, and a warning when the model was "
                    "never trained on this mix of roles.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, vae, positive=None, negative=None, extra=None, **values):
        domains = [(n, values.pop(f"{n}_role", AUTO), values.pop(n, None)) for n in DOMAIN_NAMES]
        request = Request((*domains, *(extra or ())), positive, negative, **values)
        return io.NodeOutput(*encode_job(model, vae, request))


def _picture_input(domain) -> io.Image.Input:
    return io.Image.Input(
        domain.name,
        optional=True,
        tooltip=f"{domain.title}: {domain.description}. One picture for all, or one for each row "
        "of the batch.",
    )


def _size_inputs() -> list:
    side = {"default": 1024, "min": 8, "max": MAX_SIDE, "step": 8, "optional": True}
    return [
        io.Combo.Input(
            "size",
            options=list(SIZE_CHOICES),
            default=DEFAULT_SIZE,
            optional=True,
            tooltip="Size to work at, taken from the first connected picture. picture ratio: the "
            "picture's own ratio at the model's usual number of pixels. trained shape: the "
            "nearest shape the model was trained at, as published, which cuts 11 % off a picture "
            "of 1920 x 1080. picture size: the picture's own size. width and height: the numbers "
            "below. All are rounded to what the model can do; with no picture, the model's own "
            "size is taken.",
        ),
        io.Int.Input(
            "width", **side, tooltip="Pixels, for the choice width and height only; rounded."
        ),
        io.Int.Input(
            "height", **side, tooltip="Pixels, for the choice width and height only; rounded."
        ),
        io.Combo.Input(
            "fit",
            options=["crop", "pad"],
            default="crop",
            optional=True,
            tooltip="How pictures of another ratio are fitted. crop: fill the size and cut the "
            "sides off evenly, as published. pad: show everything and repeat the border.",
        ),
        io.Int.Input(
            "batch",
            default=1,
            min=1,
            max=MAX_BATCH,
            optional=True,
            tooltip="How many results to make. Inputs with one entry serve all of them; a batch "
            "of pictures (a video) sets the number itself, leave this at 1 then.",
        ),
    ]


class JodiExtraDomain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiExtraDomain",
            display_name="Jodi Extra Domain",
            category="Jodi",
            description=(
                "Role and picture of a domain beyond the eight, for models that were extended by "
                "training. Chain several, and connect the last to Jodi Roles."
            ),
            inputs=[
                io.String.Input(
                    "name", default="", tooltip="The domain's name, as the model file gives it."
                ),
                make_role_input("extra", "this domain"),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip=("Its picture: one for all rows, or one for each row."),
                ),
                Extra.Input("extra", optional=True, tooltip="Another Jodi Extra Domain before it."),
            ],
            outputs=[Extra.Output("extra_out", "extra", tooltip="To Jodi Roles, or the next one.")],
        )

    @classmethod
    def execute(cls, name, role=AUTO, image=None, extra=None):
        if not name.strip():
            raise RoleError("the extra domain has no name; type the name the model file gives it")
        return io.NodeOutput((*(extra or ()), (name.strip(), role, image)))


NODES = [JodiRoles, JodiExtraDomain]


def encode_job(model, vae, request: Request) -> tuple[list, list, dict, str]:
    """positive and negative CONDITIONING, LATENT and a summary for people.

    Raises: RoleError, ShapeError, ImageError or JodiError saying what to connect or set.
    """
    return encode_request(
        request,
        read_model_facts(model),
        read_vae_facts(vae),
        encode=lambda pictures: encode_domain(vae, pictures),
        null_text=lambda: make_null_text(model),
        watched=_watched,
    )


def _watched(work: list) -> Iterator:
    """The items of a list of work, with the node's progress bar; heeds Cancel before each item."""
    bar = progress(max(1, len(work)))
    for part in work:
        check_cancel()
        yield part
        bar.update(1)
