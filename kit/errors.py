"""What can go wrong, by kind. Every message says what was expected, what came, and what to do."""

from ..kernels.selection import KernelError

__all__ = [
    "CheckpointError",
    "ImageError",
    "Interrupted",
    "JodiError",
    "KernelError",
    "RoleError",
    "ShapeError",
    "TextError",
    "shorten",
]


class JodiError(ValueError):
    """Base of every error this package raises on purpose."""


class CheckpointError(JodiError):
    """A weight file is unreadable, of another model, or incomplete."""


class RoleError(JodiError):
    """A role assignment that has no meaning."""


class ShapeError(JodiError):
    """A tensor or a size that does not fit."""


class ImageError(JodiError):
    """A picture that cannot be read or used."""


class TextError(JodiError):
    """A prompt or text feature that cannot be used."""


class Interrupted(Exception):  # noqa: N818  (a request that was met, not an error)
    """Sampling was stopped on request."""


def shorten(names, count: int = 5, width: int = 100) -> str:
    """The first names of many, each cut to `width` letters, and how many more there are."""
    names = list(names)
    shown = (str(name) for name in names[:count])
    cut = [name if len(name) <= width else f"{name[:width]}..." for name in shown]
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(cut) + more


def make_plain(text: str) -> str:
    """The text with a space for each character that is no print, such as a terminal's commands."""
    return "".join(c if c.isprintable() else " " for c in text)
