"""Device time that a sweep has spent: that of its rows, and of what runs or was interrupted since.

Knows when trials start and stop, on how many devices, and the caps. Never knows Ray, or what a trial does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cluster.bounds import Bounds


class Meter:
    """Adds up device seconds over the rows of a store and the life of a driver."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds, self._clock = bounds, clock
        self._recorded = 0.0
        self._since: dict[str, tuple[float, float]] = {}
        self._unrecorded: dict[str, float] = {}

    @property
    def device_seconds(self) -> float:
        """A trial that was interrupted counts with what this driver saw of it, until its row says more."""
        now = self._clock()
        running = sum(devices * (now - since) for since, devices in self._since.values())
        return self._recorded + sum(self._unrecorded.values()) + running

    def starts(self, trial_id: str, num_devices: float) -> None:
        """It runs now, on so many devices."""
        self.stops(trial_id)
        self._since[trial_id] = self._clock(), num_devices

    def stops(self, trial_id: str) -> None:
        """It does not run now; nothing happens where it did not."""
        if trial_id in self._since:
            since, devices = self._since.pop(trial_id)
            self._unrecorded[trial_id] = self._unrecorded.get(trial_id, 0.0) + devices * (self._clock() - since)

    def records(self, trial_id: str, device_seconds: float) -> None:
        """It has a row with this device time, which leaves out what was lost with a dead process."""
        self.stops(trial_id)
        self._recorded += max(device_seconds, self._unrecorded.pop(trial_id, 0.0))

    def reached(self) -> str:
        """Which cap is reached, in words for a person; empty where none is."""
        return self._bounds.reached(self.device_seconds)
