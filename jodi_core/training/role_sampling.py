"""Which roles a training batch takes: the three published tasks, text alone, and free patterns."""

from collections.abc import Callable, Sequence

import numpy as np

from ..roles import Role

TASKS = {"perception": 0.28, "control": 0.14, "joint": 0.16, "text": 0.3, "free": 0.12}
# At first only tasks with something given: they teach domains to read each other, which joint
# generation, where every token is noise, teaches far more slowly and unlearns.
FIRST_TASKS = {"perception": 0.75, "control": 0.25}
GENERATE, CONDITION, IGNORE = Role.GENERATE, Role.CONDITION, Role.IGNORE
FREE_SHARE = 0.25
REPLAY_SHARE = 0.5

DrawRoles = Callable[[np.random.Generator, Sequence[bool]], tuple[str, tuple[int, ...]]]
"""From a generator, and whether each domain is there (the image always is), a task and its roles.
"""


def sample_roles(
    rng: np.random.Generator, num_labels: int, first: bool = False
) -> tuple[str, tuple[int, ...]]:
    """A task and one role per domain, the image first. first: see FIRST_TASKS.

    As published: joint generates everything; control generates the image and flips a coin between
    condition and ignore for every label (none left is plain text to image); perception conditions
    on the image and generates some labels. Three departures: few labels are likelier than many in
    perception (a set's size k has weight 1/k), because people ask for one or two and small sets
    cost little; `text` makes the image from its caption alone, which the coin of control would do
    in one batch of 128, and which fits eight times the rows of joint into a batch; and `free` draws
    every domain's role alone, so that any pattern is trained.
    Source: github VIPL-GENUN/Jodi @ c21bdcb, data/datasets/jodi_dataset.py.
    """
    tasks = FIRST_TASKS if first else TASKS
    task = rng.choice(list(tasks), p=list(tasks.values()))
    if task == "joint":
        return task, (GENERATE,) * (1 + num_labels)
    if task == "text":
        return task, (GENERATE, *(IGNORE,) * num_labels)
    if task == "control":
        return task, (GENERATE, *rng.choice([CONDITION, IGNORE], size=num_labels).tolist())
    if task == "perception":
        weights = 1 / np.arange(1, num_labels + 1)
        size = rng.choice(np.arange(1, num_labels + 1), p=weights / weights.sum())
        chosen = rng.choice(num_labels, size=size, replace=False)
        return task, (CONDITION, *(GENERATE if i in chosen else IGNORE for i in range(num_labels)))
    while True:
        roles = tuple(rng.choice([GENERATE, CONDITION, IGNORE], size=1 + num_labels).tolist())
        if GENERATE in roles:
            return task, roles


def draw_published(
    rng: np.random.Generator, available: Sequence[bool]
) -> tuple[str, tuple[int, ...]]:
    """The roles of the released training, of the labels a picture has; others are ignored.

    One task of three: joint generates the image and every label; control generates the image and
    flips a coin between condition and ignore for every label; perception is given the image, and
    every set of labels but the empty one is as likely. Without a label it is joint.
    Source: github VIPL-GENUN/Jodi @ c21bdcb, data/datasets/jodi_dataset.py.
    """
    labels = [i for i in range(1, len(available)) if available[i]]
    task = str(rng.choice(["joint", "control", "perception"]))
    roles = [IGNORE] * len(available)
    if task == "joint" or not labels:
        for i in (0, *labels):
            roles[i] = GENERATE
        return "joint" if labels else "text", tuple(roles)
    if task == "control":
        roles[0] = GENERATE
        for i in labels:
            roles[i] = CONDITION if rng.random() < 0.5 else IGNORE
        return task, tuple(roles)
    pattern = int(rng.integers(1, 2 ** len(labels)))
    roles[0] = CONDITION
    for place, i in enumerate(labels):
        roles[i] = GENERATE if pattern >> place & 1 else IGNORE
    return task, tuple(roles)


def draw_any(rng: np.random.Generator, available: Sequence[bool]) -> tuple[str, tuple[int, ...]]:
    """`draw_published`, but in a quarter of the draws every domain's role is drawn alone."""
    if rng.random() >= FREE_SHARE:
        return draw_published(rng, available)
    while True:
        roles = [
            int(rng.choice([GENERATE, CONDITION, IGNORE])) if there else IGNORE
            for there in available
        ]
        if GENERATE in roles:
            return "free", tuple(roles)


def draw_with_new(new: int, replay: float = REPLAY_SHARE) -> DrawRoles:
    """Roles that teach domain `new` to a model that knows the others.

    replay: share of the draws that leave it out, and keep the others from being forgotten, where
    the pictures have other labels. Two thirds of these, and of the others, are given the image and
    make labels: few known ones (a set of k has weight 1/k), or the new one alone. One third is
    drawn as published, with the new domain in a role or without it.
    """

    def draw(rng: np.random.Generator, available: Sequence[bool]) -> tuple[str, tuple[int, ...]]:
        known = [there and i != new for i, there in enumerate(available)]
        labels = [i for i in range(1, len(known)) if known[i]]
        old = bool(labels) and rng.random() < replay
        if rng.random() < 2 / 3:
            made = _few(rng, labels) if old else [new]
            roles = [GENERATE if i in made else IGNORE for i in range(len(available))]
            return f"{'old' if old else 'new'} perception", (CONDITION, *roles[1:])
        if old:
            task, drawn = draw_published(rng, known)
            return f"old {task}", drawn
        while True:
            task, drawn = draw_published(rng, available)
            if drawn[new] != IGNORE:
                return f"new {task}", drawn

    return draw


def _few(rng: np.random.Generator, labels: Sequence[int]) -> list[int]:
    """Some of the labels, few likelier than many: a number k has weight 1/k."""
    weights = 1 / np.arange(1, len(labels) + 1)
    size = int(rng.choice(np.arange(1, len(labels) + 1), p=weights / weights.sum()))
    return rng.choice(labels, size=size, replace=False).tolist()
