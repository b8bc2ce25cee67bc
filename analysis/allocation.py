"""The best size and tokens at a budget when a token costs what the method books for it, and not 6N: found numerically.

Knows a fitted form in size and tokens, and a cost per token over sizes. Never knows methods, tables, or which models
exist.

For ``L = E + A/N^alpha + B/D^beta`` and ``C = 6ND`` the optimum is known: ``N* = G (C/6)^a``. Freezing and adapters
book ``2N + 4N_t`` or ``4N + 2N_t`` a token, with a trained share that moves with the size, so the loss is looked at
over sizes with ``D = C / cost(N)``: on a grid, and the fit's own optimum on finer grids around the lowest point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import wording
from analysis.fit import FloatArray, Interval, percentile_interval
from analysis.parametric import ParametricFit

Cost = Callable[[FloatArray], FloatArray]
"""Sizes (n,) -> FLOPs a token, (n,)."""

REACH = 4.0
"""How far beyond the sizes of the rows an optimum is looked for."""
GRID = 1000
ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The optimum at a budget. Its numbers are ``None`` where the loss falls up to the end of the sizes looked at."""

    budget_flops: float
    num_params: float | None
    num_params_interval: Interval | None
    tokens: float | None
    tokens_interval: Interval | None
    loss: float | None
    loss_interval: Interval | None
    flops_per_token_and_param: float | None
    """At the optimum: 6 for full training without adapters."""
    extrapolation: float
    """The budget over the largest FLOPs of the rows, or the smallest over it; 1 inside."""
    reason: str
    """Why there is no optimum, or nothing."""

    def sentences(self) -> list[str]:
        if self.num_params is None or self.tokens is None or self.loss is None:
            return [f"At {wording.flops(self.budget_flops)} no optimum can be named: {self.reason}."]
        assert self.num_params_interval and self.tokens_interval and self.loss_interval
        told = [
            f"At {wording.flops(self.budget_flops)}: N* = {wording.count(self.num_params)} (90 % interval: "
            f"{wording.interval(self.num_params_interval, wording.count)}), D* = {wording.count(self.tokens)} "
            f"({wording.interval(self.tokens_interval, wording.count)}), L* = {self.loss:.4g} "
            f"({wording.interval(self.loss_interval, '{:.4g}'.format)}), where a token costs "
            f"{self.flops_per_token_and_param:.3g} FLOPs a parameter."
        ]
        if self.extrapolation > 1:
            told.append(
                f"That is {wording.times(self.extrapolation)} times outside the FLOPs of the rows, so extrapolated."
            )
        return told

    def to_dict(self) -> dict[str, Any]:
        def ends(interval: Interval | None) -> list[float | None] | None:
            return None if interval is None else interval.to_list()

        return {
            "budget_flops": self.budget_flops,
            "N": self.num_params,
            "N_interval": ends(self.num_params_interval),
            "D": self.tokens,
            "D_interval": ends(self.tokens_interval),
            "L": self.loss,
            "L_interval": ends(self.loss_interval),
            "flops_per_token_and_param": self.flops_per_token_and_param,
            "extrapolation": self.extrapolation,
            "reason": self.reason,
        }


def cost_of_rows(num_params: FloatArray, tokens: FloatArray, flops: FloatArray) -> Cost:
    """FLOPs a token as the rows (n,) paid them: the median of each size, log-log between two sizes.

    Beyond the sizes a token costs as much a parameter as at the nearest one.
    """
    sizes, member = np.unique(num_params, return_inverse=True)
    a_param = np.array([np.median((flops / tokens / num_params)[member == one]) for one in range(sizes.size)])
    return lambda asked: np.asarray(asked * np.exp(np.interp(np.log(asked), np.log(sizes), np.log(a_param))))


def allocate(
    fit: ParametricFit, budget_flops: float, cost: Cost, sizes: tuple[float, float], flops: tuple[float, float]
) -> Allocation:
    """The size and tokens of the lowest loss that ``budget_flops`` pays for, with 90 % intervals from the fit's draws.

    ``sizes`` are the smallest and the largest of the rows, ``flops`` their least and most FLOPs. Raises ``ValueError``
    for a form that is not one of size and tokens alone, and for a budget that is not positive.
    """
    if set(fit.form.columns) != {"params", "tokens"}:
        raise ValueError(f"--at is given, but form {fit.form.name} is not one of size and tokens: give another form")
    if not 0 < budget_flops < math.inf:
        raise ValueError(f"--at is {budget_flops:g}: give FLOPs above 0")
    low, high = math.log(sizes[0] / REACH), math.log(sizes[1] * REACH)
    near = (low, high)
    for _ in range(ROUNDS):
        [log_size], [loss] = _lowest(fit, fit.theta[None], budget_flops, cost, *near)
        if not math.isfinite(log_size):
            break
        step = (near[1] - near[0]) / (GRID - 1)
        near = (max(low, log_size - 2 * step), min(high, log_size + 2 * step))
    outside = max(1.0, budget_flops / flops[1], flops[0] / budget_flops)
    if not math.isfinite(log_size):
        end = "smallest" if log_size < 0 else "largest"
        return Allocation(
            budget_flops=budget_flops,
            num_params=None,
            num_params_interval=None,
            tokens=None,
            tokens_interval=None,
            loss=None,
            loss_interval=None,
            flops_per_token_and_param=None,
            extrapolation=outside,
            reason=f"the loss falls up to {REACH:g} times beyond the {end} size of the rows",
        )
    known = np.isfinite(fit.draws).all(axis=1)
    drawn_size, drawn_loss = np.full(len(fit.draws), np.nan), np.full(len(fit.draws), np.nan)
    drawn_size[known], drawn_loss[known] = _lowest(fit, fit.draws[known], budget_flops, cost, low, high)
    size = math.exp(log_size)
    inside = np.isfinite(drawn_size)
    paid = np.exp(np.where(inside, drawn_size, 0.0))
    tokens = np.where(inside, budget_flops / cost(paid), -drawn_size)  # no optimum below: tokens without bound
    [a_token] = cost(np.array([size]))
    return Allocation(
        budget_flops=budget_flops,
        num_params=size,
        num_params_interval=percentile_interval(np.exp(drawn_size)),
        tokens=float(budget_flops / a_token),
        tokens_interval=percentile_interval(tokens),
        loss=float(loss),
        loss_interval=percentile_interval(drawn_loss),
        flops_per_token_and_param=float(a_token / size),
        extrapolation=outside,
        reason="",
    )


def _lowest(
    fit: ParametricFit, thetas: FloatArray, budget_flops: float, cost: Cost, low: float, high: float
) -> tuple[FloatArray, FloatArray]:
    """ln of the best size between ``low`` and ``high``, infinite at an end, and the loss there: each (m,)."""
    grid = np.linspace(low, high, GRID)
    size = np.exp(grid)
    loss = fit.losses(thetas, {"params": size, "tokens": budget_flops / cost(size)})
    place, rows = loss.argmin(axis=1), np.arange(len(thetas))
    inner = np.clip(place, 1, GRID - 2)
    before, here, after = (loss[rows, inner + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    share = np.where(bend > 0, (before - after) / (2 * np.where(bend > 0, bend, 1.0)), 0.0)
    found = grid[inner] + np.clip(share, -0.5, 0.5) * (grid[1] - grid[0])
    value = here - (before - after) * share / 4
    ends = np.where(place == 0, -np.inf, np.where(place == GRID - 1, np.inf, np.nan))
    return np.where(np.isnan(ends), found, ends), np.where(np.isnan(ends), value, loss.min(axis=1))
