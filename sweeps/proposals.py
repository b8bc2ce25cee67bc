"""Proposals: what a plan leaves out, repeats or cannot answer, and what would mend it at which cost, in sentences.

Knows a spec and its plan. Pure; never knows machines (``cluster/outlook.py`` says what does not fit them), or a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from sweeps.plan import LeftOut, Plan, PlannedCell, short_model
from sweeps.sentences import format_number
from sweeps.spec import SweepSpec

MANY_EPOCHS = 4.0
"""Beyond about so many passes, repeated tokens teach much less than fresh ones (Muennighoff et al. 2023, figure 1)."""
NEEDED = 3
"""Models that a profile needs for a minimum inside."""


def proposals(spec: SweepSpec, plan: Plan) -> tuple[str, ...]:
    """Sentences for a person, in the order of the spec's models: too few steps, too many repeats, no minimum inside."""
    found: list[str] = []
    for model in spec.models:
        left_out = [out for out in plan.left_out if out.cell.model == model]
        planned = [one for one in plan.cells if one.cell.model == model]
        found += _too_short(spec, model, [out for out in left_out if out.pairs is not None])
        found += _too_long(spec, model, [out for out in left_out if out.epochs is not None])
        found += _repeated(plan, model, [one for one in planned if (one.epochs or 0.0) > MANY_EPOCHS])
    return (*found, *_without_minimum(spec, plan))


def _too_short(spec: SweepSpec, model: str, left_out: list[LeftOut]) -> list[str]:
    if not left_out:
        return []
    least = min(left_out, key=lambda out: (out.pairs or 0, out.cell.budget_flops))
    pairs, budget, batch_size = least.pairs or 0, least.cell.budget_flops, spec.fixed.batch_size
    sentence = (
        f"{short_model(model)} gets {_counted(pairs // batch_size, 'step')} at {_number(budget)} FLOPs by "
        f"{least.cell.label}: left out{_elsewhere(left_out)}"
    )
    if not pairs:
        return [f"{sentence}."]
    enough = _rounded_up(budget * spec.limits.min_steps * batch_size / pairs)
    return [f"{sentence}; from {_number(enough)} FLOPs on it gets {spec.limits.min_steps}."]


def _too_long(spec: SweepSpec, model: str, left_out: list[LeftOut]) -> list[str]:
    if not left_out:
        return []
    worst = max(left_out, key=lambda out: out.epochs or 0.0)
    epochs = worst.epochs or 0.0
    return [
        f"{short_model(model)} goes {epochs:.3g} times through the data at {_number(worst.cell.budget_flops)} FLOPs by "
        f"{worst.cell.label}: left out{_elsewhere(left_out)}; {epochs / spec.limits.max_epochs:.2g} times the pairs "
        f"would keep it, or limits.max_epochs={_number(_rounded_up(epochs))}."
    ]


def _repeated(plan: Plan, model: str, planned: list[PlannedCell]) -> list[str]:
    if not planned:
        return []
    worst = max(planned, key=lambda one: one.epochs or 0.0)
    flops = sum(one.flops for one in planned)
    share = flops / plan.total.flops
    pairs = plan.facts.pairs_per_epoch or plan.facts.num_train_pairs or 0
    more = _rounded_up(((worst.epochs or 0.0) / MANY_EPOCHS - 1) * pairs)
    return [
        f"{short_model(model)} repeats the data {worst.epochs:.2g} times at {_number(worst.cell.budget_flops)} FLOPs: "
        f"beyond about {_number(MANY_EPOCHS)} times repeats teach less; add {more:,.0f} pairs, or cap the epochs "
        f"by limits.max_epochs={_number(MANY_EPOCHS)}, which leaves out {_counted(len(planned), 'cell')} of it and "
        f"{_number(_rounded(flops))} FLOPs ({share:.1%} of the sweep)."
    ]


def _without_minimum(spec: SweepSpec, plan: Plan) -> list[str]:
    """Profiles that have too few models because cells are left out; a sweep of one or two models asks for none."""
    found = []
    for budget in sorted(spec.budgets_flops):
        few: dict[int, list[str]] = {}
        for method in spec.methods:
            number = sum(c.cell.budget_flops == budget and c.cell.label == method.label for c in plan.cells)
            if number < NEEDED <= len(method.models):
                few.setdefault(number, []).append(method.label)
        for number, methods in sorted(few.items()):
            found.append(
                f"{', '.join(methods)} at {_number(budget)} FLOPs: {_counted(number, 'model')} left, and a minimum "
                f"inside needs {NEEDED}; add smaller models, or leave this budget out."
            )
    return found


def _elsewhere(left_out: Iterable[LeftOut]) -> str:
    """How many more cells of the model are left out for the same reason."""
    more = len(list(left_out)) - 1
    return f", and so {'are' if more > 1 else 'is'} {_counted(more, 'more cell')}" if more else ""


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return format_number(float(value))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _rounded_up(value: float) -> float:
    """To two digits, never below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return float(f"{math.ceil(value / step - 1e-9) * step:.3g}")
