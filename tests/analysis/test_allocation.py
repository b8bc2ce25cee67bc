"""The best size at a method's own cost of a token: the closed form where there is one, else a fine grid."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis.allocation import Allocation, allocate, cost_of_rows
from analysis.fit import FloatArray
from analysis.fit_table import fit_table, sentences
from analysis.forms import SURFACE
from analysis.parametric import ParametricFit, fit_parametric
from analysis.rows import Request
from tests.analysis.law_rows import FREEZE, FULL, LORA
from trainer.flops import booked_flops_per_token
from trainer.ladder import SHAPES, parameter_counts
from trainer.trial import Method

E, A, B, ALPHA, BETA = 1.7, 400.0, 900.0, 0.34, 0.30
PYTHIA = [shape for name, shape in SHAPES.items() if name.startswith("EleutherAI/pythia")]


def rows_of(method: Method) -> pd.DataFrame:
    """Every Pythia size at six budgets, with the tokens that the method's booking pays for, on one surface."""
    rows = []
    for shape in PYTHIA:
        a_token = booked_flops_per_token(parameter_counts(shape, method), method)
        size = shape.num_params_non_embedding
        for budget in np.geomspace(1e17, 1e21, 6):
            tokens = budget / a_token
            rows.append((budget, size, tokens, E + A / size**ALPHA + B / tokens**BETA))
    return pd.DataFrame(rows, columns=["C", "N", "D", "loss"])


def fitted(rows: pd.DataFrame) -> ParametricFit:
    values = {"params": rows["N"].to_numpy(float), "tokens": rows["D"].to_numpy(float)}
    return fit_parametric(SURFACE, values, rows["loss"].to_numpy(), way="varpro", num_draws=20)


def found(rows: pd.DataFrame, budget: float) -> Allocation:
    size, tokens, flops = (rows[name].to_numpy(float) for name in ("N", "D", "C"))
    ends = (float(size.min()), float(size.max())), (float(flops.min()), float(flops.max()))
    return allocate(fitted(rows), budget, cost_of_rows(size, tokens, flops), *ends)


@pytest.mark.parametrize("budget", [1e18, 1e20, 1e22])
def test_full_training_has_the_optimum_of_the_closed_form(budget: float) -> None:
    best = found(rows_of(FULL), budget)
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    size = scale * (budget / 6) ** (BETA / (ALPHA + BETA))
    assert best.num_params == pytest.approx(size, rel=1e-3)
    assert best.tokens == pytest.approx(budget / 6 / size, rel=1e-3)
    assert best.loss == pytest.approx(E + A / size**ALPHA + B / (budget / 6 / size) ** BETA, rel=1e-9)
    assert best.flops_per_token_and_param == pytest.approx(6.0)
    assert best.extrapolation == pytest.approx(max(1.0, budget / 1e21))


@pytest.mark.parametrize("method", [FREEZE, LORA], ids=["freeze", "lora"])
@pytest.mark.parametrize("budget", [1e18, 3e19])
def test_other_methods_have_the_optimum_of_a_fine_grid(method: Method, budget: float) -> None:
    """Cost a token written out anew: log-log between the Pythia sizes' own bookings."""
    sizes = np.array([float(shape.num_params_non_embedding) for shape in PYTHIA])
    costs = np.array([float(booked_flops_per_token(parameter_counts(shape, method), method)) for shape in PYTHIA])
    order = np.argsort(sizes)
    grid = np.geomspace(sizes.min(), sizes.max(), 400_001)
    cost = np.exp(np.interp(np.log(grid), np.log(sizes[order]), np.log(costs[order])))
    loss = E + A / grid**ALPHA + B / (budget / cost) ** BETA
    best = found(rows_of(method), budget)
    assert best.num_params == pytest.approx(grid[loss.argmin()], rel=1e-3)
    assert best.loss == pytest.approx(loss.min(), rel=1e-9)
    assert best.flops_per_token_and_param is not None and best.flops_per_token_and_param < 5
    full = found(rows_of(FULL), budget)
    assert full.num_params is not None and best.num_params > full.num_params  # cheaper tokens pay for a larger model


def test_a_loss_that_falls_to_the_end_of_the_sizes_has_no_optimum() -> None:
    best = found(rows_of(FULL), 1e30)
    assert best.num_params is None and best.tokens is None and best.loss is None
    assert "no optimum can be named: the loss falls up to 4 times beyond the largest size" in best.sentences()[0]
    json.dumps(best.to_dict(), allow_nan=False)


def test_the_optimum_moves_with_the_noise_inside_its_interval() -> None:
    rows, hits = rows_of(LORA), []
    truth = found(rows, 1e19).num_params
    for seed in range(20):
        moved = rows.assign(loss=rows["loss"] * np.exp(0.004 * np.random.default_rng(seed).standard_normal(len(rows))))
        values = {"params": moved["N"].to_numpy(float), "tokens": moved["D"].to_numpy(float)}
        fit = fit_parametric(SURFACE, values, moved["loss"].to_numpy(), way="varpro", num_draws=200)
        cost = cost_of_rows(values["params"], values["tokens"], moved["C"].to_numpy(float))
        best = allocate(fit, 1e19, cost, (float(moved["N"].min()), float(moved["N"].max())), (1e17, 1e21))
        assert best.num_params_interval is not None and best.num_params is not None
        assert best.num_params_interval.low < best.num_params < best.num_params_interval.high
        hits.append(best.num_params_interval.low <= truth <= best.num_params_interval.high)
    assert np.mean(hits) >= 0.75


def test_each_method_pays_its_own_cost_in_a_table() -> None:
    table = pd.concat([rows_of(FULL).assign(how="full"), rows_of(LORA).assign(how="lora")])
    request = Request(form="varpro", params="N", tokens="D", flops="C", method="how", at=1e19, num_draws=20)
    fits, _ = fit_table(table, request)
    paid = {fit.method: fit.optimum.flops_per_token_and_param for fit in fits if fit.optimum is not None}
    assert paid["full"] == pytest.approx(6.0) and 4.0 < paid["lora"] < 4.5
    assert sum("At 1.0e19 FLOPs: N* = " in line for line in sentences(fits, ())) == 2
    with pytest.raises(ValueError, match="--at is given, but form compute is no surface"):
        fit_table(table, Request(form="compute", flops="C", at=1e19))
    with pytest.raises(ValueError, match="--at is 0: give FLOPs above 0"):
        fit_table(table, Request(params="N", tokens="D", at=0.0))


def test_the_cost_is_that_of_the_rows() -> None:
    sizes: FloatArray = np.array([1e6, 1e6, 1e8])
    cost = cost_of_rows(sizes, np.array([1e9, 2e9, 1e9]), np.array([6e15, 12e15, 4e17]))
    assert cost(np.array([1e6, 1e8])) == pytest.approx([6e6, 4e8])
    assert cost(np.array([1e7]))[0] == pytest.approx(1e7 * math.sqrt(24))
    assert cost(np.array([1e9]))[0] == pytest.approx(4e9)
