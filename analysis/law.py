"""A law over budgets: a power law through a method's optima, with its bootstrap draws.

Knows numbers at budgets and their draws. Never knows profiles, methods or rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit import (
    FloatArray,
    Interval,
    PowerLaw,
    fit_power_law,
    fit_power_laws,
    percentile_interval,
    percentile_intervals,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Law:
    """A power law in the budget, with its bootstrap draws."""

    fit: PowerLaw
    budgets_flops: tuple[int, ...]
    """The budgets whose optima it goes through."""
    log_levels: FloatArray
    """Draws of ln of the value at ``fit.pivot``, shape (num_draws,); NaN where a draw had fewer than two optima."""
    exponents: FloatArray

    def at(self, budget_flops: float) -> float:
        return float(self.fit(budget_flops))

    def draws_at(self, budget_flops: float) -> FloatArray:
        return np.asarray(self.draws_over(np.array([budget_flops]))[:, 0])

    def draws_over(self, budgets_flops: FloatArray) -> FloatArray:
        """Draws at many budgets (k,): shape (num_draws, k)."""
        with np.errstate(over="ignore"):  # far off, a draw with a wild exponent is as good as infinite
            return np.asarray(np.exp(self.log_over(budgets_flops)[1]))

    def log_over(self, budgets_flops: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ln of the law at budgets (k,), and of its draws there (num_draws, k)."""
        share = np.log(np.asarray(budgets_flops, dtype=np.float64) / self.fit.pivot)
        draws = self.log_levels[:, None] + self.exponents[:, None] * share
        return math.log(self.fit.level) + self.fit.exponent * share, draws

    def band(self, budgets_flops: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Low and high ends of the 90 % intervals at budgets (k,), each (k,)."""
        return percentile_intervals(self.draws_over(budgets_flops))

    def interval_at(self, budget_flops: float) -> Interval:
        return percentile_interval(self.draws_at(budget_flops))

    @property
    def exponent_interval(self) -> Interval:
        return percentile_interval(self.exponents)

    def to_dict(self) -> dict[str, Any]:
        return {
            "level": self.fit.level,
            "pivot_flops": self.fit.pivot,
            "exponent": self.fit.exponent,
            "exponent_interval": self.exponent_interval.to_list(),
            "misfit": self.fit.misfit,
            "budgets_flops": list(self.budgets_flops),
        }


def fit_law(budgets_flops: tuple[int, ...], values: FloatArray, draws: FloatArray, sd: FloatArray | None = None) -> Law:
    """The law through ``values`` (n,) at two or more budgets.

    ``draws`` has shape (num_draws, n), NaN where a draw has no value. The values are weighted by ``sd`` (n,) of their
    logarithms; by the spread of their draws where it is absent. Where three or more scatter by more than that spread
    says, the law's draws are widened about the fitted law by the square root of the ratio (Birge 1932).
    """
    x = np.array(budgets_flops, dtype=np.float64)
    if sd is None:
        sd = np.nanstd(np.log(draws), axis=0)
    fit = fit_power_law(x, values, sd)
    log_levels, exponents = fit_power_laws(x, draws, sd, fit.pivot)
    widen, log_level = max(1.0, fit.misfit or 0.0) ** 0.5, math.log(fit.level)
    return Law(
        fit=fit,
        budgets_flops=budgets_flops,
        log_levels=log_level + widen * (log_levels - log_level),
        exponents=fit.exponent + widen * (exponents - fit.exponent),
    )
