"""The roles that training draws: shares, meanings, and any number of labels."""

import math
from collections import Counter

import numpy as np
import pytest
from jodi_pack.jodi_core.roles import Role, RolePlan
from jodi_pack.jodi_core.training.role_sampling import TASKS, sample_roles


class TestRoleSampling:
    count = 4000

    @pytest.fixture(scope="class")
    @classmethod
    def drawn(cls):
        rng = np.random.default_rng(0)
        return [sample_roles(rng, 7) for _ in range(cls.count)]

    def near(self, share, expected, count):
        """Within five standard deviations of a fair draw."""
        return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)

    @pytest.mark.long
    def test_tasks_have_their_shares(self, drawn):
        counts = Counter(str(task) for task, _ in drawn)
        assert sum(TASKS.values()) == pytest.approx(1)
        for task, share in TASKS.items():
            assert self.near(counts[task] / self.count, share, self.count), (task, counts)

    def test_every_pattern_has_a_meaning(self, drawn):
        for task, roles in drawn:
            assert len(roles) == 8 and set(roles) <= set(Role) and Role.GENERATE in roles
            if task != "free":
                assert RolePlan(tuple(roles)).trained("published")
        images = {"perception": {1}, "control": {0}, "joint": {0}, "text": {0}}
        images["free"] = {0, 1, 2}
        for task, allowed in images.items():
            assert {int(roles[0]) for name, roles in drawn if name == task} == allowed

    def test_labels_of_control_are_a_coin_each(self, drawn):
        control = [roles[1:] for task, roles in drawn if task == "control"]
        for label in zip(*control, strict=True):
            assert self.near(sum(r == Role.CONDITION for r in label) / len(label), 0.5, len(label))

    def test_perception_asks_for_few_labels_more_often(self, drawn):
        sizes = Counter(
            sum(r == Role.GENERATE for r in roles) for task, roles in drawn if task == "perception"
        )
        total, harmonic = sum(sizes.values()), sum(1 / k for k in range(1, 8))
        for k in range(1, 8):
            assert self.near(sizes[k] / total, 1 / k / harmonic, total)
        labels = Counter(
            i for task, roles in drawn if task == "perception"
            for i, r in enumerate(roles) if r == Role.GENERATE
        )  # fmt: skip
        share = total * 7 / harmonic / 7
        assert all(abs(labels[i] - share) < 0.15 * share for i in range(1, 8))

    def test_free_draws_every_role_of_every_domain(self, drawn):
        free = [roles for task, roles in drawn if task == "free"]
        assert all(set(column) == set(Role) for column in zip(*free, strict=True))

    def test_fewer_labels_and_seeds(self):
        for labels in (1, 3):
            rng = np.random.default_rng(1)
            drawn = [sample_roles(rng, labels) for _ in range(200)]
            assert all(len(roles) == 1 + labels and 0 in roles for _, roles in drawn)
            rng = np.random.default_rng(1)
            assert drawn == [sample_roles(rng, labels) for _ in range(200)]
