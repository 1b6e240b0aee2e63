"""Wires as small as they come, for tests without a ComfyUI."""

import contextlib

import pytest
import torch
from jodi_pack.nodes.wires.rows import add_extras
from jodi_pack.tests.helpers import randn


def latent(rows: int = 3, domains: int = 8) -> dict:
    """A LATENT without content."""
    return {"samples": torch.zeros(rows, 5, domains, 6, 6)}


def text(rows: int = 1, tokens: int = 6, seed: int = 3) -> list:
    """CONDITIONING of a prompt: features (rows, 12, 24), of which the first tokens may be read."""
    mask = torch.zeros(rows, 12, dtype=torch.long)
    mask[:, :tokens] = 1
    return [[randn(rows, 12, 24, seed=seed), {"pooled_output": None, "attention_mask": mask}]]


def made_together(rows: int = 5) -> tuple[dict, list]:
    """LATENT and CONDITIONING of one job: the image is given, depth is made."""
    clean = torch.zeros(rows, 5, 8, 6, 6)
    clean[:, :, 0] = randn(rows, 5, 6, 6, seed=0)
    roles = torch.tensor([[1, 2, 2, 0, 2, 2, 2, 2]])
    return {"samples": clean}, add_extras(text(), jodi_roles=roles, jodi_clean=clean)


@contextlib.contextmanager
def raises(kind: type, *parts: str):
    """As pytest.raises; the message must hold every part."""
    with pytest.raises(kind) as caught:
        yield
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
