"""Variable projection: for given exponents the coefficients are a linear problem, so only the exponents are searched.

Knows additive forms (``forms.py``) and losses. Never knows Huber losses, or what the fit is for.

Least squares of the loss itself. The search has one to three parameters and a condition number near 11 where the full
problem has 3.5e11 (Open-Athena, scaling-law-analysis); without noise the parameters come back to rounding.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from analysis.descent import Descent, Function, IntArray, minimise
from analysis.fit import FloatArray
from analysis.forms import Additive, Columns

GRID_LOW, GRID_HIGH = 0.05, 0.95
GRID_SIZES = {1: 256, 2: 32, 3: 12}
NUM_SEEDS = 8
CHUNK_VALUES = 32_768
"""Rows times points that are worked on at a time: what stays in a core's cache."""
FINE, DRAWN = 1e-13, 1e-9


def project(
    form: Additive,
    columns: Columns,
    loss: FloatArray,
    weights: FloatArray,
    start: FloatArray | None = None,
    inverse_hessian: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, Descent]:
    """Weighted least squares of ``loss`` (n,) or (m, n), one row a draw, under ``weights`` (m, n).

    Without ``start`` the exponents are searched from a grid over [.05, .95] and the lowest eight seeds are followed;
    with it, shape (num_exponents,), from there. Coefficients are at least 0. Returns ``theta`` (m, p), the residual sum
    of squares (m,) and the descent of the lowest seeds.
    """
    num_draws = len(weights)
    loss = np.broadcast_to(loss, weights.shape)
    if start is None:
        axis = np.linspace(GRID_LOW, GRID_HIGH, GRID_SIZES[len(form.exponents)])
        grid = np.stack(np.meshgrid(*[axis] * len(form.exponents), indexing="ij"), axis=-1).reshape(
            -1, len(form.exponents)
        )
        assert num_draws == 1, "a grid of seeds is for one fit; draws start from its solution"
        values, _ = _objective(form, columns, loss, weights)(grid, np.zeros(len(grid), dtype=np.int64))
        seeds = grid[np.argsort(values, kind="stable")[:NUM_SEEDS]]
        rows = np.zeros(len(seeds), dtype=np.int64)
    else:
        seeds, rows = np.broadcast_to(start, (num_draws, start.size)).copy(), np.arange(num_draws)
    tolerance = FINE if start is None else DRAWN
    descent = minimise(
        _objective(form, columns, loss, weights, rows), seeds, tolerance=tolerance, inverse_hessian=inverse_hessian
    )
    best = np.array([descent.value.argmin()]) if start is None else np.arange(num_draws)
    exponents = descent.x[best]
    coefficients, squares, _ = _solve(form, columns, loss[rows[best]], weights[rows[best]], exponents)
    with np.errstate(divide="ignore"):
        theta = np.concatenate([np.log(coefficients), exponents], axis=1)
    return theta, squares, descent


def _objective(
    form: Additive, columns: Columns, loss: FloatArray, weights: FloatArray, owners: IntArray | None = None
) -> Function:
    """Residual sum of squares at the best coefficients, and its gradient by the envelope theorem."""
    chunk = max(1, CHUNK_VALUES // loss.shape[1])

    def objective(exponents: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        values, gradients = np.empty(len(exponents)), np.empty_like(exponents)
        mine = rows if owners is None else owners[rows]
        for first in range(0, len(exponents), chunk):
            part = slice(first, first + chunk)
            own = mine[part]
            _, values[part], gradients[part] = _solve(form, columns, loss[own], weights[own], exponents[part])
        return values, gradients

    return objective


def _solve(
    form: Additive, columns: Columns, loss: FloatArray, weights: FloatArray, exponents: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coefficients (m, k), sums of squares (m,) and their gradient (m, num_exponents), for ``exponents`` (m, ...)."""
    moved = [form.powers(name) @ columns.logs for name in form.coefficients]
    basis = np.stack(
        [np.exp(-(exponents @ each)) if each.any() else np.ones_like(loss) for each in moved], axis=1
    )  # (m, k, n)
    lengths = np.sqrt((weights[:, None] * basis**2).sum(axis=2))
    # A search may try exponents of which no float holds the powers: they are no solution.
    wild = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).all(axis=1))
    basis[wild], lengths[wild] = 1.0, 1.0
    scaled = basis / lengths[:, :, None]
    weighted = scaled * weights[:, None]
    gram, moments = weighted @ scaled.transpose(0, 2, 1), np.einsum("mkn,mn->mk", weighted, loss)
    coefficients = np.einsum("mij,mj->mi", np.linalg.pinv(gram, hermitian=True, rcond=1e-14), moments)
    negative = np.flatnonzero((coefficients < 0).any(axis=1))
    if negative.size:
        coefficients[negative] = _non_negative(gram[negative], moments[negative])
    residual = np.einsum("mk,mkn->mn", coefficients, scaled) - loss
    pulled = 2 * weights * residual
    gradient = np.zeros_like(exponents)
    for place, each in enumerate(moved):
        gradient -= (pulled * (coefficients[:, place, None] * scaled[:, place])) @ each.T
    squares = (weights * residual**2).sum(axis=1)
    squares[wild] = np.inf
    return coefficients / lengths, squares, gradient


def _non_negative(gram: FloatArray, moments: FloatArray) -> FloatArray:
    """Least squares with coefficients of at least 0, from ``gram`` (m, k, k) and ``moments`` (m, k).

    With three terms or fewer every set of coefficients that are 0 can be tried.
    """
    num_rows, size = moments.shape
    best, lowest = np.zeros_like(moments), np.zeros(num_rows)
    for length in range(1, size):
        for subset in combinations(range(size), length):
            some = np.array(subset)
            part = gram[:, some[:, None], some]
            found = np.einsum("mij,mj->mi", np.linalg.pinv(part, hermitian=True), moments[:, some])
            # The sum of squares less that of the losses, which is the same for every subset.
            gain = -(found * moments[:, some]).sum(axis=1)
            better = np.flatnonzero((found >= 0).all(axis=1) & (gain < lowest))
            lowest[better] = gain[better]
            best[better] = 0.0
            best[better[:, None], some] = found[better]
    return best
