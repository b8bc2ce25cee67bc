"""What a sweep's status, and a trial trained again, look like in a terminal.

Knows how to show the values that the other packages return. Never computes them.
"""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.live import Live
from cluster.plain import facts_table, plain_table
from cluster.status import SweepStatus
from cluster.view import duration
from sweeps.reproduction import Reproduction
from trainer.result import TrialState
from trainer.trial import format_flops

MOST_FAILURES = 10
MOST_RUNNING = 16
"""Running trials shown; a cluster may have hundreds."""


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


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
