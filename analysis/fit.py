"""Numerics of the fits: parabolas in log size, power laws in log-log, minima of sampled curves, percentile intervals.

Knows arrays. Everything works on many draws at a time, one draw a row. Never knows rows of a store, methods, budgets
or what an axis means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# A parabola in log N stands for the true curve only near its minimum. On noise-free surfaces a grid of +-4x puts the
# optimum off by 1.3 % (Chinchilla's surface) to 6.5 % (a strongly asymmetric one), a grid of +-16x by 5 to 23 %
# (tests/analysis/test_published_laws.py).
WINDOW_FACTOR = 4.0
MAX_MISS = 0.1
LEVEL = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Where a quantity lies with 90 % probability; an infinite end is one that the data do not bound."""

    low: float
    high: float

    def to_list(self) -> list[float | None]:
        """Both ends for JSON, which has no infinity: an open end is ``None``."""
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parabola:
    """``minimum + curvature * (x - vertex)^2``."""

    curvature: float
    vertex: float
    minimum: float

    def __call__(self, x: FloatArray) -> FloatArray:
        return self.minimum + self.curvature * (x - self.vertex) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """``level * (x / pivot)^exponent``: a straight line in log-log. Level and exponent do not correlate."""

    pivot: float
    level: float
    exponent: float
    num_points: int
    misfit: float | None
    """Weighted squared residuals over their degrees of freedom, 1 where the points scatter as their errors say.
    ``None`` with two points: the line goes through both, so nothing checks it."""

    def __call__(self, x: FloatArray | float) -> FloatArray:
        return np.asarray(self.level * (np.asarray(x, dtype=np.float64) / self.pivot) ** self.exponent)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Minima:
    """Where sampled curves have their minimum: arrays of shape (num_draws,)."""

    x: FloatArray
    """Vertex of the parabola; ``-inf`` and ``+inf`` where the minimum is at the lower or upper edge of the grid (so the
    true one may lie beyond), NaN where the curve is flat."""
    y: FloatArray
    """Value at the vertex; the lowest sampled value where there is no vertex."""
    curvature: FloatArray
    """Second-order coefficient; NaN where there is no vertex."""
    start: npt.NDArray[np.int64]
    """First point that the parabola goes through."""
    stop: npt.NDArray[np.int64]
    """One past its last point; equal to ``start`` where there is no parabola."""


def percentile_interval(draws: FloatArray) -> Interval:
    """The middle 90 % of ``draws``, shape (num_draws,).

    A NaN is a draw that gave no number. It may stand for anything, so half of them count as ``-inf`` and half as
    ``+inf``: where more than a tenth of the draws fail, the interval is unbounded rather than quietly narrow.
    """
    [low], [high] = percentile_intervals(draws[:, None])
    return Interval(low=float(low), high=float(high))


def percentile_intervals(draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Low and high ends (k,) of the middle 90 % of each column of ``draws`` (num_draws, k): ``percentile_interval``."""
    missing = np.isnan(draws)
    filler = np.where(missing.cumsum(axis=0) % 2 == 1, -np.inf, np.inf)
    tail = (1 - LEVEL) / 2
    values = np.where(missing, filler, draws)
    low = np.quantile(values, tail, axis=0, method="lower")
    high = np.quantile(values, 1 - tail, axis=0, method="higher")
    return np.asarray(low), np.asarray(high)


def fit_parabolas(
    x: FloatArray, y: FloatArray, weights: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least-squares parabolas (Hoffmann et al. 2022, approach 2, with ``x`` the log10 of the size).

    ``x`` has shape (n,) with at least three different values, ``y`` (num_draws, n), ``weights`` (n,): inverse
    variances, equal when absent. Returns curvature, vertex and value at the vertex, each (num_draws,). Where the
    curvature is not positive there is no minimum: vertex and value are NaN.
    """
    assert np.unique(x).size >= 3, f"a parabola needs three different x, got {x}"
    centre, scale = x.mean(), np.ptp(x) / 2
    t = (x - centre) / scale
    root = np.ones_like(t) if weights is None else np.sqrt(weights)
    design = np.stack([np.ones_like(t), t, t * t], axis=1) * root[:, None]
    constant, slope, quadratic = np.linalg.pinv(design) @ (y * root).T
    # Rounding leaves a flat curve with a curvature of either sign; it has no minimum.
    convex = quadratic > 1e-12 * np.abs(y).max(axis=1)
    safe = np.where(convex, quadratic, 1.0)
    vertex = np.where(convex, centre - scale * slope / (2 * safe), np.nan)
    minimum = np.where(convex, constant - slope**2 / (4 * safe), np.nan)
    return quadratic / scale**2, vertex, minimum


def fit_parabola(x: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> Parabola:
    """One parabola through ``x`` and ``y``, both (n,): see ``fit_parabolas``."""
    curvature, vertex, minimum = fit_parabolas(x, y[None, :], weights)
    return Parabola(curvature=float(curvature[0]), vertex=float(vertex[0]), minimum=float(minimum[0]))


def window(x: FloatArray, index: int) -> slice:
    """The points of sorted ``x`` (log10) that a parabola around the inner point ``index`` goes through.

    Its two neighbours always, and the ones next to them where they lie within a factor of 4: three to five points.
    """
    reach = math.log10(WINDOW_FACTOR) + 1e-6
    first, last = index - 1, index + 1
    if first > 0 and x[index] - x[first - 1] <= reach:
        first -= 1
    if last < x.size - 1 and x[last + 1] - x[index] <= reach:
        last += 1
    return slice(first, last + 1)


def locate_minima(x: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> Minima:
    """The minimum of each sampled curve: ``x`` (n,) sorted log10 with n >= 3, ``y`` (num_draws, n), ``weights`` (n,).

    A lowest point at either end of the grid is an edge. Otherwise a parabola goes through the ``window`` around it;
    where that one is not convex, has its vertex outside the two neighbours, or misses the lowest point by more than a
    tenth, through the three middle points.
    """
    num_draws, n = y.shape
    lowest = y.argmin(axis=1)
    minima = Minima(
        x=np.full(num_draws, np.nan),
        y=y.min(axis=1),
        curvature=np.full(num_draws, np.nan),
        start=np.zeros(num_draws, dtype=np.int64),
        stop=np.zeros(num_draws, dtype=np.int64),
    )
    minima.x[lowest == 0] = -np.inf
    minima.x[lowest == n - 1] = np.inf
    minima.x[np.ptp(y, axis=1) <= 1e-12 * np.abs(y).max(axis=1)] = np.nan
    for index in range(1, n - 1):
        draws = np.flatnonzero((lowest == index) & np.isnan(minima.x))
        for part in (window(x, index), slice(index - 1, index + 2)):
            curvature, vertex, minimum = fit_parabolas(
                x[part], y[draws, part], None if weights is None else weights[part]
            )
            inside = (vertex >= x[index - 1]) & (vertex <= x[index + 1])
            miss = np.abs(minimum + curvature * (x[index] - vertex) ** 2 - y[draws, index])
            good = inside & (miss <= MAX_MISS * np.abs(y[draws, index]))
            found = draws[good]
            minima.x[found], minima.y[found] = vertex[good], minimum[good]
            minima.curvature[found] = curvature[good]
            minima.start[found], minima.stop[found] = part.start, part.stop
            draws = draws[~good]
            if draws.size == 0:
                break
    return minima


def fit_power_laws(x: FloatArray, y: FloatArray, sd: FloatArray, pivot: float) -> tuple[FloatArray, FloatArray]:
    """Weighted straight lines in log-log: ``x`` (n,), ``y`` (num_draws, n) with NaN for a point that a draw lacks.

    ``sd`` (n,) is the standard deviation of ln y. Returns ln of the value at ``pivot`` and the exponent, each
    (num_draws,); NaN for draws with fewer than two points.
    """
    log_x = np.log(x / pivot)
    known = np.isfinite(y) & (y > 0)
    log_y = np.log(np.where(known, y, 1.0))
    weight = np.where(known, 1 / sd**2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        total = weight.sum(axis=1)
        mean_x = (weight * log_x).sum(axis=1) / total
        mean_y = (weight * log_y).sum(axis=1) / total
        centred = log_x - mean_x[:, None]
        exponent = (weight * centred * log_y).sum(axis=1) / (weight * centred**2).sum(axis=1)
        log_level = mean_y - exponent * mean_x
    enough = known.sum(axis=1) >= 2
    return np.where(enough, log_level, np.nan), np.where(enough, exponent, np.nan)


def fit_power_law(x: FloatArray, y: FloatArray, sd: FloatArray | None = None) -> PowerLaw:
    """The power law through ``x`` and ``y``, both (n,) and positive, with two or more different ``x``.

    Least squares of ln y on ln x with weights ``1/sd^2`` (Porian et al. 2024; equal when absent). The pivot is the
    weighted geometric mean of ``x``.
    """
    assert np.unique(x).size >= 2, f"a power law needs two different x, got {x}"
    error = np.ones_like(x) if sd is None else sd
    weight = 1 / error**2
    pivot = float(np.exp((weight * np.log(x)).sum() / weight.sum()))
    log_level, exponent = fit_power_laws(x, y[None, :], error, pivot)
    residuals = (np.log(y) - log_level[0] - exponent[0] * np.log(x / pivot)) / error
    degrees = x.size - 2
    return PowerLaw(
        pivot=pivot,
        level=float(np.exp(log_level[0])),
        exponent=float(exponent[0]),
        num_points=x.size,
        misfit=float((residuals**2).sum() / degrees) if degrees > 0 else None,
    )
