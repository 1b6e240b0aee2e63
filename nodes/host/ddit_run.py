"""Words of a D-DiT MODEL, inside the host: its memory, its progress, its Cancel.

Shapes: B rows, z latent channels, h w latent grid.
"""

import sys
from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...ddit_core.model.facts import RELEASED
from ...ddit_core.model.transformer import DDiTTransformer
from ...ddit_core.picture import fit_picture
from ...ddit_core.pipeline import DDiTPipeline, TextProgress, read_picture_limits
from ...ddit_core.text.draft import Draft
from ...ddit_core.text.sampler import TextOptions
from ...kit.errors import JodiError
from .ddit_model import DDiTHostModel, ddit_model
from .ddit_text import ddit_text, ddit_tokenizer

ROWS = 8  # rows that are evaluated together; a row is the same in a batch of any size
SHOWN = 4  # rows on the node while it runs


def write_texts(
    model,
    clip,
    vae,
    pictures: Tensor,
    draft: Draft,
    *,
    options: TextOptions,
    seed: int = 0,
    whole: bool = False,
    node_id: str | None = None,
) -> tuple[str, ...]:
    """The draft filled in once for each picture (B, 3, H, W) in [0, 1]; row i uses seed + i.

    Both big models are requested together, once. Partly revealed texts are shown on the node.
    Raises: JodiError for wires of other models, and without a mask vector.
    """
    inner, encoder = ddit_model(model), ddit_text(clip)
    encoder.require_mask_vector()
    check_channels(inner, encoder)
    latents = encode_pictures(inner, vae, pictures, whole)
    network, device = inner.diffusion_model, model.load_device
    assert isinstance(network, DDiTTransformer)

    memory = inner.memory_required([min(ROWS, len(latents)), *latents.shape[1:]])
    comfy.model_management.load_models_gpu([model, clip.patcher], memory_required=memory)
    encoder.set_clip_options({"execution_device": clip.patcher.load_device})
    pipeline = DDiTPipeline(
        network,
        encoder.encode,
        ddit_tokenizer(clip),
        length=len(draft.ids),
        like=torch.empty(0, dtype=inner.compute_dtype, device=device),
        facts=inner.facts,
    )
    parts = latents.split(ROWS)
    report = make_node_progress(node_id, options.steps, len(parts), len(latents))
    texts: list[str] = []
    for index, part in enumerate(parts):
        result = pipeline.write_from_latents(
            part,
            [draft],
            options=options,
            seed=seed + index * ROWS,
            callback=report(index, tuple(texts)),
        )
        texts.extend(result.texts)
    show_text(node_id, _listed(texts))
    return tuple(texts)


def check_channels(inner: DDiTHostModel, encoder) -> None:
    """Pass when the text encoder gives what the network reads. Raises: JodiError."""
    reads = inner.diffusion_model.config.context_channels
    if encoder.channels != reads:
        raise JodiError(
            f"the MODEL reads text of {reads} channels, the text encoder gives {encoder.channels}; "
            "the released D-DiT needs T5-v1.1-XXL, not a smaller T5, and the built-in ddit-nano "
            "its built-in text encoder"
        )


def check_vae(inner: DDiTHostModel, vae) -> None:
    """Pass when the VAE's latents have the channels that the network reads. Raises: JodiError."""
    reads, made = inner.diffusion_model.config.latent_channels, vae.latent_channels
    if made != reads:
        raise JodiError(
            f"the MODEL reads latents of {reads} channels, this VAE makes {made}; choose the VAE "
            "of the same release: built-in with the built-in model, Stable Diffusion 3's with the "
            "released one"
        )


def encode_pictures(inner: DDiTHostModel, vae, pictures: Tensor, whole: bool = False) -> Tensor:
    """Scaled latents (B, z, h, w) of pictures (B, 3, H, W), fitted as the network was trained.

    Raises: JodiError for a VAE of other latents; ImageError for a picture too long to see whole.
    """
    facts, config = inner.facts, inner.diffusion_model.config
    fitted = fit_picture(pictures, whole=whole, **read_picture_limits(config, facts))
    expected = (config.latent_channels, *(side // facts.vae_factor for side in fitted.shape[-2:]))
    wanted = "Stable Diffusion 3" if facts == RELEASED else facts.title
    rows = []
    for picture in fitted.movedim(1, -1).split(1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        latent = vae.encode(picture)
        if tuple(latent.shape[1:]) != expected:
            raise JodiError(
                f"expected the VAE of {wanted}, whose latents of this picture are "
                f"{expected}; this VAE gives {tuple(latent.shape[1:])}. Connect Load D-DiT's"
            )
        rows.append(latent.float())
    return facts.scale_latents(torch.cat(rows))


ReportText = Callable[[TextProgress], None]


def make_node_progress(
    node_id: str | None, steps: int, parts: int, rows: int
) -> Callable[[int, Sequence[str]], ReportText]:
    """Gives a callback for each part of the rows: it moves the bar, shows text, heeds Cancel."""
    bar = comfy.utils.ProgressBar(steps * parts)

    def of_part(index: int, before: Sequence[str]) -> ReportText:
        def report(state: TextProgress) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(index * steps + state.step)
            show_text(node_id, _listed([*before, *state.texts], rows))

        return report

    return of_part


def show_text(node_id: str | None, text: str) -> None:
    """Show a text on the running node, where the host can; else nothing."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    send = getattr(server, "send_progress_text", None)
    if send is not None and node_id is not None:
        send(text, node_id)


def _listed(texts: Sequence[str], rows: int | None = None) -> str:
    """The last texts, numbered where there are several."""
    total = len(texts) if rows is None else rows
    if total == 1:
        return texts[0]
    first = max(0, len(texts) - SHOWN)
    return "\n".join(f"{first + i + 1}/{total}: {t}" for i, t in enumerate(texts[first:]))
