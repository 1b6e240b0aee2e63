"""The extension. Each module lists its nodes in NODES; adding a node is adding it there."""

from comfy_api.latest import ComfyExtension

from .ddit import loaders as ddit_loaders
from .ddit import text as ddit_text
from .ddit import words as ddit_words
from .host.errors import name_errors
from .host.user_folder import remember_kernels
from .jodi import (
    data,
    decode,
    example,
    files,
    labels,
    loaders,
    overview,
    roles,
    sampling,
    text,
    whole,
)

_JODI = (loaders, text, roles, sampling, decode, labels, overview, whole, files, data, example)
_DDIT = (ddit_loaders, ddit_text, ddit_words)


class JodiExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list:
        name_errors()
        remember_kernels()  # here, because not every ComfyUI calls `on_load`
        return [node for module in (*_JODI, *_DDIT) for node in module.NODES]
