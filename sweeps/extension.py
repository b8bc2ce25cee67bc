"""What a changed spec adds to a sweep that has rows: new budgets, models, methods and trials; nothing else may change.

Knows specs and plans. Pure; never knows a store's files, or how the added trials are run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sweeps.plan import Cell, Plan
from sweeps.sentences import format_number
from sweeps.spec import MethodSpec, SweepSpec, first_difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Added:
    """Trials of a cell that the store's sweep does not ask for."""

    cell: Cell
    num_trials: int
    is_new: bool
    """Whether the cell itself is new."""

    @property
    def flops(self) -> int:
        return self.num_trials * self.cell.budget_flops


def obstacle(there: SweepSpec, wanted: SweepSpec) -> tuple[str, object, object] | None:
    """The first field in which ``wanted`` changes what ``there`` has tried: (path, wanted, there); ``None`` for none.

    Budgets, models and methods may be added, and trials where the best is not repeated (a repeat's number would become
    another trial's) and the sampler is no grid.
    """
    before = {method.label: method for method in there.methods}
    after = {method.label: method for method in wanted.methods}
    methods = wanted.methods
    if before.keys() <= after.keys():
        # Another number of trials is another grid.
        more_trials = there.seeds == 1 and there.search.sampler != "grid"
        methods = tuple(_reduced(after[label], method, more_trials) for label, method in before.items())
    reduced = replace(
        wanted,
        methods=methods,
        models=there.models if set(there.models) <= set(wanted.models) else wanted.models,
        budgets_flops=(
            there.budgets_flops if set(there.budgets_flops) <= set(wanted.budgets_flops) else wanted.budgets_flops
        ),
    )
    return first_difference(reduced.identity(), there.identity())


def _reduced(wanted: MethodSpec, there: MethodSpec, more_trials: bool) -> MethodSpec:
    return replace(
        wanted,
        models=there.models if set(there.models) <= set(wanted.models) else wanted.models,
        num_trials=there.num_trials if more_trials and wanted.num_trials > there.num_trials else wanted.num_trials,
    )


def added(there: Plan, wanted: Plan) -> tuple[Added, ...]:
    """The trials of ``wanted`` that are not in ``there``, in the order in which they are run."""
    before = {planned.cell: planned.num_trials for planned in there.cells}
    more = ((planned.cell, planned.num_trials - before.get(planned.cell, 0)) for planned in wanted.cells)
    return tuple(Added(cell=cell, num_trials=n, is_new=cell not in before) for cell, n in more if n > 0)


def sentences(found: tuple[Added, ...]) -> tuple[str, ...]:
    """What is added, for a person."""
    if not found:
        return ("This spec adds nothing to the store.",)
    total = sum(item.num_trials for item in found)
    flops = format_number(float(f"{sum(item.flops for item in found):.3g}"))
    return (
        f"This spec adds {total} trial{'s' if total > 1 else ''} to the store, {flops} FLOPs, and runs nothing again:",
        *(f"{item.cell.words}: {item.num_trials}{'' if item.is_new else ' more'}" for item in found),
    )


def record(found: tuple[Added, ...]) -> dict[str, Any]:
    """For JSON."""
    return {
        "num_trials": sum(item.num_trials for item in found),
        "flops": sum(item.flops for item in found),
        "cells": [
            {
                "budget_flops": item.cell.budget_flops,
                "model": item.cell.model,
                "method": item.cell.label,
                "num_trials": item.num_trials,
                "is_new": item.is_new,
            }
            for item in found
        ],
    }
