"""Jodi for ComfyUI. Importing this module has no side effects."""
