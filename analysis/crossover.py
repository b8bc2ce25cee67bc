"""From which budget one method beats another: the crossover of two losses over the budget, with its interval.

Knows draws of losses at budgets. Never knows how they were fitted, or which methods they are of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import wording
from analysis.fit import FloatArray, Interval, percentile_interval

REACH = 1e3
"""How far beyond the measured budgets a crossover is looked for."""
POINTS = 200
MAX_REACH = 4.0
"""Further than this outside the measured budgets a crossover is called a guess."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossover:
    """The budget above which ``above`` beats ``below``."""

    below: str
    above: str
    budget_flops: float | None
    """``None`` where the fitted losses do not cross within a factor of 1,000 of what was measured."""
    interval: Interval
    """90 %; an end is infinite (0 at the lower one) where the draws do not bound it."""
    probability: float
    """Share of the draws in which the losses cross this way within that reach."""
    measured_budgets_flops: tuple[float, float]

    @property
    def extrapolation(self) -> float:
        """How many times the crossover lies outside the measured budgets; 1 inside, infinite where there is none."""
        if self.budget_flops is None:
            return math.inf
        low, high = self.measured_budgets_flops
        return max(1.0, self.budget_flops / high, low / self.budget_flops)

    @property
    def sentence(self) -> str:
        if self.budget_flops is None:
            return (
                f"{self.below} and {self.above}: the laws do not cross within {REACH:,.0f} times the measured budgets "
                f"({wording.share(self.probability)} of the draws do)."
            )
        within = wording.interval(self.interval, wording.flops)
        if self.extrapolation > MAX_REACH:
            low = self.budget_flops < self.measured_budgets_flops[0]
            better = self.above if low else self.below
            worse = self.below if low else self.above
            return (
                f"{better} beats {worse} over all measured budgets; the laws cross at "
                f"{wording.flops(self.budget_flops)} (90 % interval: {within}), "
                f"{wording.times(self.extrapolation)} times outside them, which is a guess."
            )
        where = "inside the measured budgets"
        if self.extrapolation > 1:
            where = f"{wording.times(self.extrapolation)} times outside the measured budgets, so extrapolated"
        return (
            f"{self.above} beats {self.below} above {wording.flops(self.budget_flops)} (90 % interval: {within}; "
            f"{where}; the draws cross in {wording.share(self.probability)} of cases)."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "below": self.below,
            "above": self.above,
            "budget_flops": self.budget_flops,
            "interval": self.interval.to_list(),
            "probability": self.probability,
            "extrapolation": None if math.isinf(self.extrapolation) else self.extrapolation,
            "sentence": self.sentence,
        }


LogLossAt = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""Budgets (k,) -> ln of the fitted losses (k,) and of draws of them (num_draws, k)."""


def find_crossover(
    names: tuple[str, str], losses: tuple[LogLossAt, LogLossAt], budgets_flops: tuple[float, float]
) -> Crossover:
    """Where two methods' losses cross, nearest to the measured budgets (smallest, largest).

    ``below`` is the method with the lower loss below the fitted crossover; without one, the method that is better at
    the largest measured budget. A draw that crosses the other way tells nothing of where this crossover lies and
    counts as unknown; one that never crosses puts it beyond the end where ``above`` would have to win.
    """
    low, high = budgets_flops
    grid = np.geomspace(low / REACH, high * REACH, POINTS)
    (first, first_draws), (second, second_draws) = losses[0](grid), losses[1](grid)
    gap, draws = first - second, first_draws - second_draws
    centre = math.log(math.sqrt(low * high))
    place = _crossing(gap[None], np.log(grid), centre)[0]
    swap = gap[np.searchsorted(np.log(grid), place) - 1] > 0 if np.isfinite(place) else gap[grid <= high][-1] > 0
    if swap:
        names, gap, draws = (names[1], names[0]), -gap, -draws
    found = _handover(draws, np.log(grid), centre)
    with np.errstate(over="ignore"):
        interval = percentile_interval(np.exp(found))
    return Crossover(
        below=names[0],
        above=names[1],
        budget_flops=float(np.exp(place)) if np.isfinite(place) else None,
        interval=interval,
        probability=float(np.isfinite(found).mean()),
        measured_budgets_flops=budgets_flops,
    )


def _crossing(gap: FloatArray, log_grid: FloatArray, centre: float) -> FloatArray:
    """The sign change of each row of ``gap`` (m, k) nearest to ``centre``, interpolated; NaN where there is none."""
    above = gap > 0
    row, place = np.nonzero(above[:, 1:] != above[:, :-1])
    before, after = gap[row, place], gap[row, place + 1]
    at = log_grid[place] + before / (before - after) * (log_grid[place + 1] - log_grid[place])
    found = np.full(len(gap), np.nan)
    # The nearest of a row is written last.
    order = np.argsort(-np.abs(at - centre), kind="stable")
    found[row[order]] = at[order]
    return found


def _handover(gap: FloatArray, log_grid: FloatArray, centre: float) -> FloatArray:
    """Log budget at which each row's ``gap`` rises through 0: +inf where it stays below, -inf above, else NaN."""
    at = _crossing(gap, log_grid, centre)
    crossed = np.isfinite(at)
    place = np.clip(np.searchsorted(log_grid, np.where(crossed, at, log_grid[0])) - 1, 0, gap.shape[1] - 2)
    rows = np.arange(len(gap))
    found = np.where(crossed & (gap[rows, place] < gap[rows, place + 1]), at, np.nan)
    found[(gap < 0).all(axis=1)] = np.inf
    found[(gap > 0).all(axis=1)] = -np.inf
    return found
