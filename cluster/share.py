"""How many trials a sweep may have on a cluster that it shares: no sweep starves, and no slot stays empty.

Knows how many sweeps the cluster's jobs are, and what is free. Each driver looks for itself, so nothing is kept and
nothing outlives a driver. Never knows a trial.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

LOOK_SECONDS = 3.0
SWEEP = "isoflop_sweep"
"""Key of a job's metadata: the job drives the sweep of this name."""
PROGRESS = "isoflop_progress"
"""How far it is, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """A cluster at one moment."""

    num_sweeps: int
    num_free: int
    """Trials for which there is room now."""


Look = Callable[[], Sight]
ALONE = Sight(num_sweeps=1, num_free=0)


class Share:
    """A sweep's share of the slots. Alone on a cluster it has all of them."""

    def __init__(self, sight: Callable[[], Sight] = lambda: ALONE) -> None:
        self._sight = sight
        self._seen = ALONE
        self._given = 0

    def take(self, num_asked: int, num_slots: int) -> bool:
        """Whether a sweep with so many trials, running or waiting, may ask for another one now.

        Beside other sweeps it has no more than its part; what all of them leave free it may use as well, each slot
        once for each look at the cluster. So a trial that ends gives its slot to whoever is below its part.
        """
        sight = self._sight()
        if sight is not self._seen:
            self._seen, self._given = sight, 0
        if sight.num_sweeps <= 1 or num_asked < max(1, num_slots // sight.num_sweeps):
            return True
        self._given += 1
        return self._given <= sight.num_free


def free_slots(available: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """Trials that fit into what is available, by resource; at least one resource is wanted."""
    return min(int(available.get(kind, 0) / amount) for kind, amount in wanted.items() if amount)


@contextmanager
def looking(look: Look) -> Iterator[Share]:
    """A share that follows the cluster: ``look`` is called every few seconds, in a thread of its own."""
    sight = ALONE
    ended = threading.Event()

    def look_once() -> None:
        nonlocal sight
        # A dashboard that restarts answers again soon: until then what was seen last stands.
        with suppress(OSError, RuntimeError):
            sight = look()

    def keep_looking() -> None:
        while not ended.wait(LOOK_SECONDS):
            look_once()

    look_once()

    thread = threading.Thread(target=keep_looking, name="share", daemon=True)
    thread.start()
    try:
        yield Share(lambda: sight)
    finally:
        ended.set()
