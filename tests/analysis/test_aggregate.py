"""Averages over tasks: the paper's plain mean, by category, and the mean of categories, with intervals over tasks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis.aggregate import aggregate, aggregates

# Two retrieval tasks, three of STS, one of clustering.
SCORES = np.array([0.2, 0.4, 0.6, 0.8, 0.7, 0.3])
KINDS = np.array(["Retrieval", "Retrieval", "STS", "STS", "STS", "Clustering"])


def test_the_three_averages_are_what_they_are_called() -> None:
    found = aggregate(SCORES, KINDS)
    assert found.mean.value == pytest.approx(3.0 / 6)
    assert {name: average.value for name, average in found.categories.items()} == pytest.approx(
        {"Clustering": 0.3, "Retrieval": 0.3, "STS": 0.7}
    )
    assert found.mean_of_categories.value == pytest.approx((0.3 + 0.3 + 0.7) / 3)
    assert {name: average.num_tasks for name, average in found.categories.items()} == {
        "Clustering": 1, "Retrieval": 2, "STS": 3,
    }  # fmt: skip


def test_an_interval_is_that_of_drawing_tasks_again() -> None:
    """Of two tasks a draw's mean is either score with probability 1/4 and their middle with 1/2: the ends are both."""
    found = aggregate(np.array([0.2, 0.4]), np.array(["Retrieval", "Retrieval"])).mean
    assert (found.low, found.high) == pytest.approx((0.2, 0.4))
    # Of many tasks it is close to the normal one: 1.645 standard errors to each side.
    many = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = aggregate(many, np.full(400, "STS")).mean
    assert found.low is not None and found.high is not None
    half = 1.645 * many.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((many.mean() - half, many.mean() + half), abs=0.1 * half)


def test_one_task_has_no_interval() -> None:
    found = aggregate(SCORES, KINDS)
    assert found.categories["Clustering"].low is None and found.categories["Clustering"].high is None
    assert aggregate(np.array([0.5]), np.array(["STS"])).mean.low is None


def test_the_mean_of_categories_moves_with_the_tasks_of_each() -> None:
    found = aggregate(SCORES, KINDS).mean_of_categories
    assert found.low is not None and found.high is not None
    assert 0.2 <= found.low < found.value < found.high <= 0.8
    # With one task of each, it is the plain mean in every respect.
    alone = aggregate(SCORES, np.array(list("abcdef")))
    assert alone.mean_of_categories.value == pytest.approx(alone.mean.value)
    assert alone.mean_of_categories.low == pytest.approx(alone.mean.low, abs=0.01)
    assert alone.mean_of_categories.high == pytest.approx(alone.mean.high, abs=0.01)


def test_trials_are_told_apart_and_what_has_no_score_is_left_out() -> None:
    table = pd.DataFrame(
        {
            "trial_id": ["a"] * 6 + ["b"] * 6 + ["c"],
            "task": [f"task {i}" for i in range(6)] * 2 + ["task 0"],
            "task_type": [*KINDS, *KINDS, "STS"],
            "score": [*SCORES, *(SCORES / 2)[:5], math.nan, math.nan],
        }
    ).sample(frac=1, random_state=0)
    found = aggregates(table)
    assert found.keys() == {"a", "b"}
    assert found["a"] == aggregate(SCORES[[5, 0, 1, 2, 3, 4]], KINDS[[5, 0, 1, 2, 3, 4]])
    assert found["b"].mean.value == pytest.approx(2.7 / 2 / 5)
    assert (found["a"].mean.num_tasks, found["b"].mean.num_tasks) == (6, 5)
