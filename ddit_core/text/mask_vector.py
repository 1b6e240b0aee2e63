"""The embedding of a masked place, which belongs to the released model's text encoder.

The row of <extra_id_0> in a stock T5's table is another vector: everything runs with it, and the
words are poor. So the vector must be given, and is never replaced by the stock row.
"""

from pathlib import Path

import torch
from torch import Tensor

from ...kit.errors import CheckpointError
from ...kit.weights.read import read_state_dict

CHANNELS = 4096  # of T5-v1.1-XXL


def load_mask_vector(path, channels: int = CHANNELS) -> Tensor:
    """The vector (channels,) float32 of a file with nothing else in it.

    The release has it as mask_token_emb.00-of-01.pth of aligned_t5_mask_emb: a bare tensor, or one
    tensor under any name.
    Raises: CheckpointError for a missing or unsafe file, several tensors, another length, zeros,
        and values that are not finite.
    """
    vector = _only_tensor(Path(path))
    if vector.numel() != channels or max(vector.shape, default=0) != channels:
        raise CheckpointError(
            f"{path} holds a tensor {tuple(vector.shape)}, expected the mask vector ({channels},) "
            f"for a text encoder of {channels} channels. One of the two files is of another model: "
            "the released D-DiT has T5-v1.1-XXL and mask_token_emb.00-of-01.pth of "
            f"aligned_t5_mask_emb, both of {CHANNELS} channels."
        )
    if not vector.is_floating_point():
        raise CheckpointError(
            f"{path} holds {vector.dtype} numbers, expected the mask vector in floating-point; use "
            "the original file."
        )
    vector = vector.detach().float().reshape(channels)
    if not torch.isfinite(vector).all() or not vector.any():
        raise CheckpointError(
            f"{path} holds a mask vector of zeros or of values that are not finite. The file is "
            "damaged; download it again."
        )
    return vector


def _only_tensor(path: Path) -> Tensor:
    tensors = read_state_dict(path, bare="the vector").tensors
    if len(tensors) != 1:
        raise CheckpointError(
            f"{path} holds {len(tensors)} tensors, expected the mask vector alone: "
            "mask_token_emb.00-of-01.pth of aligned_t5_mask_emb."
        )
    return next(iter(tensors.values()))


def embed_masked(embeddings: Tensor, ids: Tensor, vector: Tensor, mask: int) -> Tensor:
    """Embeddings (B, L, D) of ids (B, L) with the mask vector at masked places, as a new tensor."""
    return torch.where(
        (ids == mask)[..., None].to(embeddings.device), vector.to(embeddings), embeddings
    )
