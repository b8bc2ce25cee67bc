"""Minimises many smooth functions of a few parameters at once: quasi-Newton steps, one problem a row.

Knows arrays and a callable that gives values and gradients. Never knows what is fitted, or where the starts come from.

A grid of thousands of starts, or a thousand bootstrap draws, is one call: every step evaluates all rows that still
move, so the cost of Python is paid once a step and not once a row. The inverse Hessian is kept whole (BFGS): with five
parameters that is what L-BFGS approximates. The line search brackets the weak Wolfe conditions (Lewis and Overton
2013), which also holds at the kinks that a Huber loss with a small threshold nearly has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.fit import FloatArray

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Function = Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray]]
"""``(x (m, p), rows (m,)) -> values (m,), gradients (m, p)``; ``rows`` says which problem each ``x`` belongs to. A
value that is not finite means that ``x`` is out of bounds."""

ARMIJO, WOLFE = 1e-4, 0.9
MAX_TRIES = 30
ROUNDING = 1e-24


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Descent:
    """Where each problem ended."""

    x: FloatArray
    """(num_rows, num_params)."""
    value: FloatArray
    """(num_rows,)."""
    converged: BoolArray
    """(num_rows,): whether the last quadratic model promised no further relative gain above the tolerance."""
    num_steps: IntArray
    """(num_rows,)."""
    inverse_hessian: FloatArray
    """What was learned of it on the way, (num_rows, num_params, num_params)."""


def minimise(
    function: Function,
    start: FloatArray,
    *,
    inverse_hessian: FloatArray | None = None,
    max_steps: int = 400,
    tolerance: float = 1e-10,
    floor: float = 1e-28,
) -> Descent:
    """Local minima from each row of ``start``, shape (num_rows, num_params).

    ``inverse_hessian`` (num_params, num_params) is a first guess for every row, where one is known.

    A row has converged when its model of the function promises a gain below ``tolerance * value + floor`` twice
    running. A row whose line search finds no lower value has stopped at the precision of the function; it counts as
    converged when the promised gain is below a thousand times that, or the value is a sum of squares of rounding.
    """
    num_rows, num_params = start.shape
    x = start.copy()
    value, gradient = _finite(function, x, np.arange(num_rows))
    guess = np.eye(num_params) if inverse_hessian is None else inverse_hessian
    inverse = np.broadcast_to(guess, (num_rows, num_params, num_params)).copy()
    if inverse_hessian is None:
        inverse /= np.maximum(np.abs(gradient).sum(axis=1), 1e-30)[:, None, None]
    fresh = np.full(num_rows, inverse_hessian is None)
    quiet = np.zeros(num_rows, dtype=np.int64)
    converged = np.zeros(num_rows, dtype=bool)
    num_steps = np.zeros(num_rows, dtype=np.int64)
    moving = np.flatnonzero(np.isfinite(value))
    for _ in range(max_steps):
        if moving.size == 0:
            break
        step = -np.einsum("rij,rj->ri", inverse[moving], gradient[moving])
        slope = (step * gradient[moving]).sum(axis=1)
        uphill = ~(slope < 0)
        if uphill.any():
            step[uphill] = -gradient[moving[uphill]]
            slope[uphill] = -(gradient[moving[uphill]] ** 2).sum(axis=1)
            inverse[moving[uphill]] = np.eye(num_params)
        limit = tolerance * np.abs(value[moving]) + floor
        quiet[moving] = np.where((-slope / 2 <= limit) & ~fresh[moving], quiet[moving] + 1, 0)
        found = _search(function, x, value, gradient, moving, step, slope, quiet[moving] >= 2)
        stuck = ~found.moved
        converged[moving] = (quiet[moving] >= 2) | (stuck & ((-slope / 2 <= 1e3 * limit) | (value[moving] <= ROUNDING)))
        _update(inverse, fresh, moving[found.moved], found.s[found.moved], found.y[found.moved])
        x[moving] += found.s
        value[moving], gradient[moving] = found.value, gradient[moving] + found.y
        num_steps[moving] += 1
        # A row that is stuck with an inverse Hessian of its own starts once more along its gradient.
        again = stuck & ~fresh[moving] & ~converged[moving]
        retried = moving[again]
        inverse[retried] = np.eye(num_params) / np.maximum(np.abs(gradient[retried]).sum(axis=1), 1e-30)[:, None, None]
        fresh[retried] = True
        moving = moving[~converged[moving] & (found.moved | again)]
    return Descent(x=x, value=value, converged=converged, num_steps=num_steps, inverse_hessian=inverse)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """A line search's outcome for the moving rows: the move, the change of gradient, the new value."""

    s: FloatArray
    y: FloatArray
    value: FloatArray
    moved: BoolArray


def _finite(function: Function, x: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """The function, with ``inf`` and a zero gradient where either is not finite."""
    with np.errstate(all="ignore"):
        value, gradient = function(x, rows)
    bad = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
    return np.where(bad, np.inf, value), np.where(bad[:, None], 0.0, gradient)


def _search(
    function: Function,
    x: FloatArray,
    value: FloatArray,
    gradient: FloatArray,
    moving: IntArray,
    step: FloatArray,
    slope: FloatArray,
    once: BoolArray,
) -> _Found:
    """Bracket and bisect until the weak Wolfe conditions hold; the best decrease seen where they never do.

    Rows of ``once`` take the full step or none: they have converged, and below rounding every bisection fails.
    """
    size = moving.size
    low, high, length = np.zeros(size), np.full(size, np.inf), np.ones(size)
    s, y = np.zeros_like(step), np.zeros_like(step)
    best = value[moving].copy()
    pending = np.arange(size)
    for _ in range(MAX_TRIES):
        rows = moving[pending]
        move = length[pending, None] * step[pending]
        new_value, new_gradient = _finite(function, x[rows] + move, rows)
        lower = new_value <= value[rows] + ARMIJO * length[pending] * slope[pending]
        flat = (new_gradient * step[pending]).sum(axis=1) >= WOLFE * slope[pending]
        better = new_value < best[pending]
        keep = pending[better]
        s[keep], y[keep] = move[better], (new_gradient - gradient[rows])[better]
        best[keep] = new_value[better]
        high[pending[~lower]] = length[pending[~lower]]
        low[pending[lower]] = length[pending[lower]]
        pending = pending[~(lower & flat) & ~once[pending]]
        if pending.size == 0:
            break
        bounded = np.isfinite(high[pending])
        middle = (low[pending] + np.where(bounded, high[pending], 0.0)) / 2
        length[pending] = np.where(bounded, middle, 2 * length[pending])
    return _Found(s=s, y=y, value=best, moved=best < value[moving])


def _update(inverse: FloatArray, fresh: BoolArray, rows: IntArray, s: FloatArray, y: FloatArray) -> None:
    """The BFGS update of each row's inverse Hessian, left out where the curvature along the move is not positive."""
    sy = (s * y).sum(axis=1)
    usable = sy > 1e-14 * np.sqrt((s * s).sum(axis=1) * (y * y).sum(axis=1))
    rows, s, y, sy = rows[usable], s[usable], y[usable], sy[usable]
    first = fresh[rows]
    scale = sy / (y * y).sum(axis=1)
    inverse[rows[first]] = np.eye(s.shape[1]) * scale[first, None, None]
    fresh[rows] = False
    h = inverse[rows]
    hy = np.einsum("rij,rj->ri", h, y)
    factor = (1 + (y * hy).sum(axis=1) / sy) / sy
    cross = hy[:, :, None] * s[:, None, :] / sy[:, None, None]
    outer = s[:, :, None] * s[:, None, :] * factor[:, None, None]
    inverse[rows] = h + outer - cross - cross.transpose(0, 2, 1)
