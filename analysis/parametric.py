"""Parametric fits: a form's parameters from losses, with bootstrap draws and what there is to say against them.

Knows forms, the descent and variable projection. Never knows tables, columns' names in them, or profiles.

Two ways: ``huber`` is approach 3 of Hoffmann et al. 2022 (Huber loss of ln loss, threshold 1e-3, summed, from a grid of
starts); ``varpro`` is least squares of the loss by variable projection. Draws fit the points again after drawing them,
or whole groups of them, with replacement, or with other losses where draws of those are given; they start from the fit,
as in Epoch's replication (Besiroglu et al. 2024).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.descent import BoolArray, Descent, Function, IntArray, minimise
from analysis.doubts import condition_number, doubts
from analysis.fit import FloatArray, Interval, percentile_interval
from analysis.forms import Additive, Columns, Form
from analysis.varpro import CHUNK_VALUES, project

DELTA = 1e-3
COEFFICIENT_STARTS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
FLOOR_STARTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
EXPONENT_STARTS = (0.0, 0.5, 1.0, 1.5, 2.0)
COARSE, FINE = 1e-4, 1e-12
NUM_POLISHED = 16
MANY_POINTS = 2000
"""Above it the starts are searched on a part of the points, and draws take one Newton step from the fit each."""
CHUNK = 128

ABSENT = 1e-9
"""A term that is a smaller share of the loss plays no part."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Starts:
    """What became of each start of a fit."""

    value: FloatArray
    """The objective where each start ended, shape (num_starts,)."""
    converged: BoolArray

    @property
    def num_at_best(self) -> int:
        """Starts that ended within a thousandth of the lowest objective."""
        return int((self.value <= self.value.min() * 1.001 + 1e-20).sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParametricFit:
    """A fitted form. ``theta`` is for uncentred columns."""

    form: Form
    way: str
    """``huber`` or ``varpro``."""
    theta: FloatArray
    draws: FloatArray
    """(num_draws, num_params); NaN rows are draws that did not converge."""
    objective: float
    starts: Starts
    residuals: FloatArray
    """ln of the loss over what the fit says, shape (num_points,)."""
    condition: float
    """Of the fit's normal equations in ln coefficients and exponents, columns scaled to one length: how nearly the data
    leave a combination of parameters free."""
    warnings: tuple[str, ...]

    @property
    def num_points(self) -> int:
        return self.residuals.size

    @property
    def values(self) -> dict[str, float]:
        """The parameters by symbol, with ``a`` and ``b`` of ``N* ~ C^a``, ``D* ~ C^b`` where the form has them."""
        return {name: float(value[0]) for name, value in _symbols(self.form, self.theta[None]).items()}

    @property
    def intervals(self) -> dict[str, Interval]:
        """90 % intervals by symbol."""
        return {name: percentile_interval(value) for name, value in _symbols(self.form, self.draws).items()}

    def predict(self, values: Mapping[str, FloatArray]) -> FloatArray:
        """The loss at other points: ``values`` holds the form's columns, each (n,)."""
        return np.asarray(self.losses(self.theta[None], values)[0])

    def predict_draws(self, values: Mapping[str, FloatArray]) -> FloatArray:
        """Draws of the loss at other points, shape (num_draws, n)."""
        return self.losses(self.draws, values)

    def losses(self, theta: FloatArray, values: Mapping[str, FloatArray]) -> FloatArray:
        """The loss at other points by parameters ``theta`` (m, num_params) like those of the fit: (m, n)."""
        logs = np.log(np.stack([np.asarray(values[name], dtype=np.float64) for name in self.form.columns]))
        log_loss, _ = self.form.evaluate(theta, Columns(logs=logs, centres=np.zeros(len(logs))))
        return np.asarray(np.exp(log_loss))


def fit_parametric(
    form: Form,
    values: Mapping[str, FloatArray],
    loss: FloatArray,
    *,
    way: str = "huber",
    weights: FloatArray | None = None,
    groups: FloatArray | None = None,
    drawn: FloatArray | None = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> ParametricFit:
    """Fit ``form`` to ``loss`` (n,) at ``values``: the form's columns, each (n,) and positive.

    ``weights`` (n,) multiply each point's share of the objective (inverse variances, where the noise is known).
    ``groups`` (n,) number what is drawn together by the bootstrap: the points of one training curve. ``drawn``
    (num_draws, n) are losses that each draw has in place of drawing points, for ``varpro``; a draw with a loss that is
    not positive is NaN. Raises ``ValueError`` where there are no more points than parameters, or a column of the form
    does not vary.
    """
    num_params = len(form.coefficients) + len(form.exponents)
    _check(form, values, loss, num_params)
    columns = Columns.of(values, form.columns)
    weight = np.ones(loss.size) if weights is None else weights / weights.mean()
    num_full = num_draws if loss.size <= MANY_POINTS and drawn is None else 1
    counts = _resample(loss.size, groups, num_full, np.random.default_rng(seed))
    fit = _fit_huber if way == "huber" else _fit_varpro
    theta, objective, starts, draws = fit(form, columns, loss, weight, weight * counts)
    if drawn is not None:
        draws = _redraw(form, columns, drawn, weight, theta)
    elif num_full < num_draws:
        draws = _one_step(form, columns, loss, weight, theta, way, groups, num_draws, seed)
    log_loss, _ = form.evaluate(theta[None], columns)
    fitted = ParametricFit(
        form=form,
        way=way,
        theta=form.shift(theta, columns.centres),
        draws=form.shift(draws, columns.centres),
        objective=objective,
        starts=starts,
        residuals=np.log(loss) - log_loss[0],
        condition=condition_number(_jacobian(form, theta, columns), weight),
        warnings=(),
    )
    limit = math.log(ABSENT * float(np.median(loss)))
    absent = tuple(name for name, value in zip(form.coefficients, theta, strict=False) if value < limit)
    said = doubts(form, starts.converged, fitted.condition, fitted.intervals, draws, values, absent)
    return replace(fitted, warnings=said)


def hoffmann_starts(form: Form) -> FloatArray:
    """The grid of starts of approach 3 (4,500 for the surface), shape (num_starts, num_params), uncentred."""
    floors = [FLOOR_STARTS if name == "E" else COEFFICIENT_STARTS for name in form.coefficients]
    exponents = EXPONENT_STARTS if isinstance(form, Additive) else EXPONENT_STARTS[1:]
    return np.array(list(itertools.product(*floors, *[exponents] * len(form.exponents))))


def huber_objective(
    form: Form, columns: Columns, log_loss: FloatArray, weights: FloatArray, delta: float = DELTA
) -> Function:
    """Summed Huber loss of ``log_loss`` (n,) less the form, and its gradient; ``weights`` (n,) or (num_rows, n)."""
    each = np.atleast_2d(weights)
    chunk = max(1, CHUNK_VALUES // log_loss.size)

    def objective(theta: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        values, gradients = np.empty(len(theta)), np.empty_like(theta)
        for first in range(0, len(theta), chunk):
            part = slice(first, first + chunk)
            residual, pullback = form.evaluate(theta[part], columns)
            residual -= log_loss
            pulled = np.minimum(np.maximum(residual, -delta), delta)
            weight = each if len(each) == 1 else each[rows[part]]
            residual -= pulled / 2
            pulled *= weight
            values[part] = np.einsum("ij,ij->i", pulled, residual)
            gradients[part] = pullback(pulled)
        return values, gradients

    return objective


_Fitted = tuple[FloatArray, float, Starts, FloatArray]


def _fit_huber(form: Form, columns: Columns, loss: FloatArray, weight: FloatArray, counts: FloatArray) -> _Fitted:
    """All starts to a coarse tolerance, then the lowest to a fine one, then the draws from the best."""
    objective = huber_objective(form, columns, np.log(loss), weight)
    starts = form.shift(hoffmann_starts(form), -columns.centres)
    some = np.linspace(0, loss.size - 1, min(loss.size, MANY_POINTS)).astype(np.int64)
    part = Columns(logs=columns.logs[:, some], centres=columns.centres)
    if isinstance(form, Additive):
        theta, _, _ = project(form, part, loss[some], weight[None, some])
        starts = np.concatenate([starts, np.maximum(theta, -30.0)])
    coarse = minimise(huber_objective(form, part, np.log(loss[some]), weight[some]), starts, tolerance=COARSE)
    lowest = np.argsort(coarse.value, kind="stable")[:NUM_POLISHED]
    polished = minimise(objective, coarse.x[lowest], tolerance=FINE, max_steps=2000)
    best = polished.value.argmin()
    value = coarse.value.copy()
    value[lowest] = polished.value
    redrawn = minimise(
        huber_objective(form, columns, np.log(loss), counts),
        np.broadcast_to(polished.x[best], (len(counts), starts.shape[1])).copy(),
        inverse_hessian=polished.inverse_hessian[best],
        tolerance=1e-6,
    )
    return (
        polished.x[best],
        float(polished.value[best]),
        Starts(value=value, converged=coarse.converged),
        _draws(redrawn),
    )


def _draws(descent: Descent) -> FloatArray:
    return np.where(descent.converged[:, None], descent.x, np.nan)


def _fit_varpro(form: Form, columns: Columns, loss: FloatArray, weight: FloatArray, counts: FloatArray) -> _Fitted:
    if not isinstance(form, Additive):
        raise ValueError(f"form is {form.name}: variable projection needs a sum of terms, so fit it by huber")
    theta, squares, descent = project(form, columns, loss, weight[None])
    draws, _, redrawn = project(
        form, columns, loss, counts, theta[0, len(form.coefficients) :], descent.inverse_hessian[descent.value.argmin()]
    )
    draws = np.where(redrawn.converged[:, None], draws, np.nan)
    return theta[0], float(squares[0]), Starts(value=descent.value, converged=descent.converged), draws


def _redraw(form: Form, columns: Columns, drawn: FloatArray, weight: FloatArray, theta: FloatArray) -> FloatArray:
    """Draws with other losses (num_draws, n), by variable projection."""
    assert isinstance(form, Additive), f"{form.name} is no sum of terms"
    good = np.flatnonzero((np.isfinite(drawn) & (drawn > 0)).all(axis=1))
    draws = np.full((len(drawn), theta.size), np.nan)
    if good.size:
        weights = np.broadcast_to(weight, (good.size, weight.size))
        found, _, descent = project(form, columns, drawn[good], weights, start=theta[len(form.coefficients) :])
        draws[good] = np.where(descent.converged[:, None], found, np.nan)
    return draws


def _one_step(
    form: Form,
    columns: Columns,
    loss: FloatArray,
    weight: FloatArray,
    theta: FloatArray,
    way: str,
    groups: FloatArray | None,
    num_draws: int,
    seed: int,
) -> FloatArray:
    """Draws for many points: one Newton step from the fit each, which is where a full fit ends as points grow many."""
    log_loss, _ = form.evaluate(theta[None], columns)
    residual = np.log(loss) - log_loss[0]
    jacobian = _jacobian(form, theta, columns)
    if way == "huber":
        slope, curved = np.clip(residual, -DELTA, DELTA), np.abs(residual) < DELTA
    else:
        fitted = np.exp(log_loss[0])
        slope, curved = (loss - fitted) * fitted, np.ones(loss.size, dtype=bool)
        jacobian, slope = jacobian * fitted[:, None], slope / fitted
    pull = jacobian * (weight * slope)[:, None]
    hessian = (jacobian[curved] * weight[curved, None]).T @ jacobian[curved]
    rng = np.random.default_rng(seed)
    draws = []
    for first in range(0, num_draws, CHUNK):
        counts = _resample(loss.size, groups, min(CHUNK, num_draws - first), rng)
        draws.append(theta + np.linalg.solve(hessian, (counts @ pull).T).T)
    return np.concatenate(draws)


def _jacobian(form: Form, theta: FloatArray, columns: Columns) -> FloatArray:
    """d ln(loss) / d theta of every point, (num_points, num_params), by central differences."""
    steps = 1e-5 * np.eye(theta.size)
    above, _ = form.evaluate(theta + steps, columns)
    below, _ = form.evaluate(theta - steps, columns)
    return np.asarray((above - below).T / 2e-5)


def _symbols(form: Form, theta: FloatArray) -> dict[str, FloatArray]:
    with np.errstate(all="ignore"):
        found = form.to_symbols(theta)
        if {"params", "tokens"} <= set(form.columns) and {"A", "B", "alpha", "beta"} <= set(found):
            total = found["alpha"] + found["beta"]
            found |= {"a": found["beta"] / total, "b": found["alpha"] / total}
    return found


def _check(form: Form, values: Mapping[str, FloatArray], loss: FloatArray, num_params: int) -> None:
    if loss.size <= num_params:
        raise ValueError(
            f"form {form.name} has {num_params} parameters and the table {loss.size} usable rows: "
            "give more rows, or a form with fewer parameters"
        )
    for name in form.columns:
        if np.unique(values[name]).size < 2:
            raise ValueError(f"column of {name} is {values[name][0]:g} in every row: {form.formula} cannot be fitted")
    if np.ptp(loss) <= 1e-12 * abs(loss).max():
        raise ValueError(f"column of loss is {loss[0]:g} in every row: nothing depends on anything")


def _resample(num_points: int, groups: FloatArray | None, num_draws: int, rng: np.random.Generator) -> FloatArray:
    """How often each draw takes each point: (num_draws, num_points)."""
    names, member = np.unique(np.arange(num_points) if groups is None else groups, return_inverse=True)
    chances = np.full(names.size, 1 / names.size)
    return rng.multinomial(names.size, chances, size=num_draws)[:, member].astype(np.float64)
