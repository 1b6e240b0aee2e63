"""One job of Jodi Roles, encoded by the host's VAE."""

from collections.abc import Iterator

from ..host.sampler import (
    check_cancel,
    encode_domain,
    make_null_text,
    progress,
    read_model_facts,
    read_vae_facts,
)
from ..wires.request import Request, build


def build_job(model, vae, request: Request) -> tuple[list, list, dict, str]:
    """positive and negative CONDITIONING, LATENT and a summary for people.

    Raises: RoleError, ShapeError, ImageError or JodiError saying what to connect or set.
    """
    return build(
        request,
        read_model_facts(model),
        read_vae_facts(vae),
        encode=lambda pictures: encode_domain(vae, pictures),
        null_text=lambda: make_null_text(model),
        watched=_watched,
    )


def _watched(work: list) -> Iterator:
    """The parts of a work, with the node's progress bar; Cancel is heeded before each."""
    bar = progress(max(1, len(work)))
    for part in work:
        check_cancel()
        yield part
        bar.update(1)
