"""Sampled latents to pictures: one domain, or all of them."""

import logging

from comfy_api.latest import io

from ...jodi_core.domains import DOMAIN_NAMES, DOMAINS, Domain
from ...jodi_core.roles import Role
from ..host.sampler import block_output, check_cancel, progress, read_vae_facts
from ..wires.job import LatentJob, read_job
from ..wires.pictures import NoPictures, to_image, to_mask
from ..wires.places import check_pasted
from .decode_domain import (
    VALUES,
    check_active,
    decode_picture,
    explain_ignored,
    explain_left_out,
    knows_original,
)

log = logging.getLogger("jodi")


def _shared_inputs() -> list:
    return [
        io.Combo.Input(
            "values",
            options=list(VALUES),
            default=VALUES[0],
            optional=True,
            tooltip="as published: depth stretched to black and white, normals "
            "of unit length, classes in their exact colours. raw: what the decoder made, for "
            "Jodi Depth to stretch over a whole batch or a range of your own.",
        ),
        io.Boolean.Input(
            "original_frame",
            default=False,
            optional=True,
            tooltip="Put the maps back in the size and place of the picture they were made from. "
            "What was cropped away repeats the border; classes keep their exact colours.",
        ),
        io.Int.Input(
            "tile",
            default=0,
            min=0,
            max=8192,
            step=64,
            optional=True,
            tooltip="Decode in tiles of this many pixels. 0 decodes whole and only tiles when "
            "memory runs out.",
        ),
    ]


def _wire_inputs() -> list:
    return [
        io.Latent.Input("latent", tooltip="The result of Jodi Sampler, KSampler or SamplerCustom."),
        io.Vae.Input("vae", tooltip="The VAE that Jodi Roles used (Load Jodi)."),
    ]


class JodiDecodeLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiDecodeLabel",
            display_name="Jodi Decode Label",
            category="Jodi",
            description="Decodes one domain; the others cost nothing.",
            inputs=[
                *_wire_inputs(),
                io.Combo.Input(
                    "domain",
                    options=list(DOMAIN_NAMES),
                    default="depth",
                    tooltip=(
                        "Which domain to decode. An ignored domain is an error that says which "
                        "role to change."
                    ),
                ),
                *_shared_inputs(),
                io.String.Input(
                    "other_domain",
                    default="",
                    optional=True,
                    tooltip="Name of a domain beyond the eight, of an extended model; it takes "
                    "the place of the choice above. Leave empty otherwise.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Image.Output("image", "image", tooltip="The picture or map, float32."),
                io.Mask.Output(
                    "mask",
                    "mask",
                    tooltip="The map as a mask: its brightness; for segmentation, where any class "
                    "was found.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, latent, vae, domain, values=VALUES[0], original_frame=False, tile=0, other_domain=""
    ):
        job = read_job(latent)
        check_pasted(latent["samples"], cls.hidden)
        index = job.index(other_domain.strip() or domain)
        kind = check_active(latent, job, index).kind
        original = original_frame and knows_original(job)
        picture = decode_picture(vae, latent, job, index, values, original, tile)
        return io.NodeOutput(to_image(picture), to_mask(picture, kind))


class JodiDecodeAll(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiDecodeAll",
            display_name="Jodi Decode All",
            category="Jodi",
            description=(
                "Decodes every domain that is part of the job. The socket of an ignored domain "
                "gives no pictures: a sheet leaves it out, and nothing of it is saved or shown."
            ),
            inputs=[
                *_wire_inputs(),
                *_shared_inputs(),
                io.Boolean.Input(
                    "given",
                    default=True,
                    optional=True,
                    tooltip="Also decode the domains that were given. Off saves their time when "
                    "only the generated ones are wanted.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[
                io.Image.Output(d.name, d.name, tooltip=f"{d.title}: {d.description}.")
                for d in DOMAINS
            ],
        )

    @classmethod
    def execute(cls, latent, vae, values=VALUES[0], original_frame=False, tile=0, given=True):
        job = read_job(latent)
        check_pasted(latent["samples"], cls.hidden)
        original = original_frame and knows_original(job)
        reasons = {d.name: _reason(latent, job, d, given) for d in DOMAINS}
        bar = progress(max(1, sum(not reason for reason, _ in reasons.values())))
        outputs = []
        for name, (reason, chosen) in reasons.items():
            if chosen:
                log.info("%s; its socket gives no pictures", reason)
                outputs.append(_no_pictures(vae, latent))
                continue
            if reason is not None:
                outputs.append(block_output(reason))
                continue
            check_cancel()
            picture = decode_picture(vae, latent, job, job.index(name), values, original, tile)
            outputs.append(to_image(picture))
            bar.update(1)
        return io.NodeOutput(*outputs)


def _reason(latent, job: LatentJob, domain: Domain, given: bool) -> tuple[str | None, bool]:
    """Why a domain is not decoded, or None; and whether the user chose so."""
    if domain.name not in job.names:
        return f"the model has no domain {domain.name}; it has {', '.join(job.names)}", True
    index = job.names.index(domain.name)
    reason = explain_left_out(latent, job, index)
    if reason is None and job.role(index) == Role.CONDITION and not given:
        return f"{domain.name} was given, not made, and given is off on Jodi Decode All", True
    return reason, reason == explain_ignored(domain)


def _no_pictures(vae, latent) -> NoPictures:
    height, width = (side * read_vae_facts(vae).factor for side in latent["samples"].shape[-2:])
    return NoPictures.of(height, width)


NODES = [JodiDecodeLabel, JodiDecodeAll]
