"""What the pack keeps between starts of ComfyUI: in its user folder, under jodi/."""

from pathlib import Path

import folder_paths

from ...kit.kernel_choices import remember_kernels_in


def remember_kernels() -> None:
    """Keep there which kernels were found faster on this card."""
    remember_kernels_in(Path(folder_paths.get_user_directory()) / "jodi")
