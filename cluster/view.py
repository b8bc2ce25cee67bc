"""Work before a person's eyes: a live picture in a terminal, a line now and then anywhere else.

Knows how the progress of a preparation and of a sweep looks. Never knows where it comes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.progress import BestTrial, Report, SweepProgress
from trainer.data import Report as PrepareReport
from trainer.result import CurvePoint, TrialResult, TrialState
from trainer.trial import format_flops

PLAIN_SECONDS = 10.0
WATCH_SECONDS = 2.0
MOST_RUNNING = 12
"""Running trials shown; a cluster may have hundreds."""


@contextmanager
def watching(console: Console) -> Iterator[Report]:
    """A callable that shows the progress it is given: as a live picture in a terminal, else as lines."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda progress: live.update(picture(progress))


def watch(console: Console, look: Callable[[], tuple[RenderableType, bool]]) -> None:
    """Show what ``look`` returns, again and again, until it says that this is the end, or Ctrl-C."""
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            shown, is_end = look()
            live.update(shown, refresh=True)
            if is_end:
                return
            time.sleep(WATCH_SECONDS)


@contextmanager
def preparing(console: Console) -> Iterator[PrepareReport]:
    """A callable for ``trainer.prepare``: a bar with the time left for each stage in a terminal, else lines."""
    if not console.is_terminal:
        yield _StageLines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        stages: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage)
            bars.update(stages[stage], completed=done, total=total or None)

        yield report


@contextmanager
def training(console: Console, recorded: TrialResult) -> Iterator[Callable[[CurvePoint], None]]:
    """A callable for ``trainer.loop.train`` of one trial that was trained before: a bar in a terminal, else lines."""
    took = f"{recorded.spec.trial_id}, {duration(recorded.spending.seconds)} the first time"
    with preparing(console) as report:
        yield lambda point: report(took, point.step, recorded.spending.steps)


def picture(progress: SweepProgress) -> RenderableType:
    """Bars, the best so far at each budget, and what runs."""
    bars = Table.grid(padding=(0, 1))
    bars.add_row("trials", ProgressBar(progress.num_trials, progress.num_rows, width=36), Text(trial_words(progress)))
    share = ProgressBar(max(1, progress.planned_flops), progress.spent_flops, width=36)
    bars.add_row("FLOPs", share, Text(flops_words(progress)))
    bars.add_row("time", Text(""), Text(time_words(progress)))
    parts: list[RenderableType] = [bars]
    if progress.best:
        parts += [Text(""), _best_table(progress.best)]
    if progress.running:
        parts += [Text(""), _running_table(progress)]
    return Group(*parts)


def line(progress: SweepProgress) -> str:
    """The progress in one line of text."""
    parts = [f"{trial_words(progress)}", flops_words(progress), time_words(progress)]
    if progress.best:
        best = progress.best[-1]
        parts.append(f"best at {format_flops(best.spec.budget_flops)}: {_best_words(best)}")
    return "; ".join(parts)


def trial_words(progress: SweepProgress) -> str:
    others = {state: number for state, number in progress.states.items() if state is not TrialState.COMPLETE and number}
    words = "".join(f", {number} {state.lower()}" for state, number in sorted(others.items()))
    return f"{progress.num_rows} of {progress.num_trials} trials{words}"


def flops_words(progress: SweepProgress) -> str:
    share = progress.spent_flops / max(1, progress.planned_flops)
    return f"{share:.0%} of {format_flops(progress.planned_flops)} FLOPs"


def time_words(progress: SweepProgress) -> str:
    left = progress.remaining_seconds
    return f"{duration(progress.seconds)} gone, " + (
        "no estimate yet" if left is None else f"about {duration(left)} left"
    )


def duration(seconds: float) -> str:
    """``75`` as ``1:15``, ``3675`` as ``1:01:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _StageLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._next = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage or time.monotonic() >= self._next:
            share = f": {done:,} of {total:,}" if total else f": {done:,}" if done else ""
            self._console.print(f"{stage}{share}", highlight=False, soft_wrap=True)
            self._stage, self._next = stage, time.monotonic() + PLAIN_SECONDS


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __call__(self, progress: SweepProgress) -> None:
        if time.monotonic() >= self._next or progress.num_rows == progress.num_trials:
            self._console.print(line(progress), highlight=False, soft_wrap=True)
            self._next = time.monotonic() + PLAIN_SECONDS


def _best_words(best: BestTrial) -> str:
    return f"{best.loss:.4f} ({best.spec.model}, {best.spec.method.label})"


def _best_table(best: tuple[BestTrial, ...]) -> Table:
    table = Table(
        title="best held-out loss so far", title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0)
    )
    for heading in ("budget", "loss", "model", "method"):
        table.add_column(heading, justify="right" if heading in ("budget", "loss") else "left")
    for found in best:
        spec = found.spec
        table.add_row(format_flops(spec.budget_flops), f"{found.loss:.4f}", spec.model, spec.method.label)
    return table


def _running_table(progress: SweepProgress) -> Table:
    hidden = len(progress.running) - MOST_RUNNING
    title = "running" + (f" ({hidden} more)" if hidden > 0 else "")
    table = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0), show_header=False)
    for trial in progress.running[:MOST_RUNNING]:
        loss = "starting" if trial.loss is None else f"training loss {trial.loss:.3f}"
        table.add_row(trial.spec.trial_id, ProgressBar(1.0, trial.share, width=16), f"{trial.share:.0%}", loss)
    return table
