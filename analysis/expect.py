"""The loss to expect of any model at any budget, from a method's laws.

Knows a method's frontier. Never knows which models exist, or which of them to choose.

The law's loss at the optimal size, plus the curvature of the nearest profile's parabola times the squared distance in
log size. A parabola stands for the truth within a factor of 4 of the optimum; beyond it there is no number.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.fit import WINDOW_FACTOR, FloatArray
from analysis.frontier import MethodFrontier


def loss_over(method: MethodFrontier, budgets_flops: FloatArray, num_params: float) -> FloatArray:
    """Loss in nats of a model with ``num_params`` non-embedding parameters at budgets (k,): (k,), NaN where unknown.

    Where the method has a law of the loss and none of the size, only the best model of the nearest measured budget has
    a loss.
    """
    budgets = np.asarray(budgets_flops, dtype=np.float64)
    if method.loss_law is None:
        return np.full(budgets.shape, np.nan)
    loss = method.loss_law.fit(budgets)
    if method.size_law is None:
        measured = np.array([profile.budget_flops for profile in method.profiles], dtype=np.float64)
        best = np.array([profile.best.num_params for profile in method.profiles])
        nearest = np.abs(np.log(measured[:, None] / budgets)).argmin(axis=0)
        return np.where(best[nearest] == num_params, loss, np.nan)
    off = np.log10(num_params / method.size_law.fit(budgets))
    inside = np.abs(off) <= math.log10(WINDOW_FACTOR)
    return np.where(inside, loss + _curvature(method, budgets) * off**2, np.nan)


def loss_draws(method: MethodFrontier, budget_flops: float, num_params: float) -> FloatArray:
    """Draws of that loss, shape (num_draws,), for a method with a law of the loss. A draw without one is NaN.

    A draw that has a law of the loss and none of the size is as far off the optimum as the fitted law says.
    """
    assert method.loss_law is not None
    draws = method.loss_law.draws_at(budget_flops)
    if method.size_law is None:
        return draws
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.log10(num_params / method.size_law.draws_at(budget_flops))
    off = np.where(np.isfinite(off), off, np.log10(num_params / method.size_law.at(budget_flops)))
    return np.asarray(draws + _curvature(method, np.array([float(budget_flops)])) * off**2)


def _curvature(method: MethodFrontier, budgets: FloatArray) -> FloatArray:
    """Of the profile with an optimum that is nearest to each budget, by log10 of the size."""
    optima = [(profile.budget_flops, profile.optimum) for profile in method.profiles if profile.optimum is not None]
    measured = np.array([float(budget) for budget, _ in optima])
    curvatures = np.array([optimum.parabola.curvature for _, optimum in optima])
    return np.asarray(curvatures[np.abs(np.log(measured[:, None] / budgets)).argmin(axis=0)])
