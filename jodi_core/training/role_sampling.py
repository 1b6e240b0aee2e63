"""Which roles a training batch takes: the three published tasks, text alone, and free patterns."""

import numpy as np

from ..roles import Role

TASKS = {"perception": 0.28, "control": 0.14, "joint": 0.16, "text": 0.3, "free": 0.12}
# At first only tasks with something given: they teach domains to read each other, which joint
# generation, where every token is noise, teaches far more slowly and unlearns.
FIRST_TASKS = {"perception": 0.75, "control": 0.25}
GENERATE, CONDITION, IGNORE = Role.GENERATE, Role.CONDITION, Role.IGNORE


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
