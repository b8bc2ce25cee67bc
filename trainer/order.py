"""In which order a seed visits the pairs of a split: a pure function of the position, so nothing has to be remembered.

Knows numbers of pairs, seeds, positions and the weights of mixed sources. Never knows texts, files or workers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15


def pair_order(seed: int, num_pairs: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which pair stands at each position of an endless stream that visits every pair once in each epoch.

    Position ``p`` belongs to epoch ``p // num_pairs``; inside it the order is a keyed permutation: a Feistel network
    over the next power of four, walked until it falls inside (Black and Rogaway 2002). Constant memory, and the state
    to resume from is the position alone. ``(n,)`` in, ``(n,)`` out, each in ``[0, num_pairs)``.
    """
    epochs, inside = np.divmod(positions.astype(np.uint64), np.uint64(num_pairs))
    half = np.uint64(max(1, ((num_pairs - 1).bit_length() + 1) // 2))
    keys = _mix(_mix(np.full(len(epochs), seed % 2**64, np.uint64)) ^ epochs)
    order = _feistel(inside, half, keys)
    while len(outside := np.flatnonzero(order >= num_pairs)):
        order[outside] = _feistel(order[outside], half, keys[outside])
    return order.astype(np.int64)


class Mixture:
    """Sources that lie one after the other in a split and are drawn by weight, each in epochs of its own.

    The stream is a short pattern that repeats: as many slots for each source as its weight says (the weights in
    lowest terms), spread evenly. So any stretch as long as the pattern holds each source exactly by its weight, and a
    batch of any size is off by about one pair of a source. The ``r``-th slot of a source is position ``r`` of that
    source's own ``pair_order``.
    """

    def __init__(self, num_pairs: Sequence[int], weights: Sequence[int]) -> None:
        divisor = gcd(*weights)
        self.num_pairs, self.slots = tuple(num_pairs), tuple(weight // divisor for weight in weights)
        self._starts = np.cumsum([0, *num_pairs])
        owners = np.concatenate([np.full(slots, source) for source, slots in enumerate(self.slots)])
        ranks = np.concatenate([np.arange(slots) for slots in self.slots])
        pattern = np.argsort((ranks + 0.5) / np.array(self.slots)[owners], kind="stable")
        self._owners, self._ranks = owners[pattern], ranks[pattern]

    @property
    def period(self) -> int:
        """Positions after which the pattern of sources repeats."""
        return len(self._owners)

    def order(self, seed: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which pair of the split stands at each position, ``(n,)`` in, ``(n,)`` out."""
        periods, slots = np.divmod(positions, self.period)
        owners = self._owners[slots]
        order = np.empty(len(positions), np.int64)
        for source, (count, num_slots) in enumerate(zip(self.num_pairs, self.slots, strict=True)):
            own = np.flatnonzero(owners == source)
            ranks = periods[own] * num_slots + self._ranks[slots[own]]
            # Each source has a key of its own: equal ones would walk sources of one size in step.
            order[own] = self._starts[source] + pair_order(seed + (source + 1) * _GOLDEN, count, ranks)
        return order

    def epochs(self, num_pairs: int) -> float:
        """Passes that ``num_pairs`` positions make over the source that is repeated most."""
        return num_pairs / self.pairs_per_epoch

    @property
    def pairs_per_epoch(self) -> float:
        """Positions in which the source that is repeated most passes once."""
        return min(n * self.period / slots for n, slots in zip(self.num_pairs, self.slots, strict=True))

    def to_json(self) -> str:
        return json.dumps({"num_pairs": self.num_pairs, "weights": self.slots})

    @classmethod
    def from_json(cls, text: str) -> Mixture:
        return cls(**json.loads(text))


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for turn in range(6):
        left, right = right, left ^ (_mix(right ^ (keys + np.uint64(turn))) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the output depends on every bit of the input."""
    values = values + np.uint64(_GOLDEN)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
