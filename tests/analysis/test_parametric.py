"""Parametric forms and their fits: gradients, recovery, warnings, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.descent import minimise
from analysis.fit import FloatArray
from analysis.forms import FORMS, SURFACE, Columns
from analysis.parametric import fit_parametric, hoffmann_starts, huber_objective
from analysis.repeats import PUBLISHED_DECAY, effective_tokens, fit_decay

RNG = np.random.default_rng(1)
N = 10 ** RNG.uniform(6, 9, 60)
POINTS = {"params": N, "tokens": 10 ** RNG.uniform(8, 11, 60), "share": 10 ** RNG.uniform(-2, 0, 60)}
POINTS["flops"] = 6 * POINTS["params"] * POINTS["tokens"]
TRUTH = {
    "parametric": {"E": 1.7, "A": 400.0, "B": 900.0, "alpha": 0.34, "beta": 0.3},
    "shared": {"E": 1.2, "A": 70.0, "B": 140.0, "eta": 0.22},
    "compute": {"E": 1.5, "A": 300.0, "alpha": 0.13},
    "multiplicative": {"E": 1.1, "A": 500.0, "alpha": 0.12, "beta": 0.15},
    "share": {"E": 1.1, "A": 500.0, "alpha": 0.12, "beta": 0.15, "gamma": 0.05},
    "joint": {"E": 1.3, "A": 2e7, "B": 3e9, "alpha": 0.36, "beta": 0.5},
}


def loss_of(name: str, points: dict[str, FloatArray]) -> FloatArray:
    """Each form written out, apart from the code under test."""
    t: dict[str, Any] = TRUTH[name]
    n, d, c, s = (points.get(key, np.ones(1)) for key in ("params", "tokens", "flops", "share"))
    return {
        "parametric": lambda: t["E"] + t["A"] / n ** t["alpha"] + t["B"] / d ** t["beta"],
        "shared": lambda: t["E"] + t["A"] / n ** t["eta"] + t["B"] / d ** t["eta"],
        "compute": lambda: t["E"] + t["A"] / c ** t["alpha"],
        "multiplicative": lambda: t["E"] + t["A"] / (n ** t["alpha"] * d ** t["beta"]),
        "share": lambda: t["E"] + t["A"] / (n ** t["alpha"] * d ** t["beta"] * s ** t["gamma"]),
        "joint": lambda: t["E"] + ((t["A"] / n) ** (t["alpha"] / t["beta"]) + t["B"] / d) ** t["beta"],
    }[name]()


@pytest.mark.parametrize("name", FORMS)
def test_a_form_without_noise_comes_back(name: str) -> None:
    fit = fit_parametric(FORMS[name], POINTS, loss_of(name, POINTS), num_draws=5)
    for symbol, value in TRUTH[name].items():
        assert fit.values[symbol] == pytest.approx(value, rel=1e-6), symbol
    assert fit.num_points == 60
    assert fit.starts.num_at_best >= 1
    assert np.abs(fit.residuals).max() < 1e-9


@pytest.mark.parametrize("name", FORMS)
def test_a_gradient_is_the_slope_of_the_value(name: str) -> None:
    form = FORMS[name]
    columns = Columns.of(POINTS, form.columns)
    objective = huber_objective(form, columns, np.log(loss_of(name, POINTS) * 1.01), RNG.uniform(0.5, 2, 60), delta=0.1)
    size = len(form.coefficients) + len(form.exponents)
    theta = np.concatenate([np.full(len(form.coefficients), 0.3), np.full(len(form.exponents), 0.4)])[None]
    rows = np.zeros(1, dtype=np.int64)
    _, gradient = objective(theta, rows)
    for place in range(size):
        step = np.zeros((1, size))
        step[0, place] = 1e-6
        slope = (objective(theta + step, rows)[0] - objective(theta - step, rows)[0]) / 2e-6
        assert gradient[0, place] == pytest.approx(slope[0], rel=1e-5, abs=1e-9)


def test_variable_projection_finds_what_the_descent_in_all_parameters_finds() -> None:
    loss = loss_of("parametric", POINTS) * np.exp(0.01 * RNG.standard_normal(60))
    fit = fit_parametric(SURFACE, POINTS, loss, way="varpro", num_draws=50)

    def squares(theta: FloatArray, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        log_loss, pullback = SURFACE.evaluate(theta, columns)
        residual = np.exp(log_loss) - loss
        return (residual**2).sum(axis=1), pullback(2 * residual * np.exp(log_loss))

    columns = Columns.of(POINTS, SURFACE.columns)
    starts = SURFACE.shift(hoffmann_starts(SURFACE)[::90], -columns.centres)
    ended = minimise(squares, starts, tolerance=1e-13, max_steps=2000)
    assert fit.objective == pytest.approx(ended.value.min(), rel=1e-9)
    assert fit.draws.shape == (50, 5)
    for symbol, value in TRUTH["parametric"].items():
        drawn = fit.form.to_symbols(fit.draws)[symbol]
        assert abs(np.log(value) - np.log(drawn).mean()) < 4 * np.log(drawn).std(), symbol


def test_a_group_of_points_is_drawn_together() -> None:
    loss = loss_of("parametric", POINTS) * np.exp(0.05 * RNG.standard_normal(12).repeat(5))
    width = {}
    for name, groups in (("alone", None), ("together", np.arange(12.0).repeat(5))):
        fit = fit_parametric(SURFACE, POINTS, loss, way="varpro", groups=groups, num_draws=200)
        width[name] = np.nanstd(fit.predict_draws({"params": np.array([1e8]), "tokens": np.array([1e10])}))
    assert width["together"] > 1.3 * width["alone"]


@pytest.mark.parametrize("way", ["huber", "varpro"])
def test_draws_of_many_points_are_as_wide_as_the_theory_says(way: str) -> None:
    rng = np.random.default_rng(3)
    points = {"params": 10 ** rng.uniform(6, 9, 4000), "tokens": 10 ** rng.uniform(8, 11, 4000)}
    loss = loss_of("parametric", points) * np.exp(5e-4 * rng.standard_normal(4000))
    fit = fit_parametric(SURFACE, points, loss, way=way, num_draws=300)
    quarter = {name: values[:1000] for name, values in points.items()}
    full = fit_parametric(SURFACE, quarter, loss[:1000], way=way, num_draws=300)
    ratio = fit.draws.std(axis=0) / full.draws.std(axis=0)  # four times the points, half the width
    assert np.all((ratio > 0.35) & (ratio < 0.7)), ratio
    assert fit.draws.shape == full.draws.shape


def test_one_start_far_off_is_told_from_one_that_arrives() -> None:
    fit = fit_parametric(SURFACE, POINTS, loss_of("parametric", POINTS) * 1.0, num_draws=1)
    assert fit.starts.value.shape == (4501,)
    assert fit.starts.num_at_best < 4501
    assert fit.starts.value.min() < 1e-15 < fit.starts.value.max()


def test_tokens_in_step_with_size_are_warned_of() -> None:
    size = np.geomspace(1e6, 1e9, 30)
    points = {"params": size, "tokens": 20 * size}
    loss = loss_of("parametric", points) * np.exp(0.005 * RNG.standard_normal(30))
    fit = fit_parametric(SURFACE, points, loss, num_draws=20)
    assert any("Tokens per parameter vary by a factor of 1 only" in warning for warning in fit.warnings)


@pytest.mark.parametrize(
    ("points", "loss", "words"),
    [
        ({"params": N[:5], "tokens": N[:5] * 3}, np.arange(1.0, 6.0), "5 parameters and the table 5 usable rows"),
        ({"params": np.full(9, 2.0), "tokens": N[:9]}, np.arange(1.0, 10.0), "column of params is 2 in every row"),
        ({"params": N[:9], "tokens": N[9:18]}, np.full(9, 3.0), "column of loss is 3 in every row"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(points: dict[str, FloatArray], loss: FloatArray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_parametric(SURFACE, points, loss)


def test_repeated_data_count_for_less() -> None:
    tokens, epochs = np.array([1e9, 4e9, 1e11]), np.array([0.4, 4.0, 100.0])
    worth = effective_tokens(tokens, epochs)
    assert worth[0] == 1e9
    assert worth[1] == pytest.approx(1e9 * (1 + PUBLISHED_DECAY * (1 - np.exp(-3 / PUBLISHED_DECAY))))
    assert worth[2] < 1e9 * (1 + PUBLISHED_DECAY)


def test_the_worth_of_repeated_data_is_found() -> None:
    epochs = 10 ** RNG.uniform(-0.5, 1.5, 60)
    moved = {"params": POINTS["params"], "tokens": effective_tokens(POINTS["tokens"], epochs, 8.0)}
    decay, squares = fit_decay(POINTS, epochs, loss_of("parametric", moved))
    assert decay == pytest.approx(8.0, rel=0.07)  # the grid's step
    assert squares.min() < 1e-3 * squares[-1]
    assert fit_decay(POINTS, np.ones(60), loss_of("parametric", POINTS))[0] == PUBLISHED_DECAY
