"""Sizes that a file states in its metadata: read, bounded by what the file holds, and compared."""

import re
from collections.abc import Mapping
from typing import TypeVar

from ..config import JsonConfig, parse_json
from ..errors import CheckpointError, JodiError, shorten
from .kinds import State

Config = TypeVar("Config", bound=JsonConfig)

ONCE_MORE = "Use the file that the training exported, or convert it again from its source"


def read_stored_config(metadata: Mapping[str, str] | None) -> dict | None:
    """The metadata's `config` as plain values with tuples for lists, or None when it has none.

    Raises: CheckpointError when it is not a JSON object.
    """
    text = (metadata or {}).get("config")
    if text is None:
        return None
    try:
        values = parse_json(text, "the `config` in the file's metadata")
    except JodiError as error:
        raise CheckpointError(f"{error}. Expected the sizes of the network. {ONCE_MORE}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"the file's metadata has a `config` that is a {type(values).__name__}; expected a "
            f"JSON object with the sizes of the network. {ONCE_MORE}."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def compare_sizes(one: str, values: Mapping, other: str, others: Mapping):
    """Pass when two sources agree on every size that both give.

    one, other: name the sources. Raises: CheckpointError with both values of the first sizes that
    differ.
    """
    differ = [name for name in values if name in others and values[name] != others[name]]
    if differ:
        told = "; ".join(
            f"{n} is {shorten([values[n]])} by {one}, {shorten([others[n]])} by {other}"
            for n in differ[:4]
        )
        raise CheckpointError(
            f"sizes contradict each other: {told}. The metadata or the config belongs to another "
            "model, or tensors were exchanged: use the file's own, or convert it again."
        )


def build_config(cls: type[Config], values: dict) -> Config:
    """A config of these values. Raises: CheckpointError for values that make no model."""
    try:
        return cls.from_dict(values)
    except (JodiError, TypeError) as error:
        raise CheckpointError(
            f"the sizes found in the file do not make a model: {error}. {ONCE_MORE}."
        ) from error


# This many parts are built in a moment, even if the file claims them wrongly.
_ALWAYS = 64


def check_claims(claims: Mapping[str, tuple[int, int]]) -> None:
    """Pass when no number of parts is far above what the file has tensors for.

    A network is built from its config, so the claims are bounded first. A small surplus passes:
    its missing tensors are listed by name later.
    claims: name -> (claimed, as many as the tensors may make).
    Raises: CheckpointError.
    """
    for name, (claimed, possible) in claims.items():
        if claimed > max(_ALWAYS, possible):
            raise CheckpointError(
                f"{name} is said to be {shorten([claimed])}, but the file holds tensors for "
                f"{possible} at most. {ONCE_MORE}."
            )


def count_indices(state: State, pattern: str) -> int:
    """One more than the highest index that the pattern's group finds.

    Raises: CheckpointError for an index far above the number of tensors.
    """
    found = (re.match(pattern, name) for name in state)
    digits = {match.group(1).lstrip("0") or "0" for match in found if match}
    if not digits:
        return 0
    if max(map(len, digits)) > 9 or max(map(int, digits)) > _ALWAYS + len(state):
        raise CheckpointError(
            f"a tensor's name counts up to {shorten([max(digits, key=len)], width=12)}, but the "
            f"file holds {len(state)} tensors: names are damaged. {ONCE_MORE}."
        )
    return 1 + max(map(int, digits))
