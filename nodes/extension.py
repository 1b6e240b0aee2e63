"""The extension. Each module lists its nodes in NODES; adding a node is adding it there."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension

from ..kit.kernel_choices import remember_kernels_in
from .ddit import loaders as ddit_loaders
from .ddit import text as ddit_text
from .ddit import words as ddit_words
from .jodi import decode, labels, loaders, overview, roles, sampling, text

_JODI = (loaders, text, roles, sampling, decode, labels, overview)
_DDIT = (ddit_loaders, ddit_text, ddit_words)


class JodiExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list:
        # here, because `on_load` is not called by every ComfyUI
        remember_kernels_in(Path(folder_paths.get_user_directory()) / "jodi")
        return [node for module in (*_JODI, *_DDIT) for node in module.NODES]
