"""How far a sweep is, read from its store alone: also while it runs, and after it died.

Knows rows, the plan they fulfil, and whether a driver holds the store. Imports no Ray, torch or Optuna, so that it
answers at once. Never changes anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from cluster.driver import Driver, driver_of, is_driven
from sweeps.plan import Plan
from sweeps.store import Store
from trainer.trial import TrialState

FACTS = ("budget_flops", "method", "state", "booked_flops", "loss", "model")
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
    table, broken = store.read_table(strict=False)
    rows = {name: table[name].to_pylist() for name in ("trial_id", "error", *FACTS)}
    facts = list(zip(*(rows[name] for name in FACTS), strict=True))
    trials: Counter[tuple[int, str]] = Counter()
    for planned in plan.cells:
        trials[planned.cell.budget_flops, planned.cell.method.label] += planned.num_trials
    groups = []
    for (budget, method), number in sorted(trials.items(), key=lambda item: item[0][0]):
        own = [row for row in facts if row[:2] == (budget, method)]
        complete = [(row[4], row[5]) for row in own if row[2] == TrialState.COMPLETE]
        loss, model = min(complete, default=(None, ""))
        groups.append(
            GroupStatus(
                budget_flops=budget,
                method=method,
                num_trials=number,
                states=dict(Counter(TrialState(row[2]) for row in own)),
                spent_flops=sum(row[3] for row in own),
                best_loss=loss,
                best_model=model,
            )
        )
    return SweepStatus(
        name=store.spec.name,
        store=str(store.root),
        groups=tuple(groups),
        failures=tuple(
            Failure(trial_id=trial_id, error=error)
            for trial_id, error, state in zip(rows["trial_id"], rows["error"], rows["state"], strict=True)
            if state == TrialState.FAILED
        ),
        num_begun=_num_begun(store),
        broken=broken,
        is_driven=is_driven(store.root),
        driver=driver_of(store.root),
    )


def _num_begun(store: Store) -> int:
    folder = store.root / "checkpoints"
    if not folder.is_dir():
        return 0
    rows = store.trial_ids()
    return sum(path.name not in rows for path in folder.iterdir())
