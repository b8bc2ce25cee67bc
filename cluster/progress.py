"""How far a sweep is: counts, FLOPs, the best losses, what runs now and how long it may still take.

Knows what the driver hears from running trials and reads in rows. Never knows Ray, or how progress is shown.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sweeps.plan import Cell, Cells, Study
from sweeps.search import Finished
from trainer.result import TrialState
from trainer.trial import TrialSpec

RATE_SECONDS = 30.0
"""A trial's speed is that of its steps in so many last seconds: one step tells little, and a start is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTrial:
    """A trial that runs now."""

    spec: TrialSpec
    share: float
    """Of its budget, from 0 to 1."""
    loss: float | None
    """Last training loss in nats, at the training temperature: not the loss that is compared."""
    tokens_per_second: float | None = None
    """Over the last half minute; unknown before the second report."""
    mfu: float | None = None
    """Booked FLOPs a second over its devices' peak; unknown where the peak is."""
    remaining_seconds: float | None = None
    """At the speed of the last half minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """How far a running trial is, as its process says."""

    clock: float
    """Seconds on its process's own clock: only differences mean something."""
    spent_flops: int
    tokens: int
    loss: float
    peak_flops: float | None
    """FLOPs a second that its devices could do at most, where that is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BestTrial:
    """The lowest held-out loss at a budget so far."""

    spec: TrialSpec
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepProgress:
    """A sweep at one moment."""

    num_trials: int
    """All that the sweep may yet ask for, and has asked for."""
    states: Mapping[TrialState, int]
    """Rows by state."""
    running: tuple[RunningTrial, ...]
    spent_flops: int
    """Booked by the rows and by what runs."""
    planned_flops: int
    best: tuple[BestTrial, ...]
    """One for each budget that has a COMPLETE trial, cheapest first."""
    seconds: float
    """Since this driver started."""
    remaining_seconds: float | None
    """An estimate from the rows; unknown before the first."""

    @property
    def num_rows(self) -> int:
        return sum(self.states.values())


Report = Callable[[SweepProgress], None]


class Tracker:
    """Adds up what a driver hears, and gives snapshots."""

    def __init__(self, studies: Sequence[Study], num_slots: int) -> None:
        """``num_slots``: trials that can run beside each other."""
        self._planned = {study.cell: study.num_trials for study in studies}
        self._cells = Cells(self._planned)
        self._left = dict(self._planned)
        self._ruled_out: Mapping[Cell, int] = {}
        self._num_slots = num_slots
        self._states: Counter[TrialState] = Counter()
        self._spent_flops = 0
        self._best: dict[int, BestTrial] = {}
        self._pace = _Pace()
        self._running: dict[str, RunningTrial] = {}
        self._reached: dict[str, deque[Reached]] = {}
        self._started = time.monotonic()

    def starts(self, spec: TrialSpec) -> None:
        self._running[spec.trial_id] = RunningTrial(spec=spec, share=0.0, loss=None)

    def reports(self, spec: TrialSpec, reached: Reached) -> None:
        """A running trial has come so far."""
        past = self._reached.setdefault(spec.trial_id, deque())
        past.append(reached)
        while len(past) > 2 and reached.clock - past[1].clock >= RATE_SECONDS:
            past.popleft()
        first, seconds = past[0], reached.clock - past[0].clock
        flops_per_second = (reached.spent_flops - first.spent_flops) / seconds if seconds > 0 else 0.0
        left = spec.budget_flops - reached.spent_flops
        self._running[spec.trial_id] = RunningTrial(
            spec=spec,
            share=reached.spent_flops / spec.budget_flops,
            loss=reached.loss if math.isfinite(reached.loss) else None,
            tokens_per_second=(reached.tokens - first.tokens) / seconds if seconds > 0 else None,
            mfu=flops_per_second / reached.peak_flops if flops_per_second and reached.peak_flops else None,
            remaining_seconds=left / flops_per_second if flops_per_second else None,
        )

    def stops(self, spec: TrialSpec) -> None:
        """It does not run now, whatever the reason."""
        self._running.pop(spec.trial_id, None)
        self._reached.pop(spec.trial_id, None)

    def records(self, row: Finished, *, booked_flops: int, seconds: float) -> None:
        """It has a row, and counts no more as running."""
        spec, cell = row.spec, self._cells.of(row.spec)
        assert cell is not None, f"{spec.trial_id} is not planned"
        self.stops(spec)
        self._left[cell] -= 1
        self._states[row.state] += 1
        self._spent_flops += booked_flops
        if row.state is TrialState.COMPLETE and row.loss is not None:
            self._pace.learn(cell, seconds)
            best = self._best.get(spec.budget_flops)
            if best is None or row.loss < best.loss:
                self._best[spec.budget_flops] = BestTrial(spec=spec, loss=row.loss)

    def rules_out(self, trials: Mapping[Cell, int]) -> None:
        """So many of the planned trials of each cell will never be asked for: nobody waits for them."""
        for cell, number in trials.items():
            self._left[cell] -= number - self._ruled_out.get(cell, 0)
        self._ruled_out = dict(trials)

    def snapshot(self) -> SweepProgress:
        running = tuple(self._running.values())
        asked = {cell: number - self._ruled_out.get(cell, 0) for cell, number in self._planned.items()}
        return SweepProgress(
            num_trials=sum(asked.values()),
            states=Counter(self._states),
            running=running,
            spent_flops=self._spent_flops + sum(round(trial.share * trial.spec.budget_flops) for trial in running),
            planned_flops=sum(number * cell.budget_flops for cell, number in asked.items()),
            best=tuple(self._best[budget] for budget in sorted(self._best)),
            seconds=time.monotonic() - self._started,
            remaining_seconds=self._remaining(running),
        )

    def _remaining(self, running: Sequence[RunningTrial]) -> float | None:
        if not self._pace.known:
            return None
        left = sum(number * self._pace.seconds(cell) for cell, number in self._left.items())
        cells = ((trial, self._cells.of(trial.spec)) for trial in running)
        done = sum(trial.share * self._pace.seconds(cell) for trial, cell in cells if cell is not None)
        return max(0.0, left - done) / self._num_slots


class _Pace:
    """Expected seconds of a trial: those of the finished trials that are most like it, in proportion to FLOPs.

    Most alike is the same cell, then the same model and method, then the same model, then any trial.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[object, ...], tuple[float, int]] = {}

    @property
    def known(self) -> bool:
        return bool(self._sums)

    def learn(self, cell: Cell, seconds: float) -> None:
        for key in self._keys(cell):
            total, number = self._sums.get(key, (0.0, 0))
            self._sums[key] = total + seconds / cell.budget_flops, number + 1

    def seconds(self, cell: Cell) -> float:
        key = next(key for key in self._keys(cell) if key in self._sums)
        total, number = self._sums[key]
        return total / number * cell.budget_flops

    def _keys(self, cell: Cell) -> list[tuple[object, ...]]:
        return [(cell.budget_flops, cell.model, cell.method), (cell.model, cell.method), (cell.model,), ()]
