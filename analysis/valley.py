"""The valley that a method's profiles lie in: one fit over all budgets for the laws of size and loss.

Knows log sizes, log budgets and losses as arrays. Never knows models, methods, rows, or how a law is used.

A parabola a budget throws away that the minima lie on a line and that neighbouring profiles are alike, and its window
is where noise happened to put the lowest loss: with few noisy sizes its minimum is too low and too near the middle of
the grid. Here every point within a factor of 4 of the line of minima takes part in one fit of

    loss = level C^slope + curvature (log10 N - log10 N*(C))^2,   N*(C) a power law,

by least squares of ln loss, and the window follows the fitted line. A budget's own loss is the mean of its points in
the window, each less what its distance from the line costs: nothing is chosen for being low, so nothing leans low.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analysis.descent import BoolArray, Function, IntArray, minimise
from analysis.fit import WINDOW_FACTOR, FloatArray, PowerLaw
from analysis.law import Law

NUM_PARAMS = 5
MAX_ROUNDS = 6
MIN_FREE = 2
DRAW_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Valley:
    """``theta`` = (ln loss of the minimum at the pivot, its slope, ln curvature, log10 N* at the pivot, its slope).

    Slopes are by ln of the budget over the pivot.
    """

    theta: FloatArray
    pivot: float
    points: Points
    """All that were offered."""
    used: BoolArray
    """Which of them took part, shape (n,)."""
    residuals: FloatArray
    """ln loss of the used points over the fit's, (num_used,)."""

    @property
    def budgets_flops(self) -> tuple[int, ...]:
        """Those that took part."""
        return tuple(round(budget) for budget in np.unique(self.points.budgets_flops[self.used]))

    @property
    def offered_flops(self) -> tuple[int, ...]:
        """By size; the points come in this order."""
        return tuple(round(budget) for budget in np.unique(self.points.budgets_flops))

    @property
    def weights(self) -> FloatArray:
        """Of the used points in the sum of squares, (num_used,)."""
        return self.points.weights[self.used]

    @property
    def degrees(self) -> int:
        return self.residuals.size - NUM_PARAMS

    def own_loss(self, budget_flops: float, thetas: FloatArray, noise: FloatArray) -> FloatArray:
        """The loss that the points of a budget that took part say its minimum has, given ``thetas`` (m, 5).

        ``noise`` (m, n) of ln loss is added to the points first. Shape (m,).
        """
        here = self.used & (self.points.budgets_flops == budget_flops)
        x, c, weights = self.points.x[here], self.points.c[here], self.points.weights[here]
        off = x - thetas[:, 3:4] - thetas[:, 4:5] * c
        with np.errstate(over="ignore", invalid="ignore"):  # a draw in which the valley is flat may put it anywhere
            level = np.exp(self.points.log_loss[here] + noise[:, here]) - np.exp(thetas[:, 2:3]) * off**2
        return np.asarray(np.average(level, axis=1, weights=weights))

    def draws(self, noise: FloatArray) -> FloatArray:
        """The fit to what it says itself plus ``noise`` (num_draws, n) of ln loss: (num_draws, 5).

        Each draw has the window that follows its own line, as the fit has.
        """
        fitted, derivatives = _evaluate(self.theta[None], self.points.x, self.points.c)
        jacobian = derivatives[:, 0, self.used] / fitted[:, self.used]
        normal = 2 * (self.weights * jacobian) @ jacobian.T
        curved = np.asarray(np.linalg.pinv(normal, hermitian=True), dtype=np.float64)
        drawn = replace(self.points, log_loss=np.log(fitted) + noise)
        used = np.broadcast_to(self.used, noise.shape).copy()
        found = np.broadcast_to(self.theta, (len(noise), NUM_PARAMS)).copy()
        rows = np.arange(len(noise))
        for _ in range(DRAW_ROUNDS):
            if rows.size == 0:
                break
            part = replace(drawn, log_loss=drawn.log_loss[rows], weights=used[rows] * self.points.weights)
            ended = minimise(_objective(part), found[rows], inverse_hessian=curved, tolerance=1e-6)
            found[rows] = np.where(ended.converged[:, None], ended.x, np.nan)
            moved = _windows(self.points, found)
            rows = np.flatnonzero((moved != used).any(axis=1) & _is_enough(self.points, moved))
            used[rows] = moved[rows]
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Points:
    """What a valley is fitted to: arrays (n,), or (num_draws, n) for losses and weights that differ by draw."""

    budgets_flops: FloatArray
    x: FloatArray
    """log10 size."""
    c: FloatArray
    """ln of the budget over the pivot."""
    log_loss: FloatArray
    weights: FloatArray
    """Inverse variances of ln loss up to a factor; 0 for a point that takes no part."""


def fit_valley(
    log_size: FloatArray, budgets: FloatArray, loss: FloatArray, weights: FloatArray, line: tuple[float, float]
) -> Valley | None:
    """The valley through points (n,), or ``None`` where fewer than two budgets or too few points are near it.

    ``weights`` (n,) are inverse variances of ln loss up to a factor. ``line`` is a first guess of log10 N* at budget 1
    and its slope by ln budget. A budget takes part where the line lies inside its sizes: beyond them its minimum is an
    edge.
    """
    pivot = float(np.exp(np.log(np.unique(budgets)).mean()))
    c = np.log(budgets / pivot)
    points = Points(budgets_flops=budgets, x=log_size, c=c, log_loss=np.log(loss), weights=weights)
    theta = np.array([math.nan, math.nan, math.nan, line[0] + line[1] * math.log(pivot), line[1]])
    used = np.zeros(loss.size, dtype=bool)
    for _ in range(MAX_ROUNDS):
        before, used = used, _windows(points, theta[None])[0]
        if not _is_enough(points, used[None])[0]:
            return None
        if (used == before).all():
            break
        start = _start(log_size[used], c[used], loss[used], (float(theta[3]), float(theta[4])))
        theta = minimise(_objective(replace(points, weights=used * weights)), start[None], tolerance=1e-12).x[0]
        if not np.isfinite(theta).all():
            return None
    fitted, _ = _evaluate(theta[None], log_size, c)
    residuals = np.log(loss / fitted[0])[used]
    return Valley(theta=theta, pivot=pivot, points=points, used=used, residuals=residuals)


def _windows(points: Points, thetas: FloatArray) -> BoolArray:
    """For each line of ``thetas`` (m, 5) the points within a factor of 4 of it, or the nearest three of a budget, where
    the line is inside its sizes: (m, n)."""
    off = np.abs(points.x - thetas[:, 3:4] - thetas[:, 4:5] * points.c)
    used = off <= math.log10(WINDOW_FACTOR) + 1e-6
    for budget in np.unique(points.c):
        here = np.flatnonzero(points.c == budget)
        centre, sizes = thetas[:, 3] + thetas[:, 4] * budget, points.x[here]
        if here.size < 3:
            used[:, here] = False
            continue
        few = np.flatnonzero(used[:, here].sum(axis=1) < 3)
        nearest = here[np.argsort(off[np.ix_(few, here)], axis=1, kind="stable")[:, :3]]
        used[few[:, None], nearest] = True
        used[np.ix_(~((sizes.min() <= centre) & (centre <= sizes.max())), here)] = False
    return np.asarray(used)


def _is_enough(points: Points, used: BoolArray) -> BoolArray:
    """Whether each window (m, n) has two budgets, and points to spare."""
    num_budgets = sum(used[:, points.c == budget].any(axis=1).astype(np.int64) for budget in np.unique(points.c))
    return np.asarray((num_budgets >= 2) & (used.sum(axis=1) >= NUM_PARAMS + MIN_FREE))


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


def _objective(points: Points) -> Function:
    """Weighted sum of squares of ln loss."""
    all_log_loss, all_weights = np.atleast_2d(points.log_loss), np.atleast_2d(points.weights)

    def objective(theta: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        fitted, derivatives = _evaluate(theta, points.x, points.c)
        residual = np.log(fitted) - all_log_loss[rows]
        pulled = all_weights[rows if len(all_weights) > 1 else 0] * residual
        gradient = 2 * np.einsum("mn,kmn->mk", pulled / fitted, derivatives)
        return (pulled * residual).sum(axis=1), gradient

    return objective


@dataclass(frozen=True, kw_only=True, slots=True)
class ValleyLaws:
    """What a valley says over budgets: laws of the optimal size and of the loss there."""

    size: Law
    loss: Law


def valley_laws(valley: Valley, draws: FloatArray) -> ValleyLaws:
    """The laws, with ``draws`` (num_draws, 5) of the valley."""

    def law(level: FloatArray, exponent: FloatArray, of: FloatArray) -> Law:
        fit = PowerLaw(
            pivot=valley.pivot,
            level=float(np.exp(level @ of)),
            exponent=float(exponent @ of),
            num_points=len(valley.budgets_flops),
            misfit=None,
        )
        return Law(fit=fit, budgets_flops=valley.budgets_flops, log_levels=draws @ level, exponents=draws @ exponent)

    unit, ten = np.eye(NUM_PARAMS), math.log(10)
    return ValleyLaws(size=law(ten * unit[3], ten * unit[4], valley.theta), loss=law(unit[0], unit[1], valley.theta))
