"""The dual diffusion transformer: velocity of a noisy picture, or words of a clean one.

Attribute names are the keys of the released checkpoint. `forward` is the plain network with both
heads. Each task has exact methods of its own, which leave out what the task does not read and keep
what does not change from step to step:

    context = model.prepare_text(prompt, negative, rows=1, sigmas=sigmas)
    velocity, unguided = model.velocities(x, sigma, context)       # text to image

    context = model.prepare_picture(latents)
    logits = model.logits(text_features, context, positions)       # captions and answers

Source: arXiv 2501.00289; github zijieli-Jlee/Dual-Diffusion @ bbf06bf (MIT), sd3_model.py.

Shapes: B rows, z latent channels, h w latent grid, T image tokens, L text tokens, P of these that
are asked for, C width, D channels of the text encoder, V vocabulary.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...kit.errors import ShapeError
from .blocks import JointBlock, Read, layer_norm
from .config import DDiTConfig
from .context import Modulations, PictureContext, TextContext
from .embeddings import Modulation, PatchEmbed, TimeEmbedding

TEXT_MODE_TIME = 0.0  # the picture is clean; how much of the text is masked is not told


class DDiTTransformer(nn.Module):
    """Two streams of tokens, image and text, and a head for each."""

    def __init__(self, config: DDiTConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.config = config
        kwargs = {"operations": operations, "device": device, "dtype": dtype}
        tensor = {"device": device, "dtype": dtype}
        width, p = config.hidden_size, config.patch_size

        self.null_image_embd = nn.Parameter(torch.empty(1, config.null_tokens, width, **tensor))
        self.pos_embed = PatchEmbed(config, **kwargs)
        self.time_text_embed = TimeEmbedding(config, **kwargs)
        self.context_embedder = operations.Linear(config.context_channels, width, **tensor)
        blocks = nn.ModuleList(JointBlock(config, **kwargs) for _ in range(config.depth))
        self.transformer_blocks = cast(Sequence[JointBlock], blocks)
        self.image_norm_out = Modulation(width, 2, **kwargs)
        self.image_proj_out = operations.Linear(width, p * p * config.latent_channels, **tensor)
        self.text_proj_out = operations.Linear(width, config.vocab_size, **tensor)

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and logits, from scratch, with nothing left out.

        Shapes: x (B, z, h, w); timestep (B,) in 0..1000; text (B, L, D), features of the text
        encoder -> velocity (B, z, h, w) and logits (B, L, V).
        Raises: ShapeError for tensors that do not fit.
        """
        image = self.pos_embed(x)
        stream = self._text_stream(text, len(x), x)
        mods = self.modulations(timestep, x)
        for block, (image_mod, text_mod) in zip(self.transformer_blocks, mods.blocks, strict=True):
            image, stream = block(image, stream, image_mod, text_mod)
        return self._velocity(image, mods, x), self.text_proj_out(layer_norm(stream))

    # Text to image

    def prepare_text(
        self,
        *texts: Tensor,
        rows: int | None = None,
        sigmas: Sequence[float] = (),
        like: Tensor | None = None,
    ) -> TextContext:
        """What stays constant over the steps of one picture job.

        texts: features (B or 1, L, D), several of one length where `velocities` shall evaluate
        them beside each other (prompt, then negative prompt). rows: of the pictures; the texts'
        own when not given. sigmas: noise levels whose modulation is wanted in one go. like: a
        tensor in the dtype and on the device to compute in; the texts' own when not given.
        Raises: ShapeError for features that do not fit.
        """
        if not texts or len({t.shape[1:] for t in texts}) != 1:
            raise ShapeError(
                "texts that are evaluated together must be of one length, got "
                f"{[tuple(t.shape) for t in texts]}; pad each with the end token to the full length"
            )
        like = texts[0] if like is None else like
        rows = max(len(t) for t in texts) if rows is None else rows
        known = [float(s) for s in sigmas]
        times = torch.tensor(known, dtype=torch.float64) * 1000
        return TextContext(
            text=torch.cat([self._text_stream(t, rows, like) for t in texts]),
            rows=rows,
            texts=len(texts),
            known={sigma: i for i, sigma in enumerate(known)},
            modulations=self.modulations(times, like) if known else None,
        )

    def velocity(self, x: Tensor, sigma: float | Tensor, context: TextContext) -> Tensor:
        """One evaluation for the context's first text: velocity = noise - clean.

        Shapes: x (B, z, h, w); sigma a float or (B,) in [0, 1] -> (B, z, h, w).
        Raises: ShapeError when x or sigma is not of the size the context was prepared for.
        """
        return self.velocities(x, sigma, context)[0]

    def velocities(
        self, x: Tensor, sigma: float | Tensor, context: TextContext
    ) -> tuple[Tensor, ...]:
        """`velocity` for each text of the context, in one pass.

        The image stream as far as the first look at the text is computed once for all texts; the
        text stream ends with the last keys and values that the image reads.
        """
        if len(x) != context.rows:
            raise ShapeError(
                f"the context was prepared for {context.rows} rows, got {len(x)}; prepare one for "
                "this batch"
            )
        mods = self._modulations_at(sigma, context, x)
        image, last = self.pos_embed(x), len(self.transformer_blocks) - 1
        read = self._first_read(image, mods)
        if read is not None and context.texts > 1:
            q, k, v = (part.repeat(context.texts, 1, 1, 1) for part in read)
            read = q, k, v
        image, mods = image.repeat(context.texts, 1, 1), mods.repeated(context.texts)
        text = context.text.to(image)
        for i, (block, pair) in enumerate(zip(self.transformer_blocks, mods.blocks, strict=True)):
            if i < last:
                image, text = block(image, text, *pair, read if i == 0 else None)
            else:
                image = block.image_only(image, text, *pair)
        return self._velocity(image, mods, x).unflatten(0, (context.texts, -1)).unbind()

    # Captions and answers

    def prepare_picture(self, latents: Tensor) -> PictureContext:
        """What stays constant over the steps of one text job.

        latents: clean and scaled, (B, z, h, w). The modulation of every block (time is always 0),
        the image tokens, and their queries, keys and values in the first block.
        Raises: ShapeError for latents that do not fit.
        """
        time = torch.full((1,), TEXT_MODE_TIME, device=latents.device)
        mods = self.modulations(time, latents, image_head=False)
        image = self.pos_embed(latents)
        return PictureContext(mods, image, self._first_read(image, mods))

    def logits(self, text: Tensor, context: PictureContext, positions: Tensor) -> Tensor:
        """Logits of the words at `positions` only.

        Shapes: text (B, L, D), features of the partly masked text; positions (B, P) int; a context
        of B pictures, or of one for all rows -> (B, P, V) in the text's dtype.
        Raises: ShapeError for tensors that do not fit.
        """
        image = context.image
        stream = self._text_stream(text, len(text), image)
        if len(image) not in (1, len(text)) or len(positions) != len(text):
            raise ShapeError(
                f"{len(text)} texts came with {len(positions)} rows of positions, for "
                f"{len(image)} pictures; give one row of each, or one picture for all"
            )
        context = context.expanded(len(text))
        image, last = context.image, len(self.transformer_blocks) - 1
        for i, block in enumerate(self.transformer_blocks):
            pair = context.modulations.blocks[i]
            if i < last:
                image, stream = block(image, stream, *pair, context.read if i == 0 else None)
            else:
                stream = block.text_only(image, stream, *pair, positions)
        return self.text_proj_out(layer_norm(stream))

    # Both

    def modulations(
        self, timestep: Tensor, like: Tensor, *, image_head: bool = True
    ) -> Modulations:
        """Shift, scale and gate of every block for times (N,) in 0..1000, and of the image head."""
        time = self.time_text_embed(timestep.to(like.device), like.dtype)
        blocks = [(b.norm1(time), b.norm1_context(time)) for b in self.transformer_blocks]
        return Modulations(blocks, self.image_norm_out(time) if image_head else None)

    def _modulations_at(self, sigma: float | Tensor, context: TextContext, x: Tensor):
        if not isinstance(sigma, Tensor):
            index = context.known.get(float(sigma))
            if index is not None and context.modulations is not None:
                return context.modulations.row(index)
            sigma = torch.tensor([sigma], dtype=torch.float64)
        # Half precision has too few digits to be multiplied into a time.
        sigma = sigma.reshape(-1).to(torch.promote_types(sigma.dtype, torch.float32))
        if len(sigma) not in (1, len(x)):
            raise ShapeError(
                f"{len(sigma)} noise levels came for {len(x)} rows; give one, or one per row"
            )
        return self.modulations(sigma * 1000, x)

    def _first_read(self, image: Tensor, mods: Modulations) -> Read | None:
        """The first block's queries, keys and values of the image; None in a single-block model."""
        if len(self.transformer_blocks) == 1:
            return None
        return self.transformer_blocks[0].read_image(image, mods.blocks[0][0])

    def _text_stream(self, text: Tensor, rows: int, like: Tensor) -> Tensor:
        """Features (B or 1, L, D) -> tokens (rows, L, C)."""
        channels = self.config.context_channels
        if text.dim() != 3 or text.shape[-1] != channels or len(text) not in (1, rows):
            raise ShapeError(
                f"text features must be ({rows} or 1 rows, tokens, {channels} channels), got "
                f"{tuple(text.shape)}; use the features of the text encoder it was trained with, "
                "T5-v1.1-XXL for the released model"
            )
        return self.context_embedder(text.to(like)).expand(rows, -1, -1)

    def _velocity(self, image: Tensor, mods: Modulations, like: Tensor) -> Tensor:
        """Image tokens (B, T, C) -> velocity (B, z, h, w). The head scales first, then shifts."""
        assert mods.image_head is not None
        scale, shift = mods.image_head.split(1, dim=1)
        tokens = self.image_proj_out(torch.addcmul(shift, layer_norm(image), 1 + scale))
        p, z, (rows, columns) = (
            self.config.patch_size,
            self.config.latent_channels,
            self.pos_embed.grid(like),
        )
        patches = tokens.reshape(len(image), rows, columns, p, p, z)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(image), z, rows * p, columns * p)
