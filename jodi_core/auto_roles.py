"""Roles from what is wired: an artist connects pictures, and the rest follows from two rules."""

from collections.abc import Collection, Mapping, Sequence

from ..kit.errors import JodiError, RoleError
from .domains import DOMAIN_NAMES, find_domain_index
from .roles import Role, RolePlan

AUTO = "auto"
ROLE_CHOICES = (AUTO, "generate", "condition", "ignore")


def choose_roles(
    choices: Mapping[str, str],
    wired: Collection[str] = (),
    *,
    names: Sequence[str] = DOMAIN_NAMES,
    repaint: bool = False,
    held: Collection[str] = (),
) -> RolePlan:
    """The plan that role choices and wired pictures amount to.

    choices: "auto", "generate", "condition" or "ignore" by domain; a missing one is auto.
    wired: domains with a picture. repaint: a mask says where pictures may change. held: domains
    that are generated together with the rest, yet keep their picture.

    Auto: a wired domain is a condition, and the image is generated when it is not wired; if that
    leaves nothing to generate, every label that is not wired is generated. So nothing wired is
    text to image, the image alone gives all labels, and labels alone give the image. A repaint
    mask makes a wired image generated (it is the picture to change), and so does holding a domain.
    Raises: RoleError for a name the model lacks, a condition or held domain without a picture, a
    mask or hold without effect, or when nothing is generated.
    """
    chosen = {_index(name, names): choice for name, choice in choices.items()}
    given = {_index(name, names) for name in wired}
    kept = {_index(name, names) for name in held}
    roles: dict[int, Role] = {}
    for i, name in enumerate(names):
        choice = chosen.get(i, AUTO)
        if choice not in ROLE_CHOICES:
            raise RoleError(f"{name} has the role {choice!r}; use {', '.join(ROLE_CHOICES)}")
        if choice != AUTO:
            roles[i] = Role[choice.upper()]
        elif i in kept or (i == 0 and (repaint or i not in given)):
            roles[i] = Role.GENERATE
        elif i in given:
            roles[i] = Role.CONDITION
    rest = Role.IGNORE if Role.GENERATE in roles.values() else Role.GENERATE
    roles = {i: roles.get(i, rest) for i in range(len(names))}
    _check_pictures(roles, given, kept, names)
    plan = RolePlan(tuple(roles.values()), tuple(names))
    _check_hold(plan, given, kept, repaint)
    return plan


def find_kept_domains(plan: RolePlan, wired: Collection[str]) -> tuple[int, ...]:
    """Generated domains with a picture: outside a repaint mask they keep it."""
    return tuple(i for i in plan.generated if plan.names[i] in wired)


def _index(name: str, names: Sequence[str]) -> int:
    try:
        return find_domain_index(name, names)
    except JodiError as error:
        raise RoleError(str(error)) from None


def _check_pictures(roles, wired, held, names) -> None:
    for i, role in roles.items():
        if role == Role.CONDITION and i not in wired:
            raise RoleError(
                f"{names[i]} is set to condition, but no picture is connected to it; connect one, "
                "or set its role to auto"
            )
    for i in sorted(held):
        if i not in wired:
            raise RoleError(
                f"{names[i]} is to be held, but no picture is connected to it; connect the picture "
                "it should keep"
            )
        if roles[i] != Role.GENERATE:
            raise RoleError(
                f"{names[i]} is to be held, but its role is {roles[i].name.lower()}; a held domain "
                "is generated together with the others: set its role to generate or auto"
            )


def _check_hold(plan: RolePlan, wired, held, repaint: bool) -> None:
    if set(plan.generated) <= held:
        raise RoleError(
            f"every generated domain ({', '.join(plan.generated_names)}) is held, so there is "
            "nothing to do; set another domain to generate"
        )
    if repaint and not (set(plan.generated) & wired) - held:
        raise RoleError(
            "a repaint mask is connected, but no generated domain has a picture to repaint; "
            "connect the picture to change and set its role to generate or auto"
        )
