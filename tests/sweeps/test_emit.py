"""A recommendation as a sweep: it passes the border and the planner, and trains what was recommended."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.fit import Interval
from analysis.frontier import fit_frontier
from analysis.recommend import Recommendation, recommend
from sweeps.emit import one_cell
from sweeps.plan import DataFacts, plan, studies
from sweeps.reading import read_spec
from sweeps.spec import SweepSpec
from tests.analysis.law_rows import (
    FREEZE,
    FULL,
    LORA,
    NUM_TRAIN_PAIRS,
    TOKENS_PER_PAIR,
    law_rows,
    parabola_law,
)
from trainer.ladder import LADDERS, SHAPES
from trainer.trial import Method

FACTS = DataFacts(num_train_pairs=NUM_TRAIN_PAIRS, tokens_per_pair=TOKENS_PER_PAIR, measured=True)


def recommended(method: Method, budget: int) -> Recommendation:
    frontier = fit_frontier(law_rows(parabola_law(), methods=(method,)))
    return recommend(frontier, budget, LADDERS["nano"], TOKENS_PER_PAIR)


def emitted(spec: SweepSpec, answer: Recommendation) -> SweepSpec:
    return one_cell(spec, answer, noise_relative_sd=0.015, stated_at="2026-11-22T10:00:00+00:00")


@pytest.mark.parametrize("method", [FULL, LORA, FREEZE])
@pytest.mark.parametrize("budget", [3 * 10**9, 10**12, 10**14, 123_456_789_012_345_678])
def test_the_sweep_trains_the_recommendation(method: Method, budget: int) -> None:
    answer = recommended(method, budget)
    spec = read_spec(emitted(read_spec("quickstart"), answer).to_yaml())
    planned = plan(spec, FACTS, SHAPES)
    assert not planned.left_out
    [cell] = planned.cells
    assert (cell.cell.model, cell.cell.method) == (answer.model, answer.method)
    assert cell.cell.budget_flops == int(float(budget))
    assert cell.pairs == pytest.approx(answer.pairs, rel=1e-6)
    assert cell.num_trials == 1
    [study] = studies(spec, planned, data="d", revisions={answer.model: "r"}, shapes=SHAPES)
    assert not study.space.searched
    ours, space = answer.hyperparameters, study.space
    held = (space.learning_rate.value, space.temperature.value, space.weight_decay.value)  # type: ignore[union-attr]
    assert held == (ours.learning_rate, ours.temperature, ours.weight_decay)
    assert (
        study.fixed.with_searched(
            learning_rate=ours.learning_rate, temperature=ours.temperature, weight_decay=ours.weight_decay
        )
        == ours
    )


def test_a_written_sweep_is_read_back_as_itself_and_has_its_own_name() -> None:
    base, answer = read_spec("quickstart"), recommended(FULL, 10**12)
    spec = emitted(base, answer)
    assert read_spec(spec.to_yaml()) == spec
    assert spec.name == "quickstart-nano-25k-full-1.0e12"
    assert (spec.data, spec.evaluation, spec.resources, spec.seed) == (
        base.data,
        base.evaluation,
        base.resources,
        base.seed,
    )


def test_the_sweep_keeps_what_is_expected_of_it_outside_its_identity() -> None:
    base, answer = read_spec("quickstart"), recommended(FULL, 10**12)
    spec = emitted(base, answer)
    assert answer.loss is not None and answer.loss_interval is not None and spec.expected is not None
    assert (spec.expected.loss, spec.expected.sweep) == (answer.loss, "quickstart")
    assert (spec.expected.low, spec.expected.high) == (answer.loss_interval.low, answer.loss_interval.high)
    without = replace(spec, expected=None)
    assert (spec.hash, spec.identity()) == (without.hash, without.identity())
    assert "expected" not in without.to_yaml()
    unknown = replace(answer, loss=None, loss_interval=None)
    assert emitted(base, unknown).expected is None
    open_end = replace(answer, loss_interval=Interval(low=-math.inf, high=3.0))
    assert read_spec(emitted(base, open_end).to_yaml()).expected == replace(spec.expected, low=None, high=3.0)
