"""Device time that a sweep has spent: that of its rows, and of what runs or was interrupted since.

Knows when trials start and stop, on how many devices, and the caps. Never knows Ray, or what a trial does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cluster.bounds import Bounds


class Meter:
    """Adds up device seconds over the rows of a store and the life of a driver."""

    def __init__(
        self,
        bounds: Bounds,
        unrecorded: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``unrecorded`` is what a former driver kept (``to_keep``)."""
        self._bounds, self._clock = bounds, clock
        self._recorded = 0.0
        self._since: dict[str, tuple[float, float]] = {}
        self._unrecorded = dict(unrecorded or {})
        self._beyond_rows: dict[str, float] = {}

    @property
    def device_seconds(self) -> float:
        """A trial that was interrupted counts with what drivers saw of it, until its row says more."""
        return self._recorded + sum(self.unrecorded.values())

    @property
    def unrecorded(self) -> dict[str, float]:
        """Device seconds of the trials that have no row, by trial: those that run, and those that were interrupted."""
        now, seen = self._clock(), dict(self._unrecorded)
        for trial_id, (since, devices) in self._since.items():
            seen[trial_id] = seen.get(trial_id, 0.0) + devices * (now - since)
        return seen

    @property
    def to_keep(self) -> dict[str, float]:
        """Device seconds by trial that the rows do not tell the next driver: of those without a row, and of those whose
        row says less than was seen, since a process takes time to start and one that dies takes its own along."""
        return {**self._beyond_rows, **self.unrecorded}

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
        """It has a row with this device time."""
        self.stops(trial_id)
        seen = self._unrecorded.pop(trial_id, 0.0)
        self._recorded += max(device_seconds, seen)
        if seen > device_seconds:
            self._beyond_rows[trial_id] = seen

    def reached(self) -> str:
        """Which cap is reached, in words for a person; empty where none is."""
        return self._bounds.reached(self.device_seconds)
