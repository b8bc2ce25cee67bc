"""What a plan looks like in a terminal and as JSON: every cell before it is paid, what is left out, the totals.

Knows how to show the values that the other packages return. Never computes them, and loads nothing that they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.plain import plain_table
from sweeps.plan import LeftOut, Plan, PlannedCell, short_model
from trainer.trial import format_flops

if TYPE_CHECKING:
    from cluster.outlook import Outlook, Seat
    from sweeps.cost import Cost

GIB = 2**30
NO_SEATS: Outlook = {}


def plan_view(
    name: str, plan: Plan, cost: Cost | None = None, proposals: Sequence[str] = (), seats: Outlook = NO_SEATS
) -> RenderableType:
    """Every cell, what is left out and why, the totals, and what they cost."""
    parts: list[RenderableType] = [Text(assumption) for assumption in assumptions(plan)]
    names = _names([*(planned.cell.model for planned in plan.cells), *(out.cell.model for out in plan.left_out)])
    if plan.cells:
        parts.append(_plan_table(plan.cells, names, cost, seats))
    if seats:
        parts.append(Text(_what_runs_where(seats, cost)))
    if plan.left_out:
        parts += [Text(""), Text(f"left out: {len(plan.left_out)} cells"), _left_out_table(plan.left_out, names)]
    if cost:
        parts += [Text(""), _cost_table(plan, cost)]
    if proposals:
        parts += [Text(""), *(Text(f"- {sentence}") for sentence in proposals)]
    return Group(*parts, Text(""), plan_summary(name, plan, cost, told=True))


def plan_summary(name: str, plan: Plan, cost: Cost | None = None, *, told: bool = False) -> Text:
    """The totals in a sentence, and what they cost in another; ``told`` where it stands below the cells."""
    total = plan.total
    why = "" if told else " (isoflop plan says why)"
    left_out = f"; {len(plan.left_out)} cells are left out{why}" if plan.left_out else ""
    trials = f"{'at most ' if plan.at_most else ''}{total.num_trials} trials in {total.num_cells} cells"
    paid = f"\nthat is {cost.sentence()}" if cost else ""
    return Text(f"sweep {name}: {trials}, {format_flops(total.flops)} FLOPs{left_out}{paid}")


def assumptions(plan: Plan) -> tuple[str, ...]:
    """What the plan takes for granted because nothing has been prepared yet."""
    facts = plan.facts
    if facts.measured:
        return ()
    pairs = "the number of pairs unknown" if facts.num_train_pairs is None else f"{facts.num_train_pairs:,} pairs"
    return (
        f"The data are not prepared yet: {facts.tokens_per_pair:g} tokens a pair and {pairs} are assumed. "
        "'isoflop data prepare' prepares and measures them.",
    )


def plan_record(
    name: str, plan: Plan, cost: Cost | None = None, proposals: Sequence[str] = (), seats: Outlook = NO_SEATS
) -> dict[str, Any]:
    """The plan as plain values, for JSON."""
    return {
        "sweep": name,
        "facts": asdict(plan.facts),
        "cells": [_cell_record(planned, cost, seats) for planned in plan.cells],
        "left_out": [
            {
                "budget_flops": out.cell.budget_flops,
                "model": out.cell.model,
                "method": out.cell.label,
                "reason": out.reason,
            }
            for out in plan.left_out
        ],
        "total": asdict(plan.total),
        "cost": cost.to_dict() if cost else None,
        "proposals": list(proposals),
    }


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """The totals, labelled."""
    total = plan.total
    budgets = [f"{format_flops(budget)} ({part.num_trials} trials)" for budget, part in plan.budgets.items()]
    return [
        ("trials", f"{total.num_trials} in {total.num_cells} cells"),
        ("FLOPs", format_flops(total.flops)),
        ("budgets", ", ".join(budgets)),
    ]


def _cell_record(planned: PlannedCell, cost: Cost | None, seats: Outlook) -> dict[str, Any]:
    cell = planned.cell
    seat = seats.get((cell.model, cell.method))
    hours = cost.cell_hours[cell] if cost else None
    record = {
        "budget_flops": cell.budget_flops,
        "model": cell.model,
        "method": cell.label,
        "num_trials": planned.num_trials,
        "num_params_non_embedding": planned.counts.non_embedding,
        "tokens": planned.tokens,
        "pairs": planned.pairs,
        "steps": planned.steps,
        "epochs": planned.epochs,
        "flops": planned.flops,
        "gpu_hours": hours,
        "money": cost.paid(hours) if cost and hours is not None else None,
        "does_not_fit": seat if isinstance(seat, str) else None,
    }
    if seat is None or isinstance(seat, str):
        return record | {"memory_bytes_per_worker": None, "placement": None}
    return record | {"memory_bytes_per_worker": seat.memory_bytes, "placement": asdict(seat.placement)}


def _plan_table(cells: Iterable[PlannedCell], names: Mapping[str, str], cost: Cost | None, seats: Outlook) -> Table:
    """In 120 columns: a cell's FLOPs are left out where hours say more, epochs where nothing is known of the data."""
    cells = tuple(cells)
    has_epochs = any(planned.epochs is not None for planned in cells)
    headings = ["budget", "model", "method", "params", "tokens", "steps", *(["epochs"] if has_epochs else []), "trials"]
    headings += ["runs on", "GiB"] if seats else []
    headings += _cost_headings(cost) if cost else ["FLOPs"]
    table = plain_table("", *headings)
    for planned in cells:
        cell = planned.cell
        table.add_row(
            format_flops(cell.budget_flops),
            names[cell.model],
            cell.label,
            _short(planned.counts.non_embedding),
            _short(planned.tokens),
            f"{planned.steps:,}",
            *(["" if planned.epochs is None else f"{planned.epochs:.2f}"] if has_epochs else []),
            str(planned.num_trials),
            *(_seat_words(seats.get((cell.model, cell.method))) if seats else ()),
            *(_paid(cost, cost.cell_hours[cell]) if cost else [format_flops(planned.flops)]),
        )
    return table


def _seat_words(seat: Seat | str | None) -> tuple[str, str]:
    if seat is None or isinstance(seat, str):
        return ("does not fit" if seat else "", "")
    return seat.words, f"{seat.memory_bytes / GIB:.1f}"


def _what_runs_where(seats: Outlook, cost: Cost | None) -> str:
    on_gpu = any(not isinstance(seat, str) and seat.placement.device == "cuda" for seat in seats.values())
    where = f", on machines of 8 {cost.hardware.device}" if on_gpu and cost else ""
    again = "; *: activations are computed again" if any(_recomputes(seat) for seat in seats.values()) else ""
    later = "" if on_gpu else "; the machines are looked at when the sweep is launched"
    return f"runs on: what a trial takes{where}{again}. GiB: estimated memory of one worker{later}."


def _recomputes(seat: Seat | str) -> bool:
    return not isinstance(seat, str) and seat.placement.recompute


def _cost_headings(cost: Cost) -> list[str]:
    return ["GPU-hours"] if cost.money is None else ["GPU-hours", cost.currency or "money"]


def _paid(cost: Cost, hours: float) -> list[str]:
    from analysis.hardware import amount  # brings pandas, which a plan without a cost does without

    money = cost.paid(hours)
    return [amount(hours)] if money is None else [amount(hours), amount(money)]


def _cost_table(plan: Plan, cost: Cost) -> Table:
    table = plain_table("", "budget", "trials", *_cost_headings(cost))
    for budget, hours in cost.hours.items():
        table.add_row(format_flops(budget), str(plan.budgets[budget].num_trials), *_paid(cost, hours))
    return table


def _left_out_table(left_out: Iterable[LeftOut], names: Mapping[str, str]) -> Table:
    table = plain_table("", "budget", "model", "method", "why")
    for out in left_out:
        table.add_row(format_flops(out.cell.budget_flops), names[out.cell.model], out.cell.label, out.reason)
    return table


def _names(models: Iterable[str]) -> dict[str, str]:
    """Models without their organisation, where that tells them apart."""
    models = dict.fromkeys(models)
    short = [short_model(model) for model in models]
    return {model: name if short.count(name) == 1 else model for model, name in zip(models, short, strict=True)}


def _short(count: int) -> str:
    """A count with three digits: ``1,189,888`` as ``1.19M``."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:#.3g}{letter}".replace(f".{letter}", letter)
    return str(count)
