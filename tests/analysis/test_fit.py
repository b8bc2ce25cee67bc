"""Parabolas, power laws, minima and intervals on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.fit import fit_parabola, fit_power_law, fit_power_laws, locate_minima, percentile_interval, window


@pytest.mark.parametrize(("vertex", "curvature"), [(3.86, 0.6), (8.2, 0.05), (10.01, 3.0), (0.3, 1e-3)])
@pytest.mark.parametrize("num_points", [3, 5, 15])
def test_a_noise_free_parabola_is_recovered(vertex: float, curvature: float, num_points: int) -> None:
    x = vertex + np.linspace(-0.7, 0.9, num_points)
    found = fit_parabola(x, 2.5 + curvature * (x - vertex) ** 2)
    assert found.vertex == pytest.approx(vertex, abs=1e-9)
    assert found.minimum == pytest.approx(2.5, abs=1e-9)
    assert found.curvature == pytest.approx(curvature, rel=1e-9)
    assert found(x) == pytest.approx(2.5 + curvature * (x - vertex) ** 2, abs=1e-9)


def test_a_point_without_weight_does_not_move_the_parabola() -> None:
    x = np.linspace(2, 4, 5)
    y = 1 + (x - 3.1) ** 2
    y[4] += 1
    assert abs(fit_parabola(x, y).vertex - 3.1) > 0.05
    assert fit_parabola(x, y, np.array([1, 1, 1, 1, 0.0])).vertex == pytest.approx(3.1, abs=1e-9)


@pytest.mark.parametrize("y", [[2.0, 2, 2, 2], [1.0, 2, 2, 1], [4.0, 3, 2, 1]])
def test_a_curve_that_is_not_convex_has_no_vertex(y: list[float]) -> None:
    found = fit_parabola(np.arange(4.0), np.array(y))
    assert math.isnan(found.vertex)
    assert math.isnan(found.minimum)


def test_a_power_law_is_recovered() -> None:
    x = np.array([1e15, 7e15, 2e17, 1e18])
    law = fit_power_law(x, 0.3 * x**0.47)
    assert law.exponent == pytest.approx(0.47, abs=1e-12)
    assert law(1e21) == pytest.approx(0.3 * 1e21**0.47, rel=1e-9)
    assert law.misfit == pytest.approx(0, abs=1e-12)


def test_two_points_make_a_law_that_nothing_checks() -> None:
    law = fit_power_law(np.array([1.0, 100]), np.array([5.0, 50]))
    assert law.exponent == pytest.approx(0.5)
    assert law.misfit is None


def test_weights_are_inverse_variances() -> None:
    """Against ``numpy.polyfit``, whose ``w`` multiplies residuals."""
    rng = np.random.default_rng(1)
    x, sd = np.geomspace(1, 1e4, 6), rng.uniform(0.05, 0.5, 6)
    y = np.exp(1 + 0.4 * np.log(x) + sd * rng.standard_normal(6))
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1, w=1 / sd)
    law = fit_power_law(x, y, sd)
    assert law.exponent == pytest.approx(slope)
    assert law(1.0) == pytest.approx(math.exp(intercept))


def test_a_draw_without_two_points_has_no_law() -> None:
    x, sd = np.array([1.0, 10, 100]), np.ones(3)
    y = np.array([[1.0, 10, 100], [1, np.nan, 100], [np.nan, np.nan, 3]])
    log_levels, exponents = fit_power_laws(x, y, sd, pivot=10.0)
    assert exponents[:2] == pytest.approx([1, 1])
    assert np.exp(log_levels[:2]) == pytest.approx([10, 10])
    assert np.isnan(log_levels[2]) and np.isnan(exponents[2])


def test_the_window_reaches_a_factor_of_four() -> None:
    doubling = np.log10([1.0, 2, 4, 8, 16, 32, 64])
    assert window(doubling, 3) == slice(1, 6)
    assert window(doubling, 1) == slice(0, 4)
    wide = np.log10([1.0, 5, 25, 125, 625])
    assert window(wide, 2) == slice(1, 4)
    pythia = np.log10([1.19e6, 4.74e6, 18.9e6, 85e6, 302e6, 806e6, 1209e6, 2518e6])
    assert window(pythia, 2) == slice(1, 4)
    assert window(pythia, 5) == slice(4, 8)


def test_a_minimum_at_the_end_of_the_grid_is_an_edge() -> None:
    x = np.array([3.0, 3.5, 4, 4.5])
    y = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [3, 1, 2, 4], [2, 2, 2, 2], [1, 1, 2, 3]])
    minima = locate_minima(x, y)
    assert minima.x[0] == -np.inf and minima.x[1] == np.inf
    assert 3.5 <= minima.x[2] <= 4
    assert np.isnan(minima.x[3])
    assert minima.x[4] == -np.inf, "equal losses at the edge and inside do not make an optimum"
    assert np.isnan(minima.curvature[[0, 1, 3, 4]]).all()
    assert minima.y[0] == minima.y[1] == 1


@pytest.mark.parametrize(
    "far",
    [
        pytest.param(1.95, id="vertex outside the neighbours"),
        pytest.param(20.0, id="minimum far below every point"),
    ],
)
def test_a_crooked_window_falls_back_to_three_points(far: float) -> None:
    x = np.log10([1.0, 2, 4, 8, 16])
    y = np.array([30, far, 2.0, 1.9, 4.6])
    three = fit_parabola(x[2:], y[2:])
    minima = locate_minima(x, y[None, :])
    assert minima.x[0] == pytest.approx(three.vertex)
    assert minima.y[0] == pytest.approx(three.minimum)
    assert (minima.start[0], minima.stop[0]) == (2, 5)


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=9), st.integers(0, 2**32 - 1))
def test_a_vertex_lies_between_the_neighbours_of_the_lowest_point(losses: list[float], seed: int) -> None:
    x = np.cumsum(np.random.default_rng(seed).uniform(0.1, 1, len(losses)))
    y = np.array(losses)
    minima = locate_minima(x, y[None, :])
    lowest = int(y.argmin())
    if np.isfinite(minima.x[0]):
        assert 0 < lowest < y.size - 1
        assert x[lowest - 1] <= minima.x[0] <= x[lowest + 1]
        assert minima.curvature[0] > 0


def test_draws_without_a_number_open_the_interval() -> None:
    draws = np.arange(1000.0)
    assert percentile_interval(draws).low == pytest.approx(50, abs=1)
    assert percentile_interval(draws).high == pytest.approx(950, abs=1)
    few, many = draws.copy(), draws.copy()
    few[::50], many[::5] = np.nan, np.nan
    assert math.isfinite(percentile_interval(few).low)
    assert percentile_interval(few).low < percentile_interval(draws).low
    assert percentile_interval(many).to_list() == [None, None]


def test_an_infinite_draw_opens_one_side() -> None:
    draws = np.concatenate([np.full(80, -np.inf), np.arange(920.0)])
    interval = percentile_interval(draws)
    assert interval.low == -np.inf
    assert interval.to_list() == [None, interval.high]
