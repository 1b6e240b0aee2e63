"""Sizes that a file states in its metadata, built and compared."""

import dataclasses
import json
import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError, JodiError

State = Mapping[str, Tensor]


def stored_config(metadata: Mapping[str, str] | None) -> dict | None:
    """The metadata's `config` as plain values with tuples for lists, or None when it has none.

    Raises: CheckpointError when it is not a JSON object.
    """
    text = (metadata or {}).get("config")
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"the file's metadata has a `config` that is not JSON ({error}). Expected the sizes of "
            "the network; convert the file again from its source."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"the file's metadata has a `config` that is a {type(values).__name__}; expected a "
            "JSON object with the sizes of the network. Convert the file again from its source."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _compare(one: str, values: Mapping, other: str, others: Mapping):
    differ = [name for name in values if name in others and values[name] != others[name]]
    if differ:
        told = "; ".join(f"{n} is {values[n]} by {one}, {others[n]} by {other}" for n in differ[:4])
        raise CheckpointError(
            f"sizes contradict each other: {told}. The metadata or the config belongs to another "
            "model, or tensors were exchanged: use the file's own, or convert it again."
        )


def _build(cls, values: dict):
    for field in dataclasses.fields(cls):
        value = values.get(field.name, 0)
        if field.type is int and type(value) is not int:
            raise CheckpointError(
                f"{field.name} is {value!r} in the file's metadata; expected a whole number. "
                "Convert the file again from its source."
            )
    try:
        return cls.from_dict(values)
    except (JodiError, TypeError) as error:
        raise CheckpointError(
            f"the sizes found in the file do not make a model: {error}"
        ) from error


def _count(state: State, pattern: str) -> int:
    """One more than the highest index that the pattern's group finds."""
    found = (re.match(pattern, name) for name in state)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)
