"""The ComfyUI side."""
