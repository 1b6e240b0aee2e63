"""The linear diffusion transformer over an image and its label maps.

Attribute names are the keys of the released checkpoint. Only domains with role GENERATE or
CONDITION become tokens: an ignored domain's keys are zero in the published code and nothing else
crosses domains, so leaving it out is exact.
Source: arXiv 2505.19084; github VIPL-GENUN/Jodi @ c21bdcb (Apache-2.0), model/nets/jodi.py.

Shapes: B rows, L domains, A active domains, T tokens per domain, C width, S text tokens,
z latent channels, h w latent grid.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ...kit.errors import RoleError, ShapeError
from ..roles import Role
from .attention import TextKeys, TwoKeys
from .blocks import FinalLayer, JodiBlock
from .config import TransformerConfig
from .context import PreparedContext, group_rows, merge_equal_tokens, select_text
from .embeddings import CaptionEmbedder, PatchEmbed, TimestepEmbedder, make_position_table
from .text_cache import TextCache


class JodiTransformer(nn.Module):
    """Velocity of every generated domain, given conditions and text.

    `prepare` computes once what does not change over sampling steps; `velocity` does one
    evaluation. `forward` is the two together.
    """

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.config = config
        kwargs = {"operations": operations, "device": device, "dtype": dtype}
        tensor = {"device": device, "dtype": dtype}
        width, domains = config.hidden_size, config.num_domains

        self.domain_embedding = nn.Parameter(torch.empty(domains, width, **tensor))
        self.x_embedders = nn.ModuleList(PatchEmbed(config, **kwargs) for _ in range(domains))
        self.t_embedder = TimestepEmbedder(width, config.frequency_size, **kwargs)
        self.t_block = nn.Sequential(nn.SiLU(), operations.Linear(width, 6 * width, **tensor))
        self.y_embedder = CaptionEmbedder(config, **kwargs)
        self.attention_y_norm = self.y_embedder.make_norm(config, **tensor)
        self.role_embedder = operations.Embedding(3, width, **tensor)
        self.role_block = nn.Sequential(nn.SiLU(), operations.Linear(width, 6 * width, **tensor))
        blocks = nn.ModuleList(JodiBlock(config, **kwargs) for _ in range(config.depth))
        self.blocks = cast(Sequence[JodiBlock], blocks)
        layers = nn.ModuleList(FinalLayer(config, **kwargs) for _ in range(domains))
        self.final_layers = cast(Sequence[FinalLayer], layers)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        caption: Tensor | None,
        caption_mask: Tensor | None,
        role: Tensor,
        clean_x: Tensor | None = None,
        *,
        round_timestep: bool = False,
    ) -> Tensor:
        """One evaluation from scratch.

        Shapes: x and clean_x (B, L, z, h, w); timestep (B,) in 0..1000; caption (B, 1, S, Cc);
        caption_mask (B, S), 1 keeps; role (B, L) int -> velocity (B, L, z, h, w), zero in slots
        that are not generated.
        """
        context = self.prepare(
            role, caption, caption_mask, clean_x, like=x, round_timestep=round_timestep
        )
        return self._evaluate(x, self._embed_time(timestep, context, x), context)[0]

    def prepare(
        self,
        role: Tensor,
        caption: Tensor | None,
        caption_mask: Tensor | None,
        clean_x: Tensor | None,
        *,
        like: Tensor,
        second_text: tuple[Tensor, Tensor | None] | None = None,
        sigmas: list[float] | None = None,
        round_timestep: bool = False,
        cache: TextCache | None = None,
    ) -> PreparedContext:
        """Everything that stays constant over the steps of one job.

        Shapes: as for `forward`; caption and caption_mask may have one row for all, and may be
        None when the image is a condition in every row (the published model then reads only its
        null text). like: a tensor with the job's latent shape (B, L, z, h, w), dtype and device.
        second_text: another caption and mask, for `velocities` to evaluate beside the first.
        cache: keeps prepared texts from job to job; for frozen weights only.
        sigmas: the schedule, if known, so that its time vectors are computed in one go.
        round_timestep: round the network's time to bfloat16, as the released pipeline does.
        Raises: ShapeError for tensors that do not fit; RoleError for a condition without clean_x,
        a row that generates nothing or a number that is no role; TextError where a row reads text
        and no text is given.
        """
        role = self._check_roles(role, like, clean_x)
        grid = self._check_grid(like)
        position = make_position_table(self.config, grid).to(like.dtype).to(like.device)
        groups = []
        for rows, pattern in group_rows(role):
            generated = [i for i, r in enumerate(pattern) if r == Role.GENERATE]
            conditions = [i for i, r in enumerate(pattern) if r == Role.CONDITION]
            active = generated + conditions
            role_vector = self._embed_roles(pattern, active, like)
            condition_tokens = None
            if conditions:
                assert clean_x is not None  # or _check_roles had raised
                given = clean_x[rows].to(like)
                condition_tokens = self._embed(given, conditions, position)
            if pattern[0] == Role.CONDITION:
                texts = [self._read_null_text(like)]
            else:
                texts = [
                    self._select_text_tokens(*text, rows, like)
                    for text in ((caption, caption_mask), second_text)
                    if text is not None
                ]
            groups.append(
                PreparedContext.Group(
                    rows=rows,
                    generated=generated,
                    conditions=conditions,
                    role_vector=role_vector,
                    role_modulation=self.role_block(role_vector).unflatten(-1, (6, -1)),
                    condition_tokens=condition_tokens,
                    texts=list(zip(*(self._prepare_text(*t, cache) for t in texts), strict=True)),
                )
            )
        context = PreparedContext(
            groups=groups,
            shape=tuple(like.shape),
            texts=1 if second_text is None else 2,
            grid=grid,
            position=position,
            round_timestep=round_timestep,
        )
        if sigmas:
            values = torch.tensor(sigmas, dtype=torch.float64) * 1000
            t, modulation = self._embed_time(values, context, position)
            for i, sigma in enumerate(sigmas):
                context.times[float(sigma)] = t[i : i + 1], modulation[i : i + 1]
        return context

    def velocity(self, x: Tensor, sigma: float | Tensor, context: PreparedContext) -> Tensor:
        """One network evaluation: velocity = noise - clean at noise level sigma.

        Shapes: x (B, L, z, h, w); sigma a float or (B,) in [0, 1] -> (B, L, z, h, w), zero in
        slots that are not generated. Slots of conditions and ignored domains in x are not read.
        Raises: ShapeError when x or sigma is not of the size the context was prepared for.
        """
        return self.velocities(x, sigma, context)[0]

    def velocities(
        self, x: Tensor, sigma: float | Tensor, context: PreparedContext
    ) -> tuple[Tensor, ...]:
        """`velocity` for each text of the context, in one pass.

        Everything before the first cross-attention is computed once for all texts. Rows that are
        given the image read no prompt, so their result is computed once and stands for each text.
        """
        return self._evaluate(x, self._find_time(sigma, context, x), context)

    def _evaluate(self, x: Tensor, times: tuple[Tensor, Tensor], context) -> tuple[Tensor, ...]:
        if tuple(x.shape) != context.shape:
            raise ShapeError(
                f"the context was prepared for latents {context.shape}, got {tuple(x.shape)}; "
                "prepare one for this shape"
            )
        if len(times[0]) not in (1, len(x)):
            raise ShapeError(
                f"{len(times[0])} noise levels came for {len(x)} rows; give one, or one per row"
            )
        out = x.new_zeros(context.texts, *x.shape)
        for group in context.groups:
            rows = slice(None) if len(context.groups) == 1 else group.rows
            t, t_modulation = (v if len(v) == 1 else v[rows] for v in times)
            prediction = self._run_group(x[rows], t, t_modulation, group, context)
            for slot, index in enumerate(group.generated):
                out[:, rows, index] = prediction[slot]
        return out.unbind()

    def _run_group(self, x, t, t_modulation, group, context) -> Tensor:
        """Rows (R, L, z, h, w) -> generated domains, texts or 1, (G, V, R, z, h, w)."""
        tokens = self._embed(x, group.generated, context.position)
        if group.condition_tokens is not None:
            tokens = torch.cat([tokens, group.condition_tokens], dim=1)
        texts = len(group.texts[0])
        for i, block in enumerate(self.blocks):
            tokens = block(
                tokens,
                t_modulation,
                group.role_modulation,
                group.texts[i],
                context.grid,
                spread=i == 0,
                # Conditions feed only keys and values of the last block: nothing reads them after.
                keep=len(group.generated) if i + 1 == len(self.blocks) else None,
            )
            if i == 0 and len(t) > 1:  # one noise level a row, and now one row for each text
                t, t_modulation = t.repeat(texts, 1), t_modulation.repeat(texts, 1, 1)
        patches = [
            self.final_layers[index](tokens[:, slot], t + group.role_vector[slot])
            for slot, index in enumerate(group.generated)
        ]
        return rearrange(
            torch.stack(patches),
            "domain (text row) (i j) (p q z) -> domain text row z (i p) (j q)",
            text=texts,
            i=context.grid[0],
            p=self.config.patch_size,
            q=self.config.patch_size,
        )

    def _embed(self, x: Tensor, domains: list[int], position: Tensor) -> Tensor:
        """Latents (B, L, z, h, w) of the named domains -> tokens (B, len(domains), T, C)."""
        return torch.stack([self.x_embedders[i](x[:, i]) for i in domains], dim=1) + position

    def _embed_roles(self, pattern: tuple[int, ...], active: list[int], like: Tensor) -> Tensor:
        """Sum of role and domain embeddings of the active domains, (A, C)."""
        ids = torch.tensor([pattern[i] for i in active], device=like.device)
        roles = self.role_embedder(ids).to(like)
        return roles + self.domain_embedding.to(like)[active]

    def _read_null_text(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Null text for rows whose image is given: features (1, S, Cc) and a bias or None."""
        null = self.y_embedder.y_embedding.to(like)[None]
        return merge_equal_tokens(null, null.new_ones(null.shape[:2], dtype=torch.bool))

    def _select_text_tokens(self, caption, mask, rows, like) -> tuple[Tensor, Tensor | None]:
        """The tokens of a group's text that count, (R or 1, S, Cc), and a bias or None."""
        features, keep = select_text(caption, mask, rows, len(like), like)
        if features.shape[-1] != self.config.caption_channels:
            raise ShapeError(
                f"text features have {features.shape[-1]} channels, this model reads "
                f"{self.config.caption_channels}; use the text encoder it was trained with"
            )
        return merge_equal_tokens(features, keep)

    def _prepare_text(
        self, features, bias, cache: TextCache | None
    ) -> Sequence[TextKeys | TwoKeys]:
        """What every block keeps of a text."""

        def read():
            text = self.attention_y_norm(self.y_embedder(features))
            return [block.cross_attn.prepare(text, bias) for block in self.blocks]

        return read() if cache is None else cache.get((features, bias), read)

    def _find_time(self, sigma: float | Tensor, context, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(sigma, Tensor):
            # Half precision has too few digits for the product with the time.
            time = sigma.to(torch.promote_types(sigma.dtype, torch.float32)) * 1000
        else:
            known = context.times.get(float(sigma))
            if known is not None:
                return known
            time = torch.tensor([sigma], dtype=torch.float64) * 1000
        return self._embed_time(time, context, x)

    def _embed_time(self, time: Tensor, context, like: Tensor) -> tuple[Tensor, Tensor]:
        """Time on 0..1000, (R,) or () -> raw vectors (R, C) and modulation (R, 6, C)."""
        wide = torch.promote_types(like.dtype, torch.float32)
        time = time.reshape(-1).to(wide).to(like.device)
        if context.round_timestep:
            time = time.bfloat16().to(wide)
        t = self.t_embedder(time, like.dtype)
        return t, self.t_block(t).unflatten(-1, (6, -1))

    def _check_grid(self, like: Tensor) -> tuple[int, int]:
        p = self.config.patch_size
        h, w = like.shape[-2:]
        if h % p or w % p:
            raise ShapeError(
                f"the latent grid {h}x{w} must be a multiple of the patch size {p} on both sides"
            )
        return h // p, w // p

    def _check_roles(self, role: Tensor, like: Tensor, clean_x: Tensor | None) -> Tensor:
        domains = self.config.num_domains
        expected = (domains, self.config.latent_channels)
        if like.dim() != 5 or tuple(like.shape[1:3]) != expected:
            raise ShapeError(
                f"latents must be (batch, {domains} domains, {self.config.latent_channels} "
                f"channels, h, w), got {tuple(like.shape)}"
            )
        if role.dim() == 1:
            role = role.unsqueeze(0)
        if role.shape[-1] != domains:
            raise RoleError(
                f"roles name {role.shape[-1]} domains, the model has {domains}; give one role each"
            )
        if role.dim() != 2 or role.shape[0] not in (1, like.shape[0]):
            raise RoleError(
                f"roles {tuple(role.shape)} do not fit a batch of {like.shape[0]}; give one row of "
                "roles, or one per row of the batch"
            )
        if not torch.isin(role, role.new_tensor([*Role])).all():
            raise RoleError(
                "a role is 0 (generate), 1 (condition) or 2 (ignore); got another value"
            )
        role = role.long().expand(like.shape[0], -1)
        if not ((role == Role.GENERATE).any(1)).all():
            raise RoleError("every row must generate at least one domain; set a role to generate")
        if clean_x is None and (role == Role.CONDITION).any():
            raise RoleError("a domain has the role condition but no clean latent was given for it")
        if clean_x is not None and clean_x.shape != like.shape:
            raise ShapeError(
                f"clean latents {tuple(clean_x.shape)} must have the shape of the noisy ones "
                f"{tuple(like.shape)}"
            )
        return role


def init_weights(model: JodiTransformer, seed: int) -> None:
    """Fresh weights for training: Xavier matrices, small tables; output heads and the ungated
    text branch start at zero.

    The published code draws its time, text and role layers from N(0, 0.02^2) and its output heads
    by Xavier (github VIPL-GENUN/Jodi @ c21bdcb, Jodi.initialize); only the role layers do so here.
    """
    generator = torch.Generator().manual_seed(seed)
    width = model.config.hidden_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "scale_shift_table" in name:
                p.normal_(0, 1 / math.sqrt(width), generator=generator)
            elif name.endswith("attention_y_norm.weight"):
                p.fill_(1.0)
            elif "role_embedder" in name or "domain_embedding" in name or "role_block" in name:
                p.normal_(0, 0.02, generator=generator) if p.dim() > 1 else p.zero_()
            elif "final_layers" in name or "cross_attn.proj" in name or p.dim() == 1:
                p.zero_()
            elif "depth_conv" in name:
                p.uniform_(-1 / 3, 1 / 3, generator=generator)
            else:
                bound = math.sqrt(6 / (p.shape[0] + p[0].numel()))
                p.uniform_(-bound, bound, generator=generator)
