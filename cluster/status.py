"""How far a sweep is, read from its store alone: also while it runs, and after it died.

Knows rows, the plan they fulfil, and whether a driver holds the store. Imports no Ray, torch or Optuna, so that it
answers at once. Never changes anything.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.driver import Driver, driver_of, is_driven
from cluster.live import Live, read_live
from sweeps.compact import strings
from sweeps.plan import Plan
from sweeps.store import Store
from trainer.result import TrialState

FACTS = ("trial_id", "budget_flops", "method", "method_kind", "state", "booked_flops", "loss", "model", "error")
"""What the counts need of a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupStatus:
    """The trials of one method at one budget."""

    budget_flops: int
    method: str
    num_trials: int
    states: dict[TrialState, int]
    spent_flops: int
    best_loss: float | None
    best_model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A trial that failed, and why."""

    trial_id: str
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepStatus:
    """A sweep as its store shows it."""

    name: str
    store: str
    groups: tuple[GroupStatus, ...]
    """Cheapest budget first."""
    failures: tuple[Failure, ...]
    num_begun: int
    """Trials with checkpoints and no row: they run, or go on at the next launch."""
    broken: tuple[str, ...]
    """Sentences about rows that cannot be read."""
    is_driven: bool
    """Whether a process holds the store, as far as this machine can see."""
    driver: Driver | None
    live: Live | None
    """What its driver says runs now."""
    decided: tuple[str, ...]
    """What the rows of an adaptive sweep have decided so far, in a sentence or two."""

    @property
    def num_trials(self) -> int:
        return sum(group.num_trials for group in self.groups)

    @property
    def states(self) -> dict[TrialState, int]:
        return dict(sum((Counter(group.states) for group in self.groups), Counter()))

    @property
    def num_rows(self) -> int:
        return sum(self.states.values())

    @property
    def spent_flops(self) -> int:
        return sum(group.spent_flops for group in self.groups)

    @property
    def planned_flops(self) -> int:
        return sum(group.num_trials * group.budget_flops for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals = {
            name: getattr(self, name) for name in ("num_trials", "num_rows", "states", "spent_flops", "planned_flops")
        }
        return {**asdict(self), **totals}


def read_status(store: Store, plan: Plan) -> SweepStatus:
    """The status of ``store``, whose sweep has this plan. A row that cannot be read is told, not raised."""
    table, broken = store.read_table(FACTS, strict=False)
    trials: Counter[tuple[float, str]] = Counter()
    for planned in plan.cells:
        trials[planned.cell.budget_flops, planned.cell.label] += planned.num_trials
    sums = _Sums(table, trials.keys())
    groups = tuple(
        GroupStatus(
            budget_flops=int(budget),
            method=method,
            num_trials=number,
            states=dict(sums.states[budget, method]),
            spent_flops=round(sums.spent_flops[budget, method]),
            best_loss=sums.best.get((budget, method), (None, ""))[0],
            best_model=sums.best.get((budget, method), (None, ""))[1],
        )
        for (budget, method), number in sorted(trials.items(), key=lambda item: item[0][0])
    )
    is_failed = pc.is_in(table["state"], value_set=strings([TrialState.FAILED]))
    failed = table.filter(is_failed).select(["trial_id", "error"])
    return SweepStatus(
        name=store.spec.name,
        store=str(store.root),
        groups=groups,
        failures=tuple(Failure(**failure) for failure in failed.to_pylist()),
        num_begun=_num_begun(store),
        broken=broken,
        is_driven=is_driven(store.root),
        driver=driver_of(store.root),
        live=read_live(store, time.time()),
        decided=plan.decided,
    )


class _Sums:
    """One pass over the rows, by budget and method."""

    def __init__(self, table: pa.Table, planned: Collection[tuple[float, str]]) -> None:
        self.states: defaultdict[tuple[float, str], Counter[TrialState]] = defaultdict(Counter)
        self.spent_flops: Counter[tuple[float, str]] = Counter()
        self.best: dict[tuple[float, str], tuple[float, str]] = {}
        of_rows, group = _groups(table, "budget_flops", "method", "method_kind", "state")
        spent = np.bincount(group, weights=_numbers(table["booked_flops"]))
        for (budget, method, kind, state), number, flops in zip(of_rows, np.bincount(group), spent, strict=True):
            # Studies that search what the label says go by the kind.
            key = (budget, method if (budget, method) in planned else kind)
            self.states[key][TrialState(state)] += int(number)
            self.spent_flops[key] += flops
        complete = table.filter(pc.is_in(table["state"], value_set=strings([TrialState.COMPLETE])))
        of_models, group = _groups(complete, "budget_flops", "method", "method_kind", "model")
        losses = np.full(len(of_models), math.inf)
        np.minimum.at(losses, group, _numbers(complete["loss"]))
        for (budget, method, kind, model), loss in zip(of_models, losses, strict=True):
            key = (budget, method if (budget, method) in planned else kind)
            self.best[key] = min((float(loss), model), self.best.get(key, (math.inf, "")))


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(np.from_dlpack(chunk) for chunk in column.chunks)])


def _groups(table: pa.Table, *names: str) -> tuple[list[tuple[Any, ...]], NDArray[np.int64]]:
    """What these columns hold together, each combination once, and which of them each row has.

    Arrow's own grouping imports pandas, which alone takes as long as a status may.
    """
    if not len(table):
        return [], np.zeros(0, dtype=np.int64)
    columns = [table[name].combine_chunks().dictionary_encode() for name in names]
    shape = tuple(len(column.dictionary) for column in columns)
    codes = np.zeros(len(table), dtype=np.int64)
    for column in columns:
        codes = codes * len(column.dictionary) + np.from_dlpack(column.indices).astype(np.int64)
    present, group = np.unique(codes, return_inverse=True)
    places = zip(*(axis.tolist() for axis in np.unravel_index(present, shape)), strict=True)
    values = [column.dictionary.to_pylist() for column in columns]
    return [tuple(of[i] for of, i in zip(values, place, strict=True)) for place in places], group


def _num_begun(store: Store) -> int:
    folder = store.root / "checkpoints"
    if not folder.is_dir():
        return 0
    return sum(not store.has(path.name) for path in folder.iterdir())
