"""Held-back budgets and forms, and the valley that the laws come from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from analysis.compare import compare_forms
from analysis.forms import MULTIPLICATIVE, SURFACE
from analysis.frontier import fit_frontier
from analysis.validation import foretell_largest
from analysis.valley import fit_valley
from tests.analysis.law_rows import FULL, LORA, law_rows, parabola_law

BUDGETS = tuple(4e10 * 3.0**place for place in range(5))


def test_the_largest_budget_is_foretold_from_the_smaller_ones() -> None:
    rows = law_rows(parabola_law(), methods=[FULL, LORA], budgets=BUDGETS, noise=0.003)
    frontier = fit_frontier(rows, num_draws=200)
    found = foretell_largest(rows, frontier, num_draws=200)
    assert [one.method for one in found] == ["full", LORA.label]
    for one, level in zip(found, (3.0, 3.4), strict=True):
        assert one.budget_flops == int(BUDGETS[-1])
        assert one.predicted == pytest.approx(level * (BUDGETS[-1] / 1e11) ** -0.1, rel=0.02)
        assert one.extrapolation == pytest.approx(3.0)
        assert one.error == pytest.approx(one.predicted / one.measured - 1)
        assert "the error is" in one.sentence
        json.dumps(one.to_dict(), allow_nan=False)


def test_a_law_that_bends_is_found_out() -> None:
    rows = law_rows(parabola_law(), methods=[FULL], budgets=BUDGETS, noise=0.002)
    bent = rows.assign(loss=rows["loss"].where(rows["budget_flops"] < 3e12, rows["loss"] * 1.3))
    (one,) = foretell_largest(bent, fit_frontier(bent, num_draws=200), num_draws=200)
    assert one.error < -0.2
    assert "outside it" in one.sentence


def test_two_budgets_leave_nothing_to_foretell_from() -> None:
    rows = law_rows(parabola_law(), methods=[FULL], budgets=BUDGETS[:2])
    assert foretell_largest(rows, fit_frontier(rows, num_draws=50)) == ()


def test_the_true_form_foretells_best() -> None:
    rng = np.random.default_rng(0)
    values = {"params": 10 ** rng.uniform(6, 9, 80), "tokens": 10 ** rng.uniform(8, 11, 80)}
    loss = 1.7 + 400 / values["params"] ** 0.34 + 900 / values["tokens"] ** 0.3
    loss = loss * np.exp(0.003 * rng.standard_normal(80))
    flops = 6 * values["params"] * values["tokens"]
    best, other = compare_forms([MULTIPLICATIVE, SURFACE], values, loss, flops > np.quantile(flops, 0.8))
    assert (best.form, other.form) == ("parametric", "multiplicative")
    assert best.held_out < 0.006 < other.held_out
    assert best.num_params == 5


def valley_points(sizes: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    budgets = np.repeat(np.array(BUDGETS), sizes)
    best = math.log10(7e3) + 0.5 * np.log10(budgets / 1e11)
    log_size = best + np.tile(np.linspace(-0.8, 0.9, sizes), len(BUDGETS))
    return log_size, budgets, 3.0 * (budgets / 1e11) ** -0.1 + 0.6 * (log_size - best) ** 2


def test_a_valley_without_noise_comes_back() -> None:
    log_size, budgets, loss = valley_points()
    valley = fit_valley(log_size, budgets, loss, np.ones(loss.size), (math.log10(7e3) - 5.6, 0.51 / math.log(10)))
    assert valley is not None
    c = math.log(valley.pivot / 1e11)
    expected = (
        math.log(3.0) - 0.1 * c,
        -0.1,
        math.log(0.6),
        math.log10(7e3) + 0.5 * c / math.log(10),
        0.5 / math.log(10),
    )
    assert valley.theta == pytest.approx(expected, abs=1e-5)
    assert valley.used.sum() < loss.size  # points beyond a factor of 4 stay out
    assert np.abs(valley.residuals).max() < 1e-5


def test_a_budget_whose_minimum_lies_beyond_its_sizes_stays_out_of_the_valley() -> None:
    log_size, budgets, loss = valley_points()
    right = (budgets > BUDGETS[0]) | (log_size > math.log10(7e3 * (BUDGETS[0] / 1e11) ** 0.5) + 0.05)
    line = (math.log10(7e3) - 5.5, 0.5 / math.log(10))
    valley = fit_valley(log_size[right], budgets[right], loss[right], np.ones(right.sum()), line)
    assert valley is not None
    assert valley.budgets_flops == tuple(int(budget) for budget in BUDGETS[1:])
    assert len(valley.offered_flops) == len(BUDGETS)
