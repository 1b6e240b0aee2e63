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
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch
from .attention import JointLinearAttention, TextCrossAttention
from .config import TransformerConfig
from .context import PreparedContext, group_rows, select_text
from .embeddings import CaptionEmbedder, PatchEmbed, TimestepEmbedder, position_table
from .errors import RoleError, ShapeError
from .layers import depthwise_glu_conv, pointwise_conv
from .roles import Role


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
        self.attention_y_norm = self.y_embedder.norm_of(config, **tensor)
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
        return self._evaluate(x, self._time_vectors(timestep, context, x), context)

    def prepare(
        self,
        role: Tensor,
        caption: Tensor | None,
        caption_mask: Tensor | None,
        clean_x: Tensor | None,
        *,
        like: Tensor,
        sigmas: list[float] | None = None,
        round_timestep: bool = False,
    ) -> PreparedContext:
        """Everything that stays constant over the steps of one job.

        Shapes: as for `forward`; caption and caption_mask may have one row for all, and may be
        None when the image is a condition in every row (the published model then reads only its
        null text). like: a tensor with the job's latent shape (B, L, z, h, w), dtype and device.
        sigmas: the schedule, if known, so that its time vectors are computed in one go.
        round_timestep: round the network's time to bfloat16, as the released pipeline does.
        Raises: ShapeError for tensors that do not fit; RoleError for a condition without clean_x,
        a row that generates nothing or a number that is no role; TextError where a row reads text
        and none is given.
        """
        role = self._checked_roles(role, like, clean_x)
        grid = self._token_grid(like)
        position = position_table(self.config, grid).to(like.dtype).to(like.device)
        groups = []
        for rows, pattern in group_rows(role):
            generated = [i for i, r in enumerate(pattern) if r == Role.GENERATE]
            conditions = [i for i, r in enumerate(pattern) if r == Role.CONDITION]
            active = generated + conditions
            role_vector = self._role_vectors(pattern, active, like)
            condition_tokens = None
            if conditions:
                assert clean_x is not None  # or _checked_roles had raised
                given = clean_x[rows].to(like)
                condition_tokens = self._embed(given, conditions, position)
            text, bias = self._prepare_text(rows, pattern, caption, caption_mask, like)
            groups.append(
                PreparedContext.Group(
                    rows=rows,
                    generated=generated,
                    conditions=conditions,
                    role_vector=role_vector,
                    role_modulation=self.role_block(role_vector).unflatten(-1, (6, -1)),
                    condition_tokens=condition_tokens,
                    text=[block.cross_attn.keys_values(text) for block in self.blocks],
                    text_bias=bias,
                )
            )
        context = PreparedContext(
            groups=groups,
            shape=tuple(like.shape),
            grid=grid,
            position=position,
            round_timestep=round_timestep,
        )
        if sigmas:
            values = torch.tensor(sigmas, dtype=torch.float64) * 1000
            t, modulation = self._time_vectors(values, context, position)
            for i, sigma in enumerate(sigmas):
                context.times[float(sigma)] = t[i : i + 1], modulation[i : i + 1]
        return context

    def velocity(self, x: Tensor, sigma: float | Tensor, context: PreparedContext) -> Tensor:
        """One network evaluation: velocity = noise - clean at noise level sigma.

        Shapes: x (B, L, z, h, w); sigma a float or (B,) in [0, 1] -> (B, L, z, h, w), zero in
        slots that are not generated. Slots of conditions and ignored domains in x are not read.
        Raises: ShapeError when x or sigma is not of the size the context was prepared for.
        """
        return self._evaluate(x, self._times(sigma, context, x), context)

    def _evaluate(self, x: Tensor, times: tuple[Tensor, Tensor], context) -> Tensor:
        if tuple(x.shape) != context.shape:
            raise ShapeError(
                f"the context was prepared for latents {context.shape}, got {tuple(x.shape)}; "
                "prepare one for this shape"
            )
        if len(times[0]) not in (1, len(x)):
            raise ShapeError(
                f"{len(times[0])} noise levels came for {len(x)} rows; give one, or one per row"
            )
        out = torch.zeros_like(x)
        for group in context.groups:
            rows = slice(None) if len(context.groups) == 1 else group.rows
            t, t_modulation = (v if len(v) == 1 else v[rows] for v in times)
            prediction = self._run_group(x[rows], t, t_modulation, group, context)
            for slot, index in enumerate(group.generated):
                out[rows, index] = prediction[slot]
        return out

    def _run_group(self, x, t, t_modulation, group, context) -> list[Tensor]:
        tokens = self._embed(x, group.generated, context.position)
        if group.condition_tokens is not None:
            tokens = torch.cat([tokens, group.condition_tokens], dim=1)
        count = len(group.generated)
        for i, block in enumerate(self.blocks):
            # Conditions feed only keys and values of the last block: nothing reads them after it.
            keep = count if i + 1 == len(self.blocks) else None
            tokens = block(
                tokens,
                t_modulation,
                group.role_modulation,
                group.text[i],
                group.text_bias,
                context.grid,
                keep,
            )
        results = []
        for slot, index in enumerate(group.generated):
            out = self.final_layers[index](tokens[:, slot], t + group.role_vector[slot])
            results.append(self._unpatchify(out, context.grid))
        return results

    def _embed(self, x: Tensor, domains: list[int], position: Tensor) -> Tensor:
        """Latents (B, L, z, h, w) of the named domains -> tokens (B, len(domains), T, C)."""
        return torch.stack([self.x_embedders[i](x[:, i]) for i in domains], dim=1) + position

    def _unpatchify(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, p*p*z), each ordered (row, column, channel) -> (B, z, h, w)."""
        p, (rows, columns) = self.config.patch_size, grid
        x = tokens.reshape(tokens.shape[0], rows, columns, p, p, self.config.latent_channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(
            tokens.shape[0], self.config.latent_channels, rows * p, columns * p
        )

    def _role_vectors(self, pattern: tuple[int, ...], active: list[int], like: Tensor) -> Tensor:
        """Sum of role and domain embeddings of the active domains, (A, C)."""
        ids = torch.tensor([pattern[i] for i in active], device=like.device)
        roles = self.role_embedder(ids).to(like)
        return roles + self.domain_embedding.to(like)[active]

    def _prepare_text(self, rows, pattern, caption, caption_mask, like):
        """Projected, normed text (B, S, C) over the keys that count, and a bias or None."""
        if pattern[0] == Role.CONDITION:
            features, bias = self.y_embedder.null_keys(like)
        else:
            features, bias = select_text(caption, caption_mask, rows, len(like), like)
            if features.shape[-1] != self.config.caption_channels:
                raise ShapeError(
                    f"text features have {features.shape[-1]} channels, this model reads "
                    f"{self.config.caption_channels}; use the text encoder it was trained with"
                )
        text = self.attention_y_norm(self.y_embedder(features))
        return text, bias

    def _times(self, sigma: float | Tensor, context, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(sigma, Tensor):
            # Half precision has too few digits to be multiplied into a time.
            time = sigma.to(torch.promote_types(sigma.dtype, torch.float32)) * 1000
        else:
            known = context.times.get(float(sigma))
            if known is not None:
                return known
            time = torch.tensor([sigma], dtype=torch.float64) * 1000
        return self._time_vectors(time, context, x)

    def _time_vectors(self, time: Tensor, context, like: Tensor) -> tuple[Tensor, Tensor]:
        """Time on 0..1000, (R,) or () -> raw vectors (R, C) and modulation (R, 6, C)."""
        wide = torch.promote_types(like.dtype, torch.float32)
        time = time.reshape(-1).to(wide).to(like.device)
        if context.round_timestep:
            time = time.bfloat16().to(wide)
        t = self.t_embedder(time, like.dtype)
        return t, self.t_block(t).unflatten(-1, (6, -1))

    def _token_grid(self, like: Tensor) -> tuple[int, int]:
        p = self.config.patch_size
        h, w = like.shape[-2:]
        if h % p or w % p:
            raise ShapeError(
                f"the latent grid {h}x{w} must be a multiple of the patch size {p} on both sides"
            )
        return h // p, w // p

    def _checked_roles(self, role: Tensor, like: Tensor, clean_x: Tensor | None) -> Tensor:
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


class JodiBlock(nn.Module):
    """Joint self-attention, text cross-attention, mix-FFN; modulated by time and role."""

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        width = config.hidden_size
        args = (operations, device, dtype)
        self.eps = config.norm_eps_blocks
        self.attn = JointLinearAttention(width, config.linear_head_dim, *args)
        self.cross_attn = TextCrossAttention(width, config.cross_attention_heads, *args)
        self.mlp = MixFFN(width, config.mlp_size, *args)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width, device=device, dtype=dtype))

    def forward(self, x, t_modulation, role_modulation, text, text_bias, grid, keep=None) -> Tensor:
        """One block.

        Shapes: x (B, A, T, C); t_modulation (B or 1, 6, C); role_modulation (A, 6, C); text keys
        and values (B or 1, H, S, D); text_bias None or (B or 1, 1, 1, S) -> (B, A, T, C), or only
        the first `keep` domains, when no one reads the others.
        """
        table = (self.scale_shift_table.to(x) + t_modulation).unsqueeze(1) + role_modulation
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(2)
        z = dispatch.layer_norm_modulate(x, shift1, scale1, self.eps)
        z = self.attn(z, keep)
        if keep is not None:
            x, gate1 = x[:, :keep], gate1[:, :keep]
            shift2, scale2, gate2 = shift2[:, :keep], scale2[:, :keep], gate2[:, :keep]
        x = dispatch.gated_residual(x, z, gate1)
        x = x + self.cross_attn(x, text, text_bias)
        z = dispatch.layer_norm_modulate(x, shift2, scale2, self.eps)
        return dispatch.gated_residual(x, self.mlp(z, grid), gate2)


class MixFFN(nn.Module):
    """Expand, SiLU, depthwise 3x3 on each domain's grid, gate, contract."""

    def __init__(self, width: int, hidden: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        conv1x1 = pointwise_conv(operations)
        self.inverted_conv = _Conv(conv1x1(width, 2 * hidden, 1, **kwargs))
        self.depth_conv = _Conv(
            depthwise_glu_conv(operations)(
                2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **kwargs
            )
        )
        self.point_conv = _Conv(conv1x1(hidden, width, 1, bias=False, **kwargs))

    def forward(self, x_BATC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, A, T, C) -> (B, A, T, C), each domain on its own grid."""
        tokens = F.silu(self.inverted_conv.conv(x_BATC.flatten(0, 1)))
        images = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        gated = self.depth_conv.conv(images).permute(0, 2, 3, 1).flatten(1, 2)
        return self.point_conv.conv(gated).view(x_BATC.shape)


class FinalLayer(nn.Module):
    """LayerNorm, modulation by time and role, linear map to patches: one per domain."""

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        width = config.hidden_size
        self.eps = config.norm_eps_blocks
        self.linear = operations.Linear(
            width, config.patch_size**2 * config.latent_channels, device=device, dtype=dtype
        )
        self.scale_shift_table = nn.Parameter(torch.empty(2, width, device=device, dtype=dtype))

    def forward(self, x_BTC: Tensor, e_BC: Tensor) -> Tensor:
        """(B, T, C) and the raw time-plus-role vector (B or 1, C) -> (B, T, p*p*z)."""
        shift, scale = (self.scale_shift_table.to(x_BTC) + e_BC.unsqueeze(1)).unbind(1)
        z = dispatch.layer_norm_modulate(
            x_BTC.unsqueeze(1), shift.unsqueeze(1), scale.unsqueeze(1), self.eps
        )
        return self.linear(z.squeeze(1))


class _Conv(nn.Module):
    """Puts a convolution under the released name `conv`."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv


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
