"""The JSON form of configs, and checks they share."""

import dataclasses
import json
import math
from typing import Any, ClassVar, get_args, get_origin

from .errors import JodiError


def parse_json(text: str, what: str):
    """The value of a JSON text.

    what: names the text in the error. Raises: JodiError for a text that is no JSON, or whose lists
    are nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise JodiError(f"{what} is not JSON ({str(error)[:80]})") from error
    except RecursionError:
        raise JodiError(f"{what} is JSON that is nested too deeply to be read") from None


def require_positive(config, *names: str):
    """Pass when these fields are finite numbers above zero. Raises: JodiError naming the first."""
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise JodiError(
                f"{type(config).__name__}.{name} must be positive and finite, got {value}"
            )


def require_below(config, limit: float, *names: str):
    """Pass when these fields are below a limit that no real model reaches. Raises: JodiError."""
    for name in names:
        value = getattr(config, name)
        if value >= limit:
            raise JodiError(f"{type(config).__name__}.{name} must be below {limit:g}, got {value}")


class JsonConfig:
    """JSON in and out, for checkpoint metadata. A base of dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict):
        """Build from plain values; lists become tuples.

        Raises: JodiError for a missing or an unknown field, or a value of another type, naming it.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise JodiError(
                f"{cls.__name__} has no field {', '.join(unknown)[:200]}; it has "
                f"{', '.join(fields)}"
            )
        missing = [
            name
            for name, f in fields.items()
            if name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise JodiError(f"{cls.__name__} needs {', '.join(missing)}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name, value in values.items():
            _check_type(name, value, fields[name].type)
        return cls(**values)


_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def _check_type(name: str, value, wanted) -> None:
    if get_origin(wanted) is tuple:
        item = get_args(wanted)[0]
        if not isinstance(value, tuple) or not all(_is_a(part, item) for part in value):
            raise JodiError(f"{name} is {_shown(value)}; expected a list, each {_WORDS[item]}")
    elif not _is_a(value, wanted):
        raise JodiError(f"{name} is {_shown(value)}; expected {_WORDS[wanted]}")


def _is_a(value, wanted) -> bool:
    if wanted is float:
        # An int beyond a float's range has no finite float either.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and abs(value) < 1e300
    return type(value) is wanted


def _shown(value) -> str:
    if isinstance(value, int) and abs(value) > 10**18:
        return "a whole number of more than 18 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
