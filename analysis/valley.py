"""The valley that a method's profiles lie in: one fit over all budgets for the laws of size and loss.

Knows log sizes, log budgets and losses as arrays. Never knows models, methods, rows, or how a law is used.

A parabola a budget throws away that the minima lie on a line and that neighbouring profiles are alike, and its window
is where noise happened to put the lowest loss: with few noisy sizes its minimum is too low and too near the middle of
the grid. Here every point within a factor of 4 of the line of minima takes part in one fit of

    loss = level C^slope + curvature (log10 N - log10 N*(C))^2,   N*(C) a power law,

by least squares of ln loss, and the window follows the fitted line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.descent import BoolArray, Function, IntArray, minimise
from analysis.fit import WINDOW_FACTOR, FloatArray, PowerLaw
from analysis.law import Law

NUM_PARAMS = 5
MAX_ROUNDS = 6
MIN_FREE = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Valley:
    """``theta`` = (ln loss of the minimum at the pivot, its slope, ln curvature, log10 N* at the pivot, its slope).

    Slopes are by ln of the budget over the pivot.
    """

    theta: FloatArray
    pivot: float
    budgets_flops: tuple[int, ...]
    """The budgets that took part."""
    offered_flops: tuple[int, ...]
    """Those that were offered, by size; the points come in this order."""
    used: BoolArray
    """Which points took part, shape (n,)."""
    residuals: FloatArray
    """ln loss of the used points over the fit's, (num_used,)."""
    x: FloatArray
    """log10 size of the used points."""
    c: FloatArray
    """ln of their budget over the pivot."""

    @property
    def degrees(self) -> int:
        return self.residuals.size - NUM_PARAMS

    @property
    def variance(self) -> float:
        return float((self.residuals**2).sum() / self.degrees)

    def draws(self, noise: FloatArray) -> FloatArray:
        """The fit to what it says itself plus ``noise`` (num_draws, n) of ln loss: (num_draws, 5)."""
        fitted, derivatives = _evaluate(self.theta[None], self.x, self.c)
        log_loss = np.log(fitted) + noise[:, self.used]
        start = np.broadcast_to(self.theta, (len(noise), NUM_PARAMS)).copy()
        jacobian = derivatives[:, 0] / fitted
        curved = np.asarray(np.linalg.pinv(2 * jacobian @ jacobian.T, hermitian=True), dtype=np.float64)
        ended = minimise(_objective(self.x, self.c, log_loss), start, inverse_hessian=curved, tolerance=1e-6)
        return np.where(ended.converged[:, None], ended.x, np.nan)


def fit_valley(log_size: FloatArray, budgets: FloatArray, loss: FloatArray, line: tuple[float, float]) -> Valley | None:
    """The valley through points (n,), or ``None`` where fewer than two budgets or too few points are near it.

    ``line`` is a first guess of log10 N* at budget 1 and its slope by ln budget. A budget takes part where the line
    lies inside its sizes: beyond them its minimum is an edge.
    """
    pivot = float(np.exp(np.log(np.unique(budgets)).mean()))
    c = np.log(budgets / pivot)
    line = (line[0] + line[1] * math.log(pivot), line[1])
    used = np.zeros(loss.size, dtype=bool)
    theta = np.empty(0)
    for _ in range(MAX_ROUNDS):
        before, used = used, _window(log_size, budgets, line[0] + line[1] * c)
        if np.unique(budgets[used]).size < 2 or used.sum() < NUM_PARAMS + MIN_FREE:
            return None
        if (used == before).all():
            break
        x, near = log_size[used], np.log(loss[used])
        start = _start(x, c[used], loss[used], line)
        ended = minimise(_objective(x, c[used], near[None]), start[None], tolerance=1e-12)
        theta = ended.x[0]
        if not np.isfinite(theta).all():
            return None
        line = (float(theta[3]), float(theta[4]))
    fitted, _ = _evaluate(theta[None], log_size[used], c[used])
    return Valley(
        theta=theta,
        pivot=pivot,
        budgets_flops=tuple(round(budget) for budget in np.unique(budgets[used])),
        offered_flops=tuple(round(budget) for budget in np.unique(budgets)),
        used=used,
        residuals=np.log(loss[used] / fitted[0]),
        x=log_size[used],
        c=c[used],
    )


def _window(log_size: FloatArray, budgets: FloatArray, centre: FloatArray) -> BoolArray:
    """Points within a factor of 4 of the line, or the nearest three of a budget, where the line is inside its sizes."""
    used = np.abs(log_size - centre) <= math.log10(WINDOW_FACTOR) + 1e-6
    for budget in np.unique(budgets):
        here = np.flatnonzero(budgets == budget)
        inside = log_size[here].min() <= centre[here[0]] <= log_size[here].max()
        if not inside or here.size < 3:
            used[here] = False
        elif used[here].sum() < 3:
            used[here[np.argsort(np.abs(log_size[here] - centre[here]), kind="stable")[:3]]] = True
    return np.asarray(used)


def _start(x: FloatArray, c: FloatArray, loss: FloatArray, line: tuple[float, float]) -> FloatArray:
    """Given the line, minimum and curvature are a linear problem in the loss, up to the slope of the minimum."""
    square = (x - line[0] - line[1] * c) ** 2
    design = np.stack([np.ones_like(x), c, square], axis=1)
    level, slope, curvature = np.linalg.lstsq(design, loss, rcond=None)[0]
    level = max(level, loss.min() / 2)
    return np.array([math.log(level), slope / level, math.log(max(curvature, 1e-3 * level)), *line])


def _evaluate(theta: FloatArray, x: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The loss (m, n), and its derivatives by the parameters, (5, m, n)."""
    level, slope, curvature, place, drift = (theta[:, i : i + 1] for i in range(NUM_PARAMS))
    floor, bend = np.exp(level + slope * c), np.exp(curvature)
    off = x - place - drift * c
    rise = bend * off**2
    by_place = -2 * bend * off
    return floor + rise, np.stack([floor, floor * c, rise, by_place, by_place * c])


def _objective(x: FloatArray, c: FloatArray, log_loss: FloatArray) -> Function:
    """Sum of squares of ln loss; ``log_loss`` (num_rows, n)."""

    def objective(theta: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        fitted, derivatives = _evaluate(theta, x, c)
        residual = np.log(fitted) - log_loss[rows]
        gradient = 2 * np.einsum("mn,kmn->mk", residual / fitted, derivatives)
        return (residual**2).sum(axis=1), gradient

    return objective


@dataclass(frozen=True, kw_only=True, slots=True)
class ValleyLaws:
    """What a valley says over budgets: laws of the optimal size and of the loss there."""

    size: Law
    loss: Law


def valley_laws(valley: Valley, noise: FloatArray) -> ValleyLaws:
    """Laws with draws, from ``noise`` (num_draws, n) of ln loss of all points that the valley was offered."""
    draws = valley.draws(noise)

    def law(level: FloatArray, exponent: FloatArray, of: FloatArray) -> Law:
        fit = PowerLaw(
            pivot=valley.pivot,
            level=float(np.exp(level @ of)),
            exponent=float(exponent @ of),
            num_points=len(valley.budgets_flops),
            misfit=None,
        )
        with np.errstate(over="ignore"):  # a draw in which the valley is flat may put it anywhere
            levels, exponents = np.exp(draws @ level), draws @ exponent
        return Law(fit=fit, budgets_flops=valley.budgets_flops, levels=levels, exponents=exponents)

    unit, ten = np.eye(NUM_PARAMS), math.log(10)
    return ValleyLaws(size=law(ten * unit[3], ten * unit[4], valley.theta), loss=law(unit[0], unit[1], valley.theta))
