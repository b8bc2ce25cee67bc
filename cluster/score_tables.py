"""Scores before a person's eyes: progress of an evaluation, and the table at its end.

Knows scores and rows as tables. Never knows how an evaluation runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.view import PLAIN_SECONDS, duration
from trainer.trial import format_flops

if TYPE_CHECKING:
    import pandas as pd

    from analysis.aggregate import Aggregate, Average
    from cluster.evaluate import EvaluationProgress
    from trainer.result import TrialResult

MOST_TASKS = 6
"""More tasks than this are shown by their types."""


@contextmanager
def watching_scores(console: Console) -> Iterator[Callable[[EvaluationProgress], None]]:
    """A callable that shows the progress it is given: as a live picture in a terminal, else as a line now and then."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda progress: live.update(_picture(progress))


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __call__(self, progress: EvaluationProgress) -> None:
        if time.monotonic() >= self._next or progress.num_done == progress.num_scores:
            self._console.print(_line(progress), highlight=False, soft_wrap=True)
            self._next = time.monotonic() + PLAIN_SECONDS


def _line(progress: EvaluationProgress) -> str:
    failed = f", {progress.num_failed} failed" if progress.num_failed else ""
    left = progress.remaining_seconds
    words = "no estimate yet" if left is None else f"about {duration(left)} left"
    line = f"{progress.num_done} of {progress.num_scores} scores{failed}; {duration(progress.seconds)} gone, {words}"
    if progress.last is None:
        return line
    last = progress.last
    return f"{line}; last: {last.name} {last.task} {'failed' if last.error else _number(last.score)}"


def _picture(progress: EvaluationProgress) -> RenderableType:
    bar = ProgressBar(progress.num_scores, progress.num_done, width=36)
    return Group(bar, Text(_line(progress)))


def score_table(results: Sequence[TrialResult], scores: pd.DataFrame, baselines: pd.DataFrame) -> RenderableType:
    """A line for each trial, then one for each baseline; more than a few tasks are shown by their types.

    ``scores`` and ``baselines`` hold the lines that are asked for, and no others.
    """
    from analysis.aggregate import aggregates

    found, of_baselines = aggregates(scores), aggregates(baselines)
    by_type = scores["task"].nunique() > MOST_TASKS
    column = "task_type" if by_type else "task"
    columns = sorted(scores[column].unique())
    table = Table(box=None, padding=(0, 2, 0, 0))
    # Where each type has one task, the two means are one.
    means = ("mean", "mean of types") if scores["task_type"].nunique() < scores["task"].nunique() else ("mean",)
    for heading in ("budget", "model", "method", "loss", *columns, *means):
        table.add_column(heading, justify="left" if heading in ("model", "method") else "right", overflow="fold")
    for result in results:
        spec, metrics = result.spec, result.metrics
        assert metrics is not None
        own = scores[scores["trial_id"] == spec.trial_id]
        table.add_row(
            format_flops(spec.budget_flops),
            spec.model,
            spec.method.label,
            f"{metrics.loss:.4f}",
            *_by(column, own, columns),
            *_means(found.get(spec.trial_id))[: len(means)],
        )
    for name, rows in baselines.groupby("trial_id", sort=True):
        # A mean over fewer tasks than the models' is no measure of them.
        whole = rows["task"].nunique() == scores["task"].nunique()
        averages = _means(of_baselines.get(str(name)) if whole else None)[: len(means)]
        table.add_row("", str(name), "word matching", "", *_by(column, rows, columns), *averages)
    notes = "Means are of main metrics, with 90 % intervals over tasks: how far other tasks like these would move them."
    return Group(table, Text(), Text(notes))


def _by(column: str, rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    scores = rows.groupby(column)["score"].mean()
    return [_number(scores.get(name)) for name in names]


def _means(found: Aggregate | None) -> list[str]:
    return [_average(found.mean), _average(found.mean_of_categories)] if found else ["-", "-"]


def _average(average: Average) -> str:
    if average.low is None or average.high is None:
        return _number(average.value)
    return f"{_number(average.value)} [{_number(average.low)}, {_number(average.high)}]"


def _number(value: float | None) -> str:
    # NaN is unlike itself: a table's way to say that there is none.
    return "-" if value is None or value != value else f"{value:.3f}"


def score_record(results: Sequence[TrialResult], scores: pd.DataFrame, baselines: pd.DataFrame) -> dict[str, Any]:
    """The same as plain values, with every score."""
    from analysis.aggregate import aggregates

    found = aggregates(scores)
    columns = ["task", "task_type", "score", "main_metric", "dataset_revision", "mteb_version", "seconds"]

    def of(rows: pd.DataFrame, name: str) -> list[dict[str, Any]]:
        lines = rows[rows["trial_id"] == name][columns].astype(object)
        return [dict(zip(columns, line, strict=True)) for line in lines.where(lines.notna(), None).to_numpy().tolist()]

    return {
        "trials": [
            {
                "trial_id": result.spec.trial_id,
                "loss": result.metrics.loss if result.metrics else None,
                "scores": of(scores, result.spec.trial_id),
                "aggregate": asdict(found[result.spec.trial_id]) if result.spec.trial_id in found else None,
            }
            for result in results
        ],
        "baselines": [{"name": name, "scores": of(baselines, name)} for name in sorted(set(baselines["trial_id"]))],
    }
