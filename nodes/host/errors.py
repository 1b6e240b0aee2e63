"""How our errors are named on the page."""

from ...kit.errors import JodiError

NAME = "jodi"


def name_errors() -> None:
    """Show every error of ours as jodi.RoleError and the like.

    The host shows an error's module before its name, and that of a pack is its folder's whole path.
    Not for a class in general: other processes find it by its module when it is pickled.
    """
    todo = [JodiError]
    while todo:
        cls = todo.pop()
        cls.__module__ = NAME
        todo += cls.__subclasses__()
