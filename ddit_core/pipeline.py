"""One call for each task, from pictures and words to pictures and words.

The text encoder and the VAE come as functions, so that they may be a host's.

Shapes: B rows, H W pixels, z latent channels, h w latent grid, L text tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kit.errors import JodiError, ShapeError
from ..kit.sampling import StepCallback, draw_noise, sample_euler
from ..kit.threads import short_waits
from .model.config import DDiTConfig
from .model.denoiser import SHIFT, make_published_sigmas, prepare_denoiser
from .model.facts import RELEASED, DDiTFacts
from .model.transformer import DDiTTransformer
from .picture import fit_picture
from .text.draft import (
    Draft,
    Tokenizer,
    draft_caption,
    draft_question,
    draft_template,
    tokenize_prompt,
)
from .text.sampler import TextOptions, TextStep, sample_text

HOLE = "_"

# ids (R, L) int64 on the CPU, padded with end tokens and with the mask id at masked places ->
# features (R, L, D). It embeds the mask id by the model's own mask vector.
Encode = Callable[[Tensor], Tensor]


def read_picture_limits(config: DDiTConfig, facts: DDiTFacts = RELEASED) -> dict[str, int]:
    """What sides a network can take, as `picture.fit_picture` asks for it."""
    multiple = facts.vae_factor * config.patch_size
    longest = multiple * config.position_size
    return {"side": facts.native_size, "multiple": multiple, "longest": longest}


@dataclass(frozen=True)
class TextProgress:
    """One finished network evaluation: the texts as far as they are revealed, `_` for the rest."""

    step: int
    steps: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class TextResult:
    """One text for each row; ids (B, L); evaluations of the network for each row."""

    texts: tuple[str, ...]
    ids: Tensor
    evaluations: tuple[int, ...]


class DDiTPipeline:
    """Pictures from prompts; captions, answers and filled blanks from pictures.

    encode: see `Encode`. vae_encode: pictures (B, 3, H, W) in [0, 1] -> latents (B, z, h, w), the
    posterior mean, unscaled. vae_decode: the way back. length: tokens of a text, 256 for the base
    model and 128 for the fine-tuned one; it is part of what the model was trained on; the model's
    own when not given. like: a tensor in the dtype and on the device to compute texts in, where a
    host stores weights otherwise; the weights' own when not given. facts: what the model's file
    says of it.
    """

    def __init__(
        self,
        transformer: DDiTTransformer,
        encode: Encode,
        tokenizer: Tokenizer,
        *,
        vae_encode: Callable[[Tensor], Tensor] | None = None,
        vae_decode: Callable[[Tensor], Tensor] | None = None,
        length: int | None = None,
        like: Tensor | None = None,
        facts: DDiTFacts = RELEASED,
    ):
        head, known = transformer.config.vocab_size, tokenizer.vocabulary.size
        if head != known:
            raise JodiError(
                f"the text head knows {head} tokens, the tokenizer's vocabulary has {known}; use "
                "the tokenizer the model was trained with, T5's for the released model"
            )
        self.transformer, self.encode, self.tokenizer = transformer, encode, tokenizer
        self.vae_encode, self.vae_decode = vae_encode, vae_decode
        self.length = facts.text_length if length is None else length
        self.like, self.facts = like, facts

    @torch.inference_mode()
    def generate(
        self,
        prompt: str | Sequence[str],
        negative: str = "",
        *,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        shift: float = SHIFT,
        seed: int | Sequence[int] = 0,
        length: int | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] from prompts; one prompt may serve a batch.

        The published sampler: Euler, shift 3, 28 steps, guidance 7. size, steps, guidance, length:
        the model's own when not given; length is of each prompt, in tokens. Row i uses seed + i,
        or its own of a list.
        Raises: TextError for a prompt that does not fit; ShapeError; Interrupted when the callback
            stopped it.
        """
        if self.vae_decode is None:
            raise JodiError("pictures need a VAE; pass vae_decode=")
        facts = self.facts
        guidance = facts.guidance if guidance is None else guidance
        length = facts.picture_length if length is None else length
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        rows = len(prompts) if batch is None else batch
        text = self._encode_prompts(prompts, length)
        unguided = self._encode_prompts([negative], length) if guidance > 1 else None
        sigmas = make_published_sigmas(facts.steps if steps is None else steps, shift)
        denoise = prepare_denoiser(
            self.transformer, text, unguided, rows=rows, sigmas=sigmas, guidance=guidance
        )
        sides = size or (facts.native_size, facts.native_size)
        grid = [side // facts.vae_factor for side in sides]
        noise = draw_noise((rows, self.transformer.config.latent_channels, *grid), seed)

        def denoise_step(x: Tensor, sigma: float) -> Tensor:
            with short_waits(text.device):
                return denoise(x, sigma)

        latents = sample_euler(denoise_step, noise.to(text.device), sigmas, callback)
        return self.vae_decode(facts.unscale_latents(latents)).float().clamp(0, 1)

    def caption(self, pictures: Tensor, question: str | None = None, **options) -> TextResult:
        """A caption for each picture.

        question: None lets the model write freely, as the base model was trained; the fine-tuned
        model needs a question, for example `text.draft.CAPTION_QUESTION`. Else as `write`.
        """
        if question is None:
            draft = draft_caption(self.length, self.tokenizer)
        else:
            draft = draft_question(question, self.length, self.tokenizer, short=False)
        return self.write(pictures, [draft], **options)

    def ask(
        self,
        pictures: Tensor,
        questions: str | Sequence[str],
        *,
        short: bool = True,
        answer_tokens: int | None = None,
        **options,
    ) -> TextResult:
        """An answer to each question; one picture may serve all, or one question all pictures.

        short, answer_tokens: see `text.draft.draft_question`. Else as `write`.
        """
        questions = [questions] if isinstance(questions, str) else list(questions)
        form = {"short": short, "answer_tokens": answer_tokens}
        drafts = [draft_question(q, self.length, self.tokenizer, **form) for q in questions]
        return self.write(pictures, drafts, **options)

    def fill(
        self,
        pictures: Tensor,
        templates: str | Sequence[str],
        *,
        blank_tokens: int = 1,
        **options,
    ) -> TextResult:
        """Each template with its blanks filled in, all other words unchanged.

        See `text.draft.draft_template`. Else as `write`.
        """
        templates = [templates] if isinstance(templates, str) else list(templates)
        form = {"blank_tokens": blank_tokens}
        drafts = [draft_template(t, self.length, self.tokenizer, **form) for t in templates]
        return self.write(pictures, drafts, **options)

    @torch.inference_mode()
    def write(
        self,
        pictures: Tensor,
        drafts: Sequence[Draft],
        *,
        whole: bool = False,
        options: TextOptions | None = None,
        seed: int | Sequence[int] = 0,
        callback: Callable[[TextProgress], bool | None] | None = None,
    ) -> TextResult:
        """Drafts filled in from pictures (B, 3, H, W) in [0, 1].

        As many pictures as drafts, or a single picture or draft for all. A picture that is not
        square is cropped to its middle; whole: see `picture.fit_picture`.
        options: how words are drawn. Row i uses seed + i, or its own of a list.
        Raises: ShapeError where the numbers do not match; Interrupted when the callback stopped it.
        """
        if self.vae_encode is None:
            raise JodiError("reading pictures needs a VAE; pass vae_encode=")
        limits = read_picture_limits(self.transformer.config, self.facts)
        fitted = fit_picture(pictures, whole=whole, **limits)
        latents = self.facts.scale_latents(self.vae_encode(fitted))
        return self.write_from_latents(
            latents, drafts, options=options, seed=seed, callback=callback
        )

    @torch.inference_mode()
    def write_from_latents(
        self,
        latents: Tensor,
        drafts: Sequence[Draft],
        *,
        options: TextOptions | None = None,
        seed: int | Sequence[int] = 0,
        callback: Callable[[TextProgress], bool | None] | None = None,
    ) -> TextResult:
        """As `write`, from scaled latents (B, z, h, w)."""
        rows = max(len(latents), len(drafts))
        if {len(latents), len(drafts)} - {1, rows}:
            raise ShapeError(
                f"{len(latents)} pictures came with {len(drafts)} texts; give as many of each, or "
                "one picture or one text for all"
            )
        drafts = list(drafts) * (rows // len(drafts))
        like = self.transformer.context_embedder.weight if self.like is None else self.like
        context = self.transformer.prepare_picture(latents.to(like))

        def predict(ids: Tensor, chosen: Tensor, positions: Tensor) -> Tensor:
            features = self.encode(ids).to(like)
            seen = context.select(chosen.to(like.device))
            with short_waits(like.device):
                return self.transformer.logits(features, seen, positions.to(like.device))

        def read(ids: Tensor, hole: str = "") -> tuple[str, ...]:
            pairs = zip(drafts, ids.tolist(), strict=True)
            return tuple(draft.read(row, self.tokenizer, hole) for draft, row in pairs)

        def report(step: TextStep) -> bool | None:
            assert callback is not None
            return callback(TextProgress(step.step, step.steps, read(step.ids, HOLE)))

        sample = sample_text(
            predict,
            drafts,
            self.tokenizer.vocabulary,
            options,
            seed=seed,
            callback=None if callback is None else report,
        )
        return TextResult(read(sample.ids), sample.ids, sample.evaluations)

    def _encode_prompts(self, prompts: Sequence[str], length: int) -> Tensor:
        ids = [tokenize_prompt(prompt, length, self.tokenizer) for prompt in prompts]
        return self.encode(torch.tensor(ids)).to(self.transformer.context_embedder.weight)
