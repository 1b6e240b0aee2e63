"""The JSON form of configs, and checks they share."""

import dataclasses
import json
from typing import Any, ClassVar

from .errors import JodiError


def _require_positive(config, *names):
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise JodiError(f"{type(config).__name__}.{name} must be positive, got {value}")


class _Json:
    """JSON in and out, for checkpoint metadata. A base of dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict):
        """Build from plain values; lists become tuples.

        Raises: JodiError for a missing or an unknown field, naming it.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise JodiError(
                f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}"
            )
        missing = [
            name
            for name, f in fields.items()
            if name not in values and f.default is dataclasses.MISSING
        ]
        if missing:
            raise JodiError(f"{cls.__name__} needs {', '.join(missing)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
