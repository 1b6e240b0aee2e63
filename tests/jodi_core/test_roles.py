"""Role plans: every mix has a meaning or a clear refusal."""

from itertools import product

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.roles import Role, RolePlan
from jodi_pack.kit.errors import JodiError, RoleError

SEGMENTED = ("image", "depth", "segmentation")


def every_pattern(domains: int = 8):
    return product((0, 1, 2), repeat=domains)


def published_patterns(labels: int = 7) -> set[tuple[int, ...]]:
    """Built from the training rule, task by task, not from the predicate under test."""
    joint = {(0,) * (1 + labels)}
    control = {(0, *rest) for rest in product((1, 2), repeat=labels)}
    perception = {(1, *rest) for rest in product((0, 2), repeat=labels)} - {(1, *(2,) * labels)}
    return joint | control | perception


def test_trained_agrees_with_the_training_rule_on_every_plan():
    known = published_patterns()
    plans = [RolePlan(p) for p in every_pattern() if 0 in p]
    assert len(plans) == 6561 - 2**8
    assert sum(plan.trained() for plan in plans) == len(known) == 1 + 128 + 127
    for plan in plans:
        assert plan.trained("published") == (plan.roles in known)
        assert plan.trained("any")


@pytest.mark.long
@pytest.mark.parametrize("labels", [2, 8])
def test_fewer_and_more_labels(labels):
    names = tuple(f"domain {i}" for i in range(1 + labels))
    plans = [RolePlan(p, names) for p in every_pattern(1 + labels) if 0 in p]
    assert {plan.roles for plan in plans if plan.trained()} == published_patterns(labels)
    extended = RolePlan.from_names(["thermal"], ["image"], names=(*DOMAIN_NAMES, "thermal"))
    assert extended.roles[8] == Role.GENERATE
    assert extended.trained()
    assert extended.summary().endswith("2 of 9 domains active")


def test_an_unknown_training_rule_is_refused():
    with pytest.raises(JodiError, match="published or any"):
        RolePlan.from_names(["image"]).trained("everything")


@pytest.mark.parametrize("pattern", list(every_pattern(3)), ids=str)
def test_small_plans_are_consistent(pattern):
    if 0 not in pattern:
        with pytest.raises(RoleError, match="set at least one domain to generate"):
            RolePlan(pattern, SEGMENTED)
        return
    plan = RolePlan(pattern, SEGMENTED)
    assert sorted(plan.generated + plan.conditions + plan.ignored) == [0, 1, 2]
    assert sorted(plan.generated + plan.conditions) == list(plan.active)
    assert plan.generated_names == tuple(SEGMENTED[i] for i in plan.generated)
    assert plan.active_names == tuple(SEGMENTED[i] for i in plan.active)
    assert RolePlan.parse(plan.text(), SEGMENTED) == plan
    assert RolePlan.from_names(plan.generated_names, plan.condition_names, SEGMENTED) == plan
    assert torch.equal(plan.as_tensor(2), torch.tensor([pattern, pattern]))
    assert plan.as_tensor(2).dtype == torch.int64
    assert plan.uses_text == (pattern[0] != 1)
    assert ("warning" in plan.summary()) == (pattern not in published_patterns(2))
    assert "warning" not in plan.summary("any")


@pytest.mark.parametrize(
    ("generate", "condition", "task"),
    [
        ("image", "", "text to image"),
        (DOMAIN_NAMES, "", "joint generation"),
        ("image, depth", "", "joint generation"),
        ("image", "depth, normal", "controllable generation"),
        ("depth", "image", "image perception"),
        (DOMAIN_NAMES[1:], "image", "image perception"),
        ("normal", "image, depth", "any to any"),
        ("image, segmentation", "depth", "any to any"),
        ("normal", "depth", "any to any"),
        ("depth", "", "any to any"),
    ],
)
def test_task(generate, condition, task):
    assert RolePlan.from_names(generate, condition).task == task


def test_summary():
    plan = RolePlan.from_names(["depth", "normal"], ["image"])
    assert plan.summary() == (
        "image perception: generates depth, normal from image; 3 of 8 domains active"
    )
    untrained = RolePlan.from_names("normal", "depth").summary()
    assert untrained.startswith("any to any: generates normal from depth; 2 of 8 domains active;")
    assert untrained.count("warning") == 1


def test_parse_takes_aliases_letters_and_spaces():
    plan = RolePlan.parse(" Image = C ;\n seg=generate, pose = ignored,,")
    assert plan == RolePlan.from_names(["segmentation"], ["image"])
    assert plan.text() == "image=condition, segmentation=generate"
    assert RolePlan(tuple(plan.roles)) == plan
    assert hash(RolePlan([1, 2, 2, 2, 2, 2, 0, 2])) == hash(plan)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RolePlan((0,) * 7), ["8 domains (image, lineart", "got 7 roles", "one for each"]),
        (lambda: RolePlan((0,) * 7 + (3,)), ["openpose=3", "0 (generate)"]),
        (lambda: RolePlan((0, -1, 2), SEGMENTED), ["depth=-1"]),
        (lambda: RolePlan((0, "g", 1.5), SEGMENTED), ["depth=g, segmentation=1.5"]),
        (lambda: RolePlan((0, 0), ("image", "image")), ["must differ"]),
        (lambda: RolePlan((1, 2, 2), SEGMENTED), ["given: image", "at least one"]),
        (lambda: RolePlan.from_names(), ["given: none", "openpose"]),
        (lambda: RolePlan.from_names(["deep"]), ["'deep'", "depth", "8 domains"]),
        (lambda: RolePlan.from_names("seg", "segmentation"), ["segmentation cannot be both"]),
        (lambda: RolePlan.parse("image"), ["domain=role"]),
        (lambda: RolePlan.parse("image=perhaps"), ["'perhaps'", "generate, condition or ignore"]),
        (lambda: RolePlan.parse(""), ["nothing to do"]),
        (lambda: RolePlan.parse("image=g").as_tensor(0), ["at least 1 row"]),
    ],
)
def test_refusals_say_what_and_why(make, words):
    with pytest.raises(RoleError) as error:
        make()
    for word in words:
        assert word in str(error.value)
