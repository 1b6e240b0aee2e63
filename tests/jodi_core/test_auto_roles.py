"""Role choices: what an artist wires, and the plan that comes of it."""

import itertools

import pytest
from jodi_pack.jodi_core.auto_roles import ROLE_CHOICES, choose_roles, find_kept_domains
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.roles import Role
from jodi_pack.kit.errors import RoleError

LABELS = DOMAIN_NAMES[1:]


@pytest.mark.parametrize(
    ("wired", "choices", "text"),
    [
        ((), {}, "image=generate"),
        (("image",), {}, "image=condition, " + ", ".join(f"{n}=generate" for n in LABELS)),
        (("depth", "normal"), {}, "image=generate, depth=condition, normal=condition"),
        (LABELS, {}, "image=generate, " + ", ".join(f"{n}=condition" for n in LABELS)),
        (("image",), {"depth": "generate"}, "image=condition, depth=generate"),
        ((), {"depth": "generate"}, "image=generate, depth=generate"),
        (("depth",), {"normal": "generate"}, "image=generate, depth=condition, normal=generate"),
        (
            ("depth",),
            {"image": "ignore", "normal": "generate"},
            "depth=condition, normal=generate",
        ),
        (
            ("image", "edge"),
            {"edge": "ignore", "depth": "generate"},
            "image=condition, depth=generate",
        ),
        (("image",), {"image": "generate"}, "image=generate"),
        (
            (),
            dict.fromkeys(DOMAIN_NAMES, "generate"),
            ", ".join(f"{n}=generate" for n in DOMAIN_NAMES),
        ),
    ],
)
def test_what_is_wired_decides(wired, choices, text):
    assert choose_roles(choices, wired).text() == text


def test_image_and_labels_wired_gives_the_other_labels():
    plan = choose_roles({}, ("image", "depth"))
    assert plan.condition_names == ("image", "depth")
    assert set(plan.generated_names) == set(LABELS) - {"depth"}


def test_without_the_image_labels_give_labels():
    plan = choose_roles({"image": "ignore"}, ("depth",))
    assert plan.roles[0] == Role.IGNORE and plan.condition_names == ("depth",)
    assert set(plan.generated_names) == set(LABELS) - {"depth"}


def test_every_choice_is_kept_and_every_result_has_a_meaning():
    """All 4^3 choices of three domains, wired in all ways: a choice is never overruled."""
    names = ("image", "depth", "normal")
    for choice in itertools.product(ROLE_CHOICES, repeat=3):
        for wired in itertools.chain.from_iterable(
            itertools.combinations(names, n) for n in range(4)
        ):
            choices = dict(zip(names, choice, strict=True))
            try:
                plan = choose_roles(choices, wired, names=names)
            except RoleError as error:
                assert "connected" in str(error) or "none of the 3" in str(error)
                continue
            assert plan.generated
            for name, role in zip(names, plan.roles, strict=True):
                assert choices[name] in ("auto", role.name.lower())
                assert role != Role.CONDITION or name in wired


def test_extra_domains_of_an_extended_model():
    names = (*DOMAIN_NAMES, "roughness")
    assert "roughness" in choose_roles({}, ("image",), names=names).generated_names
    plan = choose_roles({"roughness": "generate"}, ("image",), names=names)
    assert plan.generated_names == ("roughness",)
    with pytest.raises(RoleError, match="roughness"):
        choose_roles({"roughness": "generate"}, ("image",))


def test_a_repaint_mask_makes_the_wired_image_change():
    plan = choose_roles({}, ("image", "depth"), repaint=True)
    assert plan.text() == "image=generate, depth=condition"
    assert find_kept_domains(plan, ("image", "depth")) == (0,)
    # a label may be the one to repaint
    plan = choose_roles(
        {"image": "condition", "depth": "generate"}, ("image", "depth"), repaint=True
    )
    assert plan.text() == "image=condition, depth=generate"


def test_a_held_domain_is_generated_with_the_others():
    plan = choose_roles({}, ("depth",), held=("depth",))
    assert plan.text() == "image=generate, depth=generate"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"choices": {"depth": "condition"}}, "depth is set to condition"),
        ({"choices": {"colour": "auto"}}, "no domain is called 'colour'"),
        ({"choices": {"depth": "given"}}, "role 'given'"),
        ({"choices": dict.fromkeys(DOMAIN_NAMES, "ignore")}, "none of the 8 domains"),
        ({"choices": {}, "wired": DOMAIN_NAMES}, "none of the 8 domains"),
        ({"choices": {}, "held": ("depth",)}, "depth is to be held, but no picture"),
        (
            {"choices": {"depth": "condition"}, "wired": ("depth",), "held": ("depth",)},
            "its role is condition",
        ),
        ({"choices": {}, "wired": ("image",), "held": ("image",)}, "is held, so there is nothing"),
        ({"choices": {}, "repaint": True}, "no generated domain has a picture to repaint"),
        (
            {"choices": {"image": "condition"}, "wired": ("image",), "repaint": True},
            "no generated domain has a picture to repaint",
        ),
    ],
)
def test_what_has_no_meaning_is_said(kwargs, message):
    with pytest.raises(RoleError, match=message):
        choose_roles(**kwargs)
