"""The transformer as it is trained: blocks that read the text inside their own call.

The model for inference prepares a job's text for all blocks at once. In training a block's weights
may be gathered only while it runs, and its activations made anew in the backward pass, so each
block prepares its own. Parameters, their names and all results are those of `JodiTransformer`.
"""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..model.transformer import JodiTransformer

METHODS = ("prepare", "velocities")
"""What sampling calls of the model, beside `forward`."""


class TrainedJodi(JodiTransformer):
    """A `JodiTransformer` whose blocks read features of a text in place of its prepared keys."""

    def __init__(self, config, **options):
        super().__init__(config, **options)
        for block in self.blocks:
            block.register_forward_pre_hook(_read_text, with_kwargs=True)

    def forward(self, *args, **options):
        # FSDP hooks onto what comes out, which must be no view.
        return super().forward(*args, **options).clone()

    # What a block gets is a text here, and becomes its keys in `_read_text`.
    def _prepare_text(self, features, bias, cache):  # pyright: ignore[reportIncompatibleMethodOverride]
        text = self.attention_y_norm(self.y_embedder(features))
        return [(text, bias)] * len(self.blocks)

    @classmethod
    def of(cls, model: JodiTransformer) -> "TrainedJodi":
        """The same weights, not copied, float32."""
        with torch.device("meta"):
            trained = cls(model.config)
        trained.load_state_dict(model.float().state_dict(), assign=True)
        for parameter in trained.parameters():
            parameter.requires_grad_(True)
        return trained


def _read_text(block, args: tuple, options: dict) -> tuple[tuple, dict]:
    tokens, time, role, texts, *rest = args
    # With gradients on, `prepare` asks the layers for their result. Folding would read their
    # weights, and pass over what is trained beside them.
    with torch.enable_grad():
        read = tuple(block.cross_attn.prepare(*text) for text in texts)
    return (tokens, time, role, read, *rest), options


def recompute_blocks(model: JodiTransformer) -> None:
    """Keep only each block's input for the backward pass, and compute the block again there."""
    for block in model.blocks:
        assert isinstance(block, nn.Module)
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
