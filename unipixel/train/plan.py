"""Which record comes when: an order of all records that depends on (seed, epoch) alone, in batches of one type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

CHUNK = 50
"""Batches whose records are sorted by length together; the order stays random at a larger scale."""


class EpochPlan:
    """The order of a mixture.

    An epoch has every record as often as it is repeated; a fraction of a repeat is a random choice of the records.
    Consecutive runs of ``batch_size`` entries are of one type and of similar length. What a type lacks to a whole batch
    is filled with others of its records, so an epoch has a few entries more than records.
    """

    def __init__(
        self, types: Sequence[str], lengths: Sequence[int], repeats: Sequence[float], batch_size: int, seed: int
    ) -> None:
        """Take one entry per record.

        Args:
            types: data type.
            lengths: anything that grows with the time a record takes.
            repeats: times it is seen in an epoch.
        """
        names, self._types = np.unique(np.array(types), return_inverse=True)
        self._lengths, self._repeats = np.asarray(lengths), np.asarray(repeats, dtype=float)
        self._batch, self._seed, self._count = batch_size, seed, len(names)
        if not len(self._lengths):
            raise ValueError("a plan needs at least one record")
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        """Entries of an epoch, a multiple of the batch size; the same for all epochs."""
        totals = (self._count_entries(kind) for kind in range(self._count))
        return sum(math.ceil(total / self._batch) * self._batch for total in totals)

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(epoch, number of the record) of an entry; indices go on over epochs without end."""
        epoch, place = divmod(index, len(self))
        return epoch, int(self._order(epoch)[place])

    def _count_entries(self, kind: int) -> int:
        return max(1, int(self._repeats[self._types == kind].sum() + 1e-9))

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, 10, epoch))
        batches = []
        for kind in range(self._count):
            numbers = self._draw_records(kind, rng)
            missing = -len(numbers) % self._batch
            numbers = np.concatenate([numbers, np.resize(numbers, missing)])
            for chunk in np.array_split(numbers, math.ceil(len(numbers) / (CHUNK * self._batch))):
                batches.append(chunk[np.argsort(self._lengths[chunk], kind="stable")])
        rows = np.concatenate(batches).reshape(-1, self._batch)
        return rows[rng.permutation(len(rows))].ravel()

    def _draw_records(self, kind: int, rng: np.random.Generator) -> np.ndarray:
        """The records of a type, each as often as it is repeated, in random order."""
        members = np.flatnonzero(self._types == kind)
        whole = np.floor(self._repeats[members]).astype(int)
        numbers = np.repeat(members, whole)
        left = self._count_entries(kind) - len(numbers)
        if left > 0:
            rest = self._repeats[members] - whole
            share = rest / rest.sum() if rest.sum() else None
            numbers = np.concatenate([numbers, rng.choice(members, left, replace=left > len(members), p=share)])
        return rng.permutation(numbers)
