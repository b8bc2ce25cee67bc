"""Scores on many tasks as few numbers: the paper's plain mean, means by category, and the mean of those.

Knows a table of scores. Never knows how they came about. Each number has an interval over tasks: how far it would move
with other tasks like these, which is what a choice of fifteen leaves open, and not how sure the scores themselves are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LEVEL = 0.9
NUM_DRAWS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    """A mean over tasks."""

    value: float
    low: float | None
    """Ends of the 90 % interval over tasks; ``None`` where one task cannot say how far another would be."""
    high: float | None
    num_tasks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """What one model is worth over the tasks that it was evaluated on."""

    mean: Average
    """Unweighted mean of main metrics (paper, section 4): a category counts by how many tasks it has."""
    categories: Mapping[str, Average]
    """By type of task."""
    mean_of_categories: Average
    """Unweighted mean of the categories' means: each category counts once."""


def aggregates(scores: pd.DataFrame) -> dict[str, Aggregate]:
    """By ``trial_id``, from lines with ``trial_id``, ``task``, ``task_type`` and ``score``.

    Trials are drawn with the same tasks, so that equal tasks make equal intervals. Lines without a score are left out,
    and a trial that has none is not in the answer: compare trials by ``num_tasks`` before comparing their means.
    """
    usable = scores.dropna(subset=["score"]).sort_values(["trial_id", "task_type", "task"])
    return {
        str(trial_id): aggregate(rows["score"].to_numpy(dtype=np.float64), rows["task_type"].to_numpy(dtype=str))
        for trial_id, rows in usable.groupby("trial_id", sort=True)
    }


def aggregate(scores: NDArray[np.float64], kinds: NDArray[np.str_]) -> Aggregate:
    """Of one model's scores, (tasks,), whose types of task are ``kinds``, (tasks,); at least one.

    Intervals are percentiles of a bootstrap over tasks (Efron 1979), seeded. For the mean of categories it has two
    stages: categories are drawn, and of each the tasks.
    """
    names = sorted(set(kinds.tolist()))
    rng = np.random.default_rng(0)
    of_names = [scores[kinds == name] for name in names]
    categories = {
        name: _average(float(own.mean()), _means(own, rng, 1)[:, 0], len(own))
        for name, own in zip(names, of_names, strict=True)
    }
    stages = np.stack([_means(own, rng, len(names)) for own in of_names])
    places = rng.integers(0, len(names), (NUM_DRAWS, len(names)))
    drawn = np.take_along_axis(stages, places[None], axis=0)[0]
    of_categories = float(np.mean([average.value for average in categories.values()]))
    return Aggregate(
        mean=_average(float(scores.mean()), _means(scores, rng, 1)[:, 0], len(scores)),
        categories=categories,
        mean_of_categories=_average(of_categories, drawn.mean(axis=1), len(scores)),
    )


def _means(scores: NDArray[np.float64], rng: np.random.Generator, num_columns: int) -> NDArray[np.float64]:
    """Means of draws of all these tasks, (NUM_DRAWS, num_columns)."""
    places = rng.integers(0, len(scores), (NUM_DRAWS, num_columns, len(scores)))
    means: NDArray[np.float64] = scores[places].mean(axis=2)
    return means


def _average(value: float, draws: NDArray[np.float64], num_tasks: int) -> Average:
    if num_tasks < 2:
        return Average(value=value, low=None, high=None, num_tasks=num_tasks)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Average(value=value, low=float(low), high=float(high), num_tasks=num_tasks)
