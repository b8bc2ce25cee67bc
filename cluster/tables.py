"""What a plan and a sweep's status look like in a terminal.

Knows how to show the values that the other packages return. Never computes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.live import Live
from cluster.status import SweepStatus
from cluster.view import duration
from sweeps.cost import Cost
from sweeps.plan import LeftOut, Plan, PlannedCell
from sweeps.reproduction import Reproduction
from trainer.result import TrialState
from trainer.trial import format_flops

MOST_FAILURES = 10
MOST_RUNNING = 16
"""Running trials shown; a cluster may have hundreds."""


def plan_view(name: str, plan: Plan, cost: Cost | None = None, proposals: Sequence[str] = ()) -> RenderableType:
    """Every cell, what is left out and why, the totals, and what they cost."""
    parts: list[RenderableType] = [Text(assumption) for assumption in assumptions(plan)]
    if plan.cells:
        parts.append(_plan_table(plan.cells))
    if plan.left_out:
        parts += [Text(""), Text(f"left out: {len(plan.left_out)} cells"), _left_out_table(plan.left_out)]
    if cost:
        parts += [Text(""), _cost_table(plan, cost)]
    if proposals:
        parts += [Text(""), *(Text(f"- {sentence}") for sentence in proposals)]
    return Group(*parts, Text(""), plan_summary(name, plan, cost))


def plan_summary(name: str, plan: Plan, cost: Cost | None = None) -> Text:
    """The totals in a sentence, and what they cost in another."""
    total = plan.total
    left_out = f"; {len(plan.left_out)} cells are left out (isoflop plan says why)" if plan.left_out else ""
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


def plan_record(name: str, plan: Plan, cost: Cost | None = None, proposals: Sequence[str] = ()) -> dict[str, Any]:
    """The plan as plain values, for JSON."""
    return {
        "sweep": name,
        "facts": asdict(plan.facts),
        "cells": [
            {
                "budget_flops": planned.cell.budget_flops,
                "model": planned.cell.model,
                "method": planned.cell.label,
                "num_trials": planned.num_trials,
                "num_params_non_embedding": planned.counts.non_embedding,
                "tokens": planned.tokens,
                "pairs": planned.pairs,
                "steps": planned.steps,
                "epochs": planned.epochs,
                "flops": planned.flops,
            }
            for planned in plan.cells
        ],
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


def status_view(status: SweepStatus) -> RenderableType:
    """Trials by state for each budget and method, who drives it, and what failed."""
    share = status.spent_flops / max(1, status.planned_flops)
    facts = facts_table(
        [
            ("sweep", status.name),
            ("store", status.store),
            ("driver", _driver_words(status)),
            ("trials", f"{status.num_rows} of {status.num_trials} have a row, {status.num_begun} more have begun"),
            ("FLOPs", f"{format_flops(status.spent_flops)} of {format_flops(status.planned_flops)} ({share:.0%})"),
            *([("time", time_words(status.live))] if status.live else []),
        ]
    )
    states = [state for state in TrialState if status.states.get(state)] or [TrialState.COMPLETE]
    table = plain_table("", "budget", "method", "trials", *(state.lower() for state in states), "best loss", "model")
    for group in status.groups:
        numbers = [str(group.states.get(state, 0)) for state in states]
        loss = "" if group.best_loss is None else f"{group.best_loss:.4f}"
        table.add_row(
            format_flops(group.budget_flops), group.method, str(group.num_trials), *numbers, loss, group.best_model
        )
    failures = [
        Text(f"failed: {failure.trial_id}\n{_indented(failure.error)}") for failure in status.failures[:MOST_FAILURES]
    ]
    if len(status.failures) > MOST_FAILURES:
        failures.append(Text(f"... and {len(status.failures) - MOST_FAILURES} more (--json shows all)"))
    running: list[RenderableType] = (
        [Text(""), running_table(status.live)] if status.live and status.live.running else []
    )
    decided = [Text(sentence) for sentence in status.decided]
    if decided:
        decided.append(Text("'isoflop decisions' says why of each."))
    return Group(facts, table, *decided, *running, *failures, *(Text(sentence) for sentence in status.broken))


def running_table(live: Live) -> Table:
    """What runs now, by its trial id: how far, its last loss, how fast, how much longer."""
    hidden = len(live.running) - MOST_RUNNING
    title = "running" + (f" ({hidden} more)" if hidden > 0 else "")
    headings = ("trial", "", "share", "train loss", "tokens/s", "MFU", "left")
    table = plain_table(title, *headings)
    for trial in live.running[:MOST_RUNNING]:
        table.add_row(
            trial.trial_id,
            ProgressBar(1.0, trial.share, width=16),
            f"{trial.share:.0%}",
            "starting" if trial.loss is None else f"{trial.loss:.3f}",
            "" if trial.tokens_per_second is None else f"{trial.tokens_per_second:,.0f}",
            "" if trial.mfu is None else f"{trial.mfu:.0%}",
            "" if trial.seconds is None else duration(trial.seconds),
        )
    return table


def time_words(live: Live) -> str:
    left = live.remaining_seconds
    words = "no estimate yet" if left is None else f"about {duration(left)} left"
    return f"{duration(live.seconds)} gone, {words}; {len(live.running)} trials run"


def reproduction_view(found: Reproduction) -> RenderableType:
    """Every compared quantity, in the row and again."""
    table = plain_table("", "quantity", "in the row", "again", "difference")
    for line in found.lines:
        far = "" if line.difference is None else "none" if line.is_same else f"{line.difference:.1e}"
        table.add_row(line.name, _short(line.recorded), _short(line.again), far)
    return Group(table, Text(""))


def _short(value: object) -> str:
    """A value in full, but for a hash."""
    return "none" if value is None else str(value)[:20]


def _driver_words(status: SweepStatus) -> str:
    if status.driver:
        who = status.driver
        return f"running since {who.started_at}: process {who.pid} on {who.host}, dashboard {who.dashboard}"
    if status.is_driven:
        return "starting"
    if status.num_rows == status.num_trials:
        return "none: every trial has its row"
    return f"none that this machine can see: go on with 'isoflop resume {status.store}'"


def _plan_table(cells: Iterable[PlannedCell]) -> Table:
    table = plain_table("", "budget", "model", "method", "parameters", "tokens", "steps", "epochs", "trials", "FLOPs")
    for planned in cells:
        table.add_row(
            format_flops(planned.cell.budget_flops),
            planned.cell.model,
            planned.cell.label,
            f"{planned.counts.non_embedding:,}",
            f"{planned.tokens:,}",
            f"{planned.steps:,}",
            "unknown" if planned.epochs is None else f"{planned.epochs:.2f}",
            str(planned.num_trials),
            format_flops(planned.flops),
        )
    return table


def _cost_table(plan: Plan, cost: Cost) -> Table:
    from analysis.hardware import amount  # brings pandas, which a status does without

    table = plain_table("", "budget", "trials", "GPU-hours", "money")
    price = cost.hardware.price_per_hour
    for budget, part in plan.budgets.items():
        hours = cost.hours[budget]
        money = "" if price is None else amount(hours * price)
        table.add_row(format_flops(budget), str(part.num_trials), amount(hours), money)
    return table


def _left_out_table(left_out: Iterable[LeftOut]) -> Table:
    table = plain_table("", "budget", "model", "method", "why")
    for out in left_out:
        table.add_row(format_flops(out.cell.budget_flops), out.cell.model, out.cell.label, out.reason)
    return table


def facts_table(facts: Iterable[tuple[str, str]]) -> Table:
    """Labels with their values."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for label, value in facts:
        table.add_row(label, Text(value))
    return table


def plain_table(title: str, *headings: str) -> Table:
    """A plain table, words on the left and numbers on the right."""
    table = Table(title=title or None, title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
    words = {
        "model",
        "method",
        "why",
        "side",
        "source",
        "trial",
        "quantity",
        "task",
        "tokenizer",
        "held out",
        "seen in",
        "languages",
    }
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=heading != "why")
    return table


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
