"""The published network as slow loops in float64, written from its equations and key names alone.

All domains are computed, ignored ones too: their keys are set to zero, as published. Nothing of the
product is used but the numbers in its state dict.
"""

import math

import torch
from torch import Tensor


def published_velocity(weights, config, x, timestep, caption, mask, role, clean) -> Tensor:
    """Velocity of every slot, meaningful where role is 0.

    Shapes: x, clean (B, L, z, h, w); timestep (B,) on 0..1000; caption (B, 1, S, Cc); mask (B, S);
    role (B, L) -> (B, L, z, h, w), float64.
    """
    net = _Network({k: v.double() for k, v in weights.items()}, config)
    rows = []
    for b in range(len(x)):
        text, given = caption[b, 0].double(), clean[b].double()
        rows.append(
            net.row(x[b].double(), float(timestep[b]), text, mask[b], role[b].tolist(), given)
        )
    return torch.stack(rows)


class _Network:
    def __init__(self, weights, config):
        self.w, self.c = weights, config

    def linear(self, name: str, z: Tensor) -> Tensor:
        """One vector through a linear layer (or a 1x1 convolution) of that name."""
        weight = self.w[f"{name}.weight"]
        out = weight.reshape(weight.shape[0], -1) @ z
        bias = self.w.get(f"{name}.bias")
        return out if bias is None else out + bias

    def row(self, x, timestep, caption, mask, role, clean) -> Tensor:
        p, z, h, w = self.c.patch_size, self.c.latent_channels, x.shape[-2], x.shape[-1]
        grid = (h // p, w // p)
        tokens = []
        for i, part in enumerate(role):
            source = clean[i] if part == 1 else x[i]
            embedded = self.patches(i, source, grid)
            embedded = [t + pe for t, pe in zip(embedded, self.positions(grid), strict=True)]
            tokens.append([t * 0 for t in embedded] if part == 2 else embedded)

        r = [
            self.w["role_embedder.weight"][part] + self.w["domain_embedding"][i]
            for i, part in enumerate(role)
        ]
        r0 = [self.linear("role_block.1", _silu(v)).reshape(6, -1) for v in r]
        t = self.time(timestep)
        t0 = self.linear("t_block.1", _silu(t)).reshape(6, -1)
        text = self.text(caption, mask, given=role[0] == 1)
        for index in range(self.c.depth):
            self.block(f"blocks.{index}", tokens, t0, r0, role, text, grid)

        out = torch.zeros(len(role), z, h, w, dtype=torch.float64)
        for i, domain in enumerate(tokens):
            shift, scale = self.w[f"final_layers.{i}.scale_shift_table"] + t + r[i]
            for n, token in enumerate(domain):
                normed = _norm(token) * (1 + scale) + shift
                patch = self.linear(f"final_layers.{i}.linear", normed)
                row, column = divmod(n, grid[1])
                for a in range(p):
                    for b in range(p):
                        start = (a * p + b) * z
                        out[i, :, row * p + a, column * p + b] = patch[start : start + z]
        return out

    def patches(self, i: int, latent: Tensor, grid) -> list[Tensor]:
        p, weight = self.c.patch_size, self.w[f"x_embedders.{i}.proj.weight"]
        tokens = []
        for row in range(grid[0]):
            for column in range(grid[1]):
                patch = latent[:, row * p : row * p + p, column * p : column * p + p]
                value = [(kernel * patch).sum() for kernel in weight]
                tokens.append(torch.stack(value) + self.w[f"x_embedders.{i}.proj.bias"])
        return tokens

    def positions(self, grid) -> list[Tensor]:
        quarter, table = self.c.hidden_size // 4, []
        for row in range(grid[0]):
            for column in range(grid[1]):
                entry = []
                for place, count in ((column, grid[1]), (row, grid[0])):
                    # coordinates are float32 in the published code
                    scale = count / self.c.pe_base_size
                    at = float(torch.tensor(float(place)) / scale / self.c.pe_interpolation)
                    angles = [at * 10000 ** (-j / quarter) for j in range(quarter)]
                    entry += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                table.append(torch.tensor(entry, dtype=torch.float64))
        return table

    def time(self, timestep: float) -> Tensor:
        half = self.c.frequency_size // 2
        angles = [timestep * math.exp(-math.log(10000) * i / half) for i in range(half)]
        wave = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        hidden = self.linear("t_embedder.mlp.0", torch.tensor(wave, dtype=torch.float64))
        return self.linear("t_embedder.mlp.2", _silu(hidden))

    def text(self, caption: Tensor, mask: Tensor, *, given: bool) -> list[Tensor]:
        """Projected and normed text tokens that may be read."""
        if given:
            caption, mask = self.w["y_embedder.y_embedding"], [1] * self.c.caption_length
        tokens = []
        for feature, keep in zip(caption, mask, strict=True):
            if not keep:
                continue
            hidden = self.linear("y_embedder.y_proj.fc1", feature)
            cubed = hidden + 0.044715 * hidden**3
            hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * cubed))
            y = self.linear("y_embedder.y_proj.fc2", hidden)
            rms = math.sqrt(float((y * y).mean()) + self.c.caption_norm_eps)
            tokens.append(y / rms * self.w["attention_y_norm.weight"])
        return tokens

    def block(self, name, tokens, t0, r0, role, text, grid) -> None:
        """One block; replaces the tokens of every domain in place."""
        table = self.w[f"{name}.scale_shift_table"]
        ada = [(table + t0) + r0[i] for i in range(len(role))]
        attended = self.self_attention(
            f"{name}.attn",
            [[_norm(t) * (1 + a[1]) + a[0] for t in x] for x, a in zip(tokens, ada, strict=True)],
            role,
        )
        pairs = [
            self.linear(f"{name}.cross_attn.kv_linear", y).split(self.c.hidden_size) for y in text
        ]
        for i, domain in enumerate(tokens):
            for n in range(len(domain)):
                x = domain[n] + ada[i][2] * attended[i][n]
                domain[n] = x + self.cross_attention(f"{name}.cross_attn", x, pairs)
            normed = [_norm(x) * (1 + ada[i][4]) + ada[i][3] for x in domain]
            update = self.feed_forward(f"{name}.mlp", normed, grid)
            for n in range(len(domain)):
                domain[n] = domain[n] + ada[i][5] * update[n]

    def self_attention(self, name, normed, role) -> list[list[Tensor]]:
        width, dim = self.c.hidden_size, self.c.linear_head_dim
        queries, keys, values = [], [], []
        for i, domain in enumerate(normed):
            for token in domain:
                q, k, v = self.linear(f"{name}.qkv", token).split(width)
                queries.append(q.clamp(min=0))
                keys.append((k * 0 if role[i] == 2 else k).clamp(min=0))
                values.append(v)
        mixed = [torch.zeros(width, dtype=torch.float64) for _ in queries]
        for start in range(0, width, dim):
            head = slice(start, start + dim)
            state = sum(torch.outer(v[head], k[head]) for k, v in zip(keys, values, strict=True))
            total = sum(k[head] for k in keys)
            for n, q in enumerate(queries):
                mixed[n][head] = state @ q[head] / (total @ q[head] + 1e-8)
        out = iter([self.linear(f"{name}.proj", m) for m in mixed])
        return [[next(out) for _ in domain] for domain in normed]

    def cross_attention(self, name, x, pairs) -> Tensor:
        """One token over the text, given as pairs of key and value."""
        width, heads = self.c.hidden_size, self.c.cross_attention_heads
        q = self.linear(f"{name}.q_linear", x)
        out = torch.zeros(width, dtype=torch.float64)
        for start in range(0, width, width // heads):
            head = slice(start, start + width // heads)
            scores = [float(q[head] @ k[head]) / math.sqrt(width // heads) for k, _ in pairs]
            weights = [math.exp(s - max(scores)) for s in scores]
            for weight, (_, v) in zip(weights, pairs, strict=True):
                out[head] += weight / sum(weights) * v[head]
        return self.linear(f"{name}.proj", out)

    def feed_forward(self, name, normed, grid) -> list[Tensor]:
        rows, columns = grid
        hidden = [_silu(self.linear(f"{name}.inverted_conv.conv", z)) for z in normed]
        weight, bias = (
            self.w[f"{name}.depth_conv.conv.weight"],
            self.w[f"{name}.depth_conv.conv.bias"],
        )
        out = []
        for row in range(rows):
            for column in range(columns):
                total = bias.clone()
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        if 0 <= row + dr < rows and 0 <= column + dc < columns:
                            near = hidden[(row + dr) * columns + column + dc]
                            total += weight[:, 0, dr + 1, dc + 1] * near
                value, gate = total.chunk(2)
                out.append(self.linear(f"{name}.point_conv.conv", value * _silu(gate)))
        return out


def _silu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z))


def _norm(z: Tensor) -> Tensor:
    """LayerNorm without weights."""
    centred = z - z.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-6)
