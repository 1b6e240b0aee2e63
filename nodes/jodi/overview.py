"""All domains on one sheet, and several samples of one label made into one."""

from comfy_api.latest import io

from ...jodi_core import domains
from ...jodi_core.domains import DOMAIN_NAMES, DOMAINS
from ...jodi_core.labels.ensemble import combine
from ...jodi_core.roles import Role
from ...kit.errors import ImageError
from ...kit.pictures.contact_sheet import draw_contact_sheet
from ..host.sampler import check_cancel
from ..wires.job import read_job
from ..wires.pictures import are_none, to_image, to_picture
from ..wires.places import check_pasted
from ..wires.rows import take_latent_rows
from .decode_domain import VALUES, decode_picture, explain_left_out

SIDE, MAX_ROWS = 256, 8


class JodiContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiContactSheet",
            display_name="Jodi Contact Sheet",
            category="Jodi",
            description=(
                "One picture with all domains side by side, each with its title; a row for each "
                "picture of the batch. Connect LATENT and VAE, or pictures, or both."
            ),
            inputs=[
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The result of sampling. Domains that are part of the job and have no "
                    "picture connected below are decoded for the sheet.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=("The VAE for decoding (Load Jodi). Only with latent."),
                ),
                *(
                    io.Image.Input(
                        d.name, optional=True, tooltip=f"{d.title} to show, in place of decoding."
                    )
                    for d in DOMAINS
                ),
                io.Int.Input(
                    "side",
                    default=SIDE,
                    min=32,
                    max=2048,
                    step=8,
                    optional=True,
                    tooltip="Pixels of the longer side of each picture on the sheet.",
                ),
                io.Int.Input(
                    "rows",
                    default=MAX_ROWS,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="At most this many pictures of the batch are shown, from the first on.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[io.Image.Output("sheet", "sheet", tooltip="One picture.")],
        )

    @classmethod
    def execute(cls, latent=None, vae=None, side=SIDE, rows=MAX_ROWS, **images):
        if (latent is None) != (vae is None):
            missing = "VAE" if vae is None else "LATENT"
            raise ImageError(f"connect LATENT and VAE together; the {missing} is missing")
        shown = {
            name: to_picture(images[name][:rows], name)
            for name in DOMAIN_NAMES
            if images.get(name) is not None and len(images[name])  # an ignored domain has none
        }
        titles = {d.name: d.title for d in DOMAINS}
        if latent is not None:
            check_pasted(latent["samples"], cls.hidden)
            shown, titles = _with_decoded(latent, vae, shown, titles, rows)
        if not shown:
            raise ImageError("nothing to show; connect pictures, or LATENT and VAE")
        count = max(len(pictures) for pictures in shown.values())
        cells = [
            [
                (titles[name], pictures[min(row, len(pictures) - 1)])
                for name, pictures in shown.items()
                if row < len(pictures) or len(pictures) == 1
            ]
            for row in range(count)
        ]
        return io.NodeOutput(to_image(draw_contact_sheet(cells, side=side)[None]))


def _with_decoded(latent, vae, shown: dict, titles: dict, rows: int) -> tuple[dict, dict]:
    """The pictures to show, in the order of the job's domains, with those decoded that lack one."""
    job = read_job(latent)
    first = take_latent_rows(latent, 0, rows)
    titles = dict(titles)
    pictures = {}
    for index, name in enumerate(job.names):
        role = job.role(index)
        titles.setdefault(name, domains.find_model_domain(name, index).title)
        if role == Role.CONDITION:
            titles[name] += " (given)"
        if name in shown:
            pictures[name] = shown[name]
        elif explain_left_out(first, job, index) is None:
            check_cancel()
            pictures[name] = decode_picture(vae, first, job, index, VALUES[0], False)
    return {**pictures, **{n: p for n, p in shown.items() if n not in pictures}}, titles


class JodiEnsemble(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiEnsemble",
            display_name="Jodi Ensemble",
            category="Jodi",
            description=(
                "Combines several samples of one label, made with different seeds (batch on Jodi "
                "Roles), into one steadier map, and shows where they disagree."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The samples, as a batch of one label."),
                io.Combo.Input(
                    "domain",
                    options=list(DOMAIN_NAMES[1:]),
                    default="depth",
                    tooltip="Which label they are. depth is aligned by scale and offset before "
                    "the mean; normals are averaged as directions; segmentation is decided by "
                    "majority; openpose takes the median; the others the mean.",
                ),
            ],
            outputs=[
                io.Image.Output("image", "image", tooltip="One map, drawn as that label is."),
                io.Mask.Output(
                    "uncertainty",
                    "uncertainty",
                    tooltip="0 where all samples agree. Standard deviation; for normals 1 minus "
                    "the length of the mean direction; for segmentation the share outvoted.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, domain):
        if are_none(images):  # of an ignored domain
            return io.NodeOutput(images, images.masks())
        result = combine(domain, to_picture(images, "images"))
        return io.NodeOutput(to_image(result.picture[None]), result.uncertainty[None])


NODES = [JodiContactSheet, JodiEnsemble]
