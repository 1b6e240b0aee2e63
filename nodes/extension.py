"""The extension. Each module lists its nodes in NODES; adding a node is adding it there."""

from comfy_api.latest import ComfyExtension

from .jodi import decode, labels, loaders, overview, roles, sampling, text

_MODULES = (loaders, text, roles, sampling, decode, labels, overview)


class JodiExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list:
        return [node for module in _MODULES for node in module.NODES]
