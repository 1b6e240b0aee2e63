"""Which domains are generated, which are given, which are left out."""

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..kit.errors import JodiError, RoleError
from .domains import DOMAIN_NAMES, find_domain_index


class Role(enum.IntEnum):
    """Part a domain plays in one row; the numbers are the network's own."""

    GENERATE = 0
    CONDITION = 1
    IGNORE = 2


TRAINED_PATTERNS = ("published", "any")

_ROLE_WORDS: dict[str, Role] = {
    **dict.fromkeys(("generate", "generated", "g"), Role.GENERATE),
    **dict.fromkeys(("condition", "conditions", "given", "c"), Role.CONDITION),
    **dict.fromkeys(("ignore", "ignored", "x"), Role.IGNORE),
}

UNTRAINED_WARNING = (
    "warning: the model was not trained on this mix of roles, so the result may be poor"
)


@dataclass(frozen=True)
class RolePlan:
    """A role for every domain of one row.

    `names[0]` is the picture, the rest are labels; models with fewer or more labels pass theirs.

    Raises: RoleError when the counts differ, a role is none of the three, a name comes twice, or
    nothing is generated (then there is nothing to compute).
    """

    roles: tuple[Role, ...]
    names: tuple[str, ...] = DOMAIN_NAMES

    def __post_init__(self):
        names = tuple(self.names)
        listing = f"{len(names)} domains ({', '.join(names)})"
        if len(set(names)) != len(names):
            raise RoleError(f"domain names must differ, got {listing}")
        values = tuple(self.roles)
        if len(values) != len(names):
            raise RoleError(f"the model has {listing}, got {len(values)} roles; give one for each")
        wrong = [f"{n}={v}" for n, v in zip(names, values, strict=True) if v not in (0, 1, 2)]
        if wrong:
            raise RoleError(
                f"a role is 0 (generate), 1 (condition) or 2 (ignore), got {', '.join(wrong)}"
            )
        object.__setattr__(self, "roles", tuple(Role(v) for v in values))
        object.__setattr__(self, "names", names)
        if not self.generated:
            given = ", ".join(self.condition_names) or "none"
            raise RoleError(
                f"none of the {listing} is generated (given: {given}), so there is nothing to do; "
                "set at least one domain to generate"
            )

    @classmethod
    def from_names(
        cls,
        generate: str | Iterable[str] = (),
        condition: str | Iterable[str] = (),
        names: Sequence[str] = DOMAIN_NAMES,
    ) -> "RolePlan":
        """Plan from two lists of names (or comma-separated strings); the rest is ignored.

        Raises: RoleError for an unknown name, or one that is in both lists.
        """
        pairs = [(n, Role.GENERATE) for n in _split(generate)]
        pairs += [(n, Role.CONDITION) for n in _split(condition)]
        return cls._from_pairs(pairs, names)

    @classmethod
    def parse(cls, text: str, names: Sequence[str] = DOMAIN_NAMES) -> "RolePlan":
        """Read "image=condition, depth=generate"; domains not named are ignored.

        Roles are generate, condition or ignore; the paper's letters G, C, X work too. Pairs are
        parted by commas, semicolons or new lines.

        Raises: RoleError for a part that is not domain=role, or an unknown domain or role.
        """
        pairs = []
        for part in filter(None, (p.strip() for p in re.split(r"[,;\n]", text))):
            name, equals, word = (p.strip() for p in part.partition("="))
            if not equals:
                raise RoleError(
                    f'{part!r} is not domain=role; write for example "image=condition, '
                    'depth=generate"'
                )
            role = _ROLE_WORDS.get(word.lower())
            if role is None:
                raise RoleError(
                    f"{name} has the unknown role {word!r}; use generate, condition or ignore"
                )
            pairs.append((name, role))
        return cls._from_pairs(pairs, names)

    @classmethod
    def _from_pairs(cls, pairs, names) -> "RolePlan":
        roles: dict[int, Role] = {}
        for name, role in pairs:
            try:
                index = find_domain_index(name, names)
            except JodiError as error:
                raise RoleError(str(error)) from None
            if roles.setdefault(index, role) != role:
                raise RoleError(
                    f"{names[index]} cannot be both {roles[index].name.lower()} and "
                    f"{role.name.lower()}; keep one"
                )
        return cls(tuple(roles.get(i, Role.IGNORE) for i in range(len(names))), tuple(names))

    def text(self) -> str:
        """The plan for people and files; `parse` reads it back. Ignored domains are left out."""
        return ", ".join(f"{self.names[i]}={self.roles[i].name.lower()}" for i in self.active)

    def _with(self, *roles: Role) -> tuple[int, ...]:
        return tuple(i for i, r in enumerate(self.roles) if r in roles)

    def _names(self, indices: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self.names[i] for i in indices)

    @property
    def generated(self) -> tuple[int, ...]:
        return self._with(Role.GENERATE)

    @property
    def conditions(self) -> tuple[int, ...]:
        return self._with(Role.CONDITION)

    @property
    def ignored(self) -> tuple[int, ...]:
        return self._with(Role.IGNORE)

    @property
    def active(self) -> tuple[int, ...]:
        """Domains that are computed at all: generated or given."""
        return self._with(Role.GENERATE, Role.CONDITION)

    @property
    def generated_names(self) -> tuple[str, ...]:
        return self._names(self.generated)

    @property
    def condition_names(self) -> tuple[str, ...]:
        return self._names(self.conditions)

    @property
    def active_names(self) -> tuple[str, ...]:
        return self._names(self.active)

    @property
    def task(self) -> str:
        """What the plan amounts to, in the words of the paper; "any to any" for the rest."""
        picture, labels = self.roles[0], set(self.roles[1:]) - {Role.IGNORE}
        if picture == Role.GENERATE and not labels:
            return "text to image"
        if picture == Role.GENERATE and labels == {Role.GENERATE}:
            return "joint generation"
        if picture == Role.GENERATE and labels == {Role.CONDITION}:
            return "controllable generation"
        if picture == Role.CONDITION and labels == {Role.GENERATE}:
            return "image perception"
        return "any to any"

    @property
    def uses_text(self) -> bool:
        """Whether the prompt has any effect: the network drops it when the picture is given."""
        return self.roles[0] != Role.CONDITION

    def trained(self, patterns: str = "published") -> bool:
        """Whether a model trained on `patterns` has met this plan.

        `patterns` is what the checkpoint's metadata says (`trained_roles`): "published" is the
        sampling rule of the released model, "any" every mix.
        """
        if patterns not in TRAINED_PATTERNS:
            raise JodiError(f"trained_roles is {patterns!r}; use {' or '.join(TRAINED_PATTERNS)}")
        return patterns == "any" or _published(self.roles)

    def summary(self, trained: str = "published") -> str:
        """One line for people, with a plain warning when the mix was never trained."""
        given = ", ".join(self.condition_names)
        line = (
            f"{self.task}: generates {', '.join(self.generated_names)}"
            f"{' from ' + given if given else ''}; "
            f"{len(self.active)} of {len(self.names)} domains active"
        )
        return line if self.trained(trained) else f"{line}; {UNTRAINED_WARNING}"

    def as_tensor(self, batch: int = 1) -> torch.Tensor:
        """int64 (batch, L), every row this plan."""
        if batch < 1:
            raise RoleError(f"a batch needs at least 1 row, got {batch}")
        return torch.tensor([[int(r) for r in self.roles]] * batch, dtype=torch.int64)


def _split(names: str | Iterable[str]) -> list[str]:
    parts = re.split(r"[,;\n]", names) if isinstance(names, str) else list(names)
    return [p.strip() for p in parts if p.strip()]


def _published(roles: Sequence[int]) -> bool:
    """Whether the released model was trained on these roles: 256 of the 3^8 for seven labels.

    Joint: everything generated. Control: the picture generated, each label given or ignored.
    Perception: the picture given, each label generated or ignored, at least one generated.
    Counted for training pictures that have every label; a missing one was ignored.
    Source: github VIPL-GENUN/Jodi @ c21bdcb, data/datasets/jodi_dataset.py.
    """
    picture, labels = roles[0], set(roles[1:])
    if picture == Role.GENERATE:
        return labels <= {Role.CONDITION, Role.IGNORE} or labels == {Role.GENERATE}
    return (
        picture == Role.CONDITION
        and labels <= {Role.GENERATE, Role.IGNORE}
        and Role.GENERATE in labels
    )
