"""Which records each micro-batch takes: a function of its number, so a resumed run has the same.

Rows of one micro-batch have one latent grid and one set of labels: they run as one group.
"""

from collections.abc import Hashable, Sequence

import numpy as np


class BatchOrder:
    """The records of micro-batch 0, 1, 2 and so on, epoch after epoch, all records in each.

    kinds: what each record is; only records of one kind are put together. rows: of a micro-batch.
    A kind's last micro-batch of an epoch is filled with records from the beginning of its list.
    """

    def __init__(self, kinds: Sequence[Hashable], rows: int, seed: int):
        self.rows, self.seed = rows, seed
        members: dict[Hashable, list[int]] = {}
        for index, kind in enumerate(kinds):
            members.setdefault(kind, []).append(index)
        self._members = [np.array(indices) for indices in members.values()]
        self.batches = sum(-(-len(indices) // rows) for indices in self._members)
        self._epoch: tuple[int, np.ndarray] | None = None

    def at(self, number: int) -> list[int]:
        """The records of one micro-batch."""
        epoch, place = divmod(number, self.batches)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffled(epoch)
        return self._epoch[1][place].tolist()

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for indices in self._members:
            count = -(-len(indices) // self.rows)
            filled = np.resize(rng.permutation(indices), count * self.rows)
            batches.append(filled.reshape(count, self.rows))
        return rng.permutation(np.concatenate(batches))
