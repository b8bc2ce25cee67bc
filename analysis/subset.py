"""Which few tasks stand for many: a subset whose scores foretell the average over all of them.

Knows a table of scores, a line a model and a column a task. Never knows where they come from, or what a task is.

Two ways, as in the paper (its R scripts; appendix on evaluation): the lasso path of the average on the tasks, and plain
correlation, here a forward choice by how well the mean of the chosen ones goes with the average. How stable a choice is
comes from resampled models: what is chosen on a sample is judged on the models that are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import wording
from analysis.fit import FloatArray, Interval, percentile_interval

NUM_SAMPLES = 200
FEW_MODELS = 10
MIN_UNSEEN = 4
"""Models that a sample must leave out for a correlation among them to mean something."""
MIN_MODELS = 5

Way = Literal["lasso", "correlation"]
Chosen = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """How well a choice made on some models does on others, over many samples: median and middle 90 %."""

    median: float
    interval: Interval

    @property
    def words(self) -> str:
        return f"{self.median:.3f} ({self.interval.low:.3f} to {self.interval.high:.3f})"

    def to_list(self) -> list[float | None]:
        return [self.median, *self.interval.to_list()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """The tasks that one way chooses, and how far they can be trusted."""

    way: Way
    tasks: tuple[str, ...]
    """In the order in which they were chosen."""
    correlation: float
    """Pearson's, of their mean with the average over all tasks, over the models that they were chosen by."""
    correlation_with_others: float | None
    """Of their mean with the mean of the tasks that were left out: nothing is on both sides. ``None`` where all are
    chosen."""
    unseen_mean: Unseen | None
    """Correlation of the chosen ones' mean with the average, over models that a sample left out; ``None`` with few."""
    unseen_prediction: Unseen | None
    """The same for a least-squares prediction of the average from the chosen ones."""
    unseen_random: Unseen | None
    """The same for the mean of as many tasks drawn at random: what choosing gains is the difference."""
    how_often: dict[str, float]
    """Share of the samples in which a task is chosen, for every task that ever is, the most frequent first."""

    def sentences(self) -> tuple[str, ...]:
        others = "" if self.correlation_with_others is None else (
            f", and with the mean of the tasks left out {self.correlation_with_others:.3f}"
        )  # fmt: skip
        said = [
            f"By {self.way}: {', '.join(self.tasks)}. Their mean correlates with the average over all tasks by "
            f"{self.correlation:.3f}{others}."
        ]
        if self.unseen_mean and self.unseen_prediction and self.unseen_random:
            said.append(
                f"On models that were not chosen by: {self.unseen_mean.words} for the mean, "
                f"{self.unseen_prediction.words} for a fitted prediction, {self.unseen_random.words} for tasks drawn "
                "at random (median and middle 90 % of the samples)."
            )
        told = [f"{task} {wording.share(share)}" for task, share in self.how_often.items()]
        if told:
            said.append(f"Chosen how often: {', '.join(told)}.")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        unseen = (self.unseen_mean, self.unseen_prediction, self.unseen_random)
        mean, prediction, random = (None if one is None else one.to_list() for one in unseen)
        return {
            "way": self.way,
            "tasks": list(self.tasks),
            "correlation": self.correlation,
            "correlation_with_others": self.correlation_with_others,
            "unseen_mean": mean,
            "unseen_prediction": prediction,
            "unseen_random": random,
            "how_often": self.how_often,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Subsets:
    """Both ways' choices from one table."""

    num_models: int
    num_tasks: int
    k: int
    subsets: tuple[Subset, ...]
    notes: tuple[str, ...]
    """What was left out and what to mind, in sentences."""

    def sentences(self) -> tuple[str, ...]:
        first = f"{self.k} of {self.num_tasks} tasks, by the scores of {self.num_models} models."
        return (first, *(line for subset in self.subsets for line in subset.sentences()), *self.notes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_models": self.num_models,
            "num_tasks": self.num_tasks,
            "k": self.k,
            "subsets": [subset.to_dict() for subset in self.subsets],
            "notes": list(self.notes),
        }


def choose_tasks(scores: pd.DataFrame, k: int, *, seed: int = 0) -> Subsets:
    """The ``k`` tasks that foretell the average best, by both ways.

    ``scores`` has a line for each model and a column for each task, without gaps (``analysis/score_table.py``). Raises
    ``ValueError`` for a ``k`` that leaves no choice, and where there are too few models.
    """
    if not 1 <= k < scores.shape[1]:
        raise ValueError(f"-k is {k} of {scores.shape[1]} tasks: give a number from 1 to {scores.shape[1] - 1}")
    if len(scores) < MIN_MODELS:
        raise ValueError(
            f"the table has {len(scores)} models with a score on every task: give {MIN_MODELS} or more, or fewer tasks"
        )
    values = scores.to_numpy(dtype=np.float64)
    ways: tuple[tuple[Way, Callable[[FloatArray, int], Chosen]], ...] = (
        ("lasso", by_lasso),
        ("correlation", by_correlation),
    )
    samples = _samples(values, seed)
    subsets = tuple(
        _subset(way, choose, values, list(map(str, scores.columns)), k, samples, seed) for way, choose in ways
    )
    notes = []
    if len(scores) < max(FEW_MODELS, 2 * k):
        notes.append(
            f"Mind: {len(scores)} models are few for choosing {k} tasks: another set of models may choose others."
        )
    return Subsets(num_models=len(scores), num_tasks=scores.shape[1], k=k, subsets=subsets, notes=tuple(notes))


def by_lasso(values: FloatArray, k: int) -> Chosen:
    """The first ``k`` tasks of the lasso path of the average, (num_models, num_tasks) in, in the order of entry.

    Tasks are standardised and their weights not negative: a task that the average would have to be corrected by cannot
    stand for it. Where the path ends before (as many tasks as models), correlation fills up.
    """
    from sklearn.linear_model import lars_path

    scaled = _standardised(values)
    target = values.mean(axis=1)
    _, _, weights = lars_path(scaled, target - target.mean(), method="lasso", positive=True)
    entered: list[int] = []
    for column in weights.T:
        # Of those that are in at this point, in their order of entry: a task may leave the path again.
        entered = [task for task in entered if column[task] > 0]
        entered += [int(task) for task in np.flatnonzero(column > 0) if task not in entered]
        if len(entered) >= k:
            break
    return by_correlation(values, k, first=entered[:k])


def by_correlation(values: FloatArray, k: int, first: Sequence[int] = ()) -> Chosen:
    """``k`` tasks one after the other, each the one with which the mean of the chosen ones correlates best with the
    average of all; ``first`` are chosen already."""
    target = values.mean(axis=1)
    chosen = list(first)
    while len(chosen) < k:
        left = [task for task in range(values.shape[1]) if task not in chosen]
        together = values[:, chosen].sum(axis=1)
        gains = [correlation(together + values[:, task], target) for task in left]
        chosen.append(left[int(np.argmax(gains))])
    return np.array(chosen, dtype=np.int64)


def correlation(x: FloatArray, y: FloatArray) -> float:
    """Pearson's; 0 where either does not vary."""
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else 0.0


def _standardised(values: FloatArray) -> FloatArray:
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _samples(values: FloatArray, seed: int) -> list[tuple[Chosen, Chosen]]:
    """Models drawn with replacement, and those that were not drawn, where these are enough."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_SAMPLES):
        drawn = random.integers(0, len(values), len(values))
        out = np.setdiff1d(np.arange(len(values)), drawn)
        if len(out) >= MIN_UNSEEN and len(np.unique(drawn)) >= MIN_UNSEEN:
            found.append((drawn, out))
    return found


def _subset(
    way: Way,
    choose: Callable[[FloatArray, int], Chosen],
    values: FloatArray,
    tasks: Sequence[str],
    k: int,
    samples: Sequence[tuple[Chosen, Chosen]],
    seed: int,
) -> Subset:
    chosen = choose(values, k)
    target = values.mean(axis=1)
    others = np.delete(values, chosen, axis=1)
    counts, judged = np.zeros(values.shape[1]), []
    random = np.random.default_rng(seed + 1)
    for drawn, out in samples:
        ours = choose(values[drawn], k)
        counts[ours] += 1
        blind = random.choice(values.shape[1], k, replace=False)
        judged.append(
            (
                correlation(values[np.ix_(out, ours)].mean(axis=1), target[out]),
                correlation(_predicted(values, target, ours, drawn, out), target[out]),
                correlation(values[np.ix_(out, blind)].mean(axis=1), target[out]),
            )
        )
    mean, prediction, at_random = (_unseen(column) for column in zip(*judged, strict=True)) if judged else (None,) * 3
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda task: (-counts[task], tasks[task]))
    return Subset(
        way=way,
        tasks=tuple(tasks[task] for task in chosen.tolist()),
        correlation=correlation(values[:, chosen].mean(axis=1), target),
        correlation_with_others=correlation(values[:, chosen].mean(axis=1), others.mean(axis=1)),
        unseen_mean=mean,
        unseen_prediction=prediction,
        unseen_random=at_random,
        how_often={tasks[task]: float(counts[task] / len(samples)) for task in order},
    )


def _predicted(values: FloatArray, target: FloatArray, chosen: Chosen, drawn: Chosen, out: Chosen) -> FloatArray:
    """The average of the models in ``out``, by least squares on those in ``drawn``; of many solutions the shortest."""
    design = np.column_stack([np.ones(len(values)), values[:, chosen]])
    solution = np.linalg.lstsq(design[drawn], target[drawn], rcond=None)[0]
    return np.asarray(design[out] @ solution)


def _unseen(found: Sequence[float]) -> Unseen:
    draws = np.array(found)
    return Unseen(median=float(np.median(draws)), interval=percentile_interval(draws))
