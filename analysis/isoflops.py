"""Approach 2 on any IsoFLOP points: the minimum of each budget's profile, and the power laws through the minima.

Knows arrays of budgets, sizes, tokens and losses, and how losses may be drawn anew. Never knows tables' columns,
methods, or the store.

Three ways to a minimum: ``parabola`` through all points in log size (Hoffmann et al. 2022), ``window`` through the
three to five around the lowest, ``akima`` as in Porian et al. 2024 (an Akima spline in log-log on 25 points a gap).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from analysis.descent import BoolArray, IntArray
from analysis.fit import FloatArray, Interval, fit_parabolas, locate_minima
from analysis.law import Law, fit_law

WAYS = ("parabola", "window", "akima")
POINTS_PER_GAP = 25
MIN_GAP_SHARE = 0.33
"""Porian et al. 2024: no minimum is known better than to a third of the gap between two sizes."""
MIN_POINTS = {"parabola": 4, "window": 3, "akima": 5}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BudgetMinimum:
    """What the points of one budget say."""

    budget_flops: float
    num_points: int
    num_params: float
    """NaN where there is no minimum; ``reason`` then says why."""
    tokens: float
    loss: float
    reason: str
    num_params_draws: FloatArray
    """(num_draws,); NaN where a draw has no minimum."""
    tokens_draws: FloatArray
    loss_draws: FloatArray
    log_sd: float
    """Standard deviation of ln size by which the laws weigh this budget."""

    @property
    def is_used(self) -> bool:
        return self.reason == ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IsoflopFit:
    """Minima and the laws through them. A law is ``None`` where fewer than two budgets have a minimum."""

    way: str
    minima: tuple[BudgetMinimum, ...]
    size_law: Law | None
    tokens_law: Law | None
    residuals: FloatArray
    """ln of each used minimum's size over the law's, shape (num_used,)."""
    objective: float
    """Weighted sum of squares of the residuals."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """Why budgets were left out, a sentence each."""
        return tuple(f"{one.budget_flops:.4g} FLOPs: {one.reason}" for one in self.minima if not one.is_used)

    @property
    def num_points(self) -> int:
        """Budgets that the laws rest on."""
        return sum(one.is_used for one in self.minima)

    @property
    def values(self) -> dict[str, float]:
        """``N* = N0 C^a``, ``D* = D0 C^b``."""
        found: dict[str, Any] = {}
        for law, exponent, coefficient in ((self.size_law, "a", "N0"), (self.tokens_law, "b", "D0")):
            if law is not None:
                found |= {exponent: law.fit.exponent, coefficient: law.at(1.0)}
        return found

    @property
    def intervals(self) -> dict[str, Interval]:
        """90 % intervals by symbol."""
        found: dict[str, Any] = {}
        for law, exponent, coefficient in ((self.size_law, "a", "N0"), (self.tokens_law, "b", "D0")):
            if law is not None:
                found |= {exponent: law.exponent_interval, coefficient: law.interval_at(1.0)}
        return found


def fit_isoflops(
    budgets_flops: FloatArray,
    num_params: FloatArray,
    tokens: FloatArray,
    loss: FloatArray,
    draw: Callable[[IntArray], FloatArray],
    *,
    weights: FloatArray | None = None,
    way: str = "parabola",
) -> IsoflopFit:
    """Minima and laws from points, each array (n,); points of one budget have the same ``budgets_flops``.

    ``draw`` gives draws (num_draws, k) of the losses of the points with the indices (k,): as other seeds would have
    them. ``weights`` (n,) are inverse variances of the losses up to a factor, for parabolas. The lowest loss stands
    where a size comes twice. With ``akima`` the median of the draws stands for the minimum, as in Porian et al.
    """
    minima = tuple(
        _minimum(
            float(budget),
            num_params[here],
            tokens[here],
            loss[here],
            partial(draw, here),
            None if weights is None else weights[here],
            way,
        )
        for budget in np.unique(budgets_flops)
        for here in [_profile(budgets_flops == budget, num_params, loss)]
    )
    used = [one for one in minima if one.is_used]
    if len(used) < 2:
        empty = np.empty(0)
        return IsoflopFit(way=way, minima=minima, size_law=None, tokens_law=None, residuals=empty, objective=math.nan)
    budgets = tuple(round(one.budget_flops) for one in used)
    flops = np.array(budgets, dtype=np.float64)
    sd = np.array([one.log_sd for one in used])
    sizes = np.array([one.num_params for one in used])
    size_law = fit_law(budgets, sizes, np.stack([one.num_params_draws for one in used], axis=1), sd)
    data = np.array([one.tokens for one in used])
    residuals = np.log(sizes / size_law.fit(flops))
    return IsoflopFit(
        way=way,
        minima=minima,
        size_law=size_law,
        tokens_law=fit_law(budgets, data, np.stack([one.tokens_draws for one in used], axis=1), sd),
        residuals=residuals,
        objective=float(((residuals / sd) ** 2).sum()),
    )


def _profile(here: BoolArray, size: FloatArray, loss: FloatArray) -> IntArray:
    """Indices of one budget's points, sorted by size, with the lowest loss of each."""
    points = np.flatnonzero(here)
    order = points[np.lexsort((loss[points], size[points]))]
    _, first = np.unique(size[order], return_index=True)
    return np.asarray(order[first])


def _minimum(
    budget: float,
    size: FloatArray,
    tokens: FloatArray,
    loss: FloatArray,
    draw: Callable[[], FloatArray],
    weights: FloatArray | None,
    way: str,
) -> BudgetMinimum:
    unknown = np.full(1, np.nan)
    if size.size < MIN_POINTS[way]:
        return BudgetMinimum(
            budget_flops=budget,
            num_points=size.size,
            num_params=math.nan,
            tokens=math.nan,
            loss=float(loss.min()),
            reason=f"{size.size} sizes, and {way} needs {MIN_POINTS[way]}",
            num_params_draws=unknown,
            tokens_draws=unknown,
            loss_draws=unknown,
            log_sd=math.nan,
        )
    log_size = np.log10(size)
    x, y = _locate(log_size, loss[None], weights, way)
    drawn_x, drawn_y = _locate(log_size, draw(), weights, way)
    held = np.isfinite(drawn_x)
    reason = _reason(float(x[0]), held)
    log_sd = math.nan
    if not reason:
        if way == "akima":
            x, y = np.median(drawn_x[held], keepdims=True), np.median(drawn_y[held], keepdims=True)
        log_sd = float(np.std(drawn_x[held])) * math.log(10)
        if way == "akima":
            gap = (math.log(size[-1] / size[0])) / ((size.size - 1) * POINTS_PER_GAP - 1) * POINTS_PER_GAP
            log_sd = max(log_sd, MIN_GAP_SHARE * gap) / held.mean()
    known = np.where(held, drawn_x, np.nan)
    return BudgetMinimum(
        budget_flops=budget,
        num_points=size.size,
        num_params=math.nan if reason else float(10 ** x[0]),
        tokens=math.nan if reason else float(_at(log_size, tokens, x)[0]),
        loss=float(loss.min()) if reason else float(y[0]),
        reason=reason,
        num_params_draws=10**known,
        tokens_draws=_at(log_size, tokens, known),
        loss_draws=drawn_y,
        log_sd=log_sd,
    )


def _reason(vertex: float, held: np.ndarray) -> str:
    """Why there is no minimum, or nothing."""
    if math.isnan(vertex):
        return "the losses have no minimum over the sizes"
    if math.isinf(vertex):
        side = "smallest" if vertex < 0 else "largest"
        return f"the {side} size is the best, an edge of the grid and not a minimum"
    return "" if held.mean() >= 0.5 else "noise moves the minimum to an edge of the grid in most draws"


def _at(log_size: FloatArray, tokens: FloatArray, x: FloatArray) -> FloatArray:
    """Tokens at ``x``, log-log between two sizes."""
    return np.asarray(np.exp(np.interp(x, log_size, np.log(tokens))))


def _locate(
    log_size: FloatArray, loss: FloatArray, weights: FloatArray | None, way: str
) -> tuple[FloatArray, FloatArray]:
    """Minima of curves ``loss`` (num_draws, n) over ``log_size`` (n,): place, and value; -inf and inf at the edges."""
    if way == "window":
        minima = locate_minima(log_size, loss, weights)
        return minima.x, minima.y
    if way == "parabola":
        _, vertex, value = fit_parabolas(log_size, loss, weights)
        with np.errstate(invalid="ignore"):
            vertex = np.where(vertex < log_size[0], -np.inf, np.where(vertex > log_size[-1], np.inf, vertex))
        return vertex, value
    fine = np.linspace(log_size[0], log_size[-1], (log_size.size - 1) * POINTS_PER_GAP)
    log_loss = Akima1DInterpolator(log_size, np.log(loss).T)(fine)
    lowest = log_loss.argmin(axis=0)
    x = fine[lowest]
    x[lowest == 0], x[lowest == fine.size - 1] = -np.inf, np.inf
    return x, np.exp(log_loss.min(axis=0))
