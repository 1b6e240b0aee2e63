"""Jodi for ComfyUI. Importing this module has no side effects."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI when it loads packs."""
    try:
        from .nodes.extension import JodiExtension
    except Exception:
        import logging

        # ComfyUI logs only the message, not where it happened.
        logging.getLogger("jodi").exception("could not load the Jodi nodes")
        raise
    return JodiExtension()
