"""Whether the laws foretell what was held back: the largest budget from the smaller ones.

Knows rows of a store and the frontier. Never knows files or how anything is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import wording
from analysis.fit import Interval
from analysis.frontier import Frontier, fit_frontier


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """A method's loss at the largest budget: as its law through the smaller ones says, and as measured."""

    method: str
    budget_flops: int
    predicted: float
    interval: Interval
    measured: float
    noise_relative_sd: float
    extrapolation: float
    """The largest budget over the next smaller one that the law rests on."""

    @property
    def error(self) -> float:
        """Relative: positive where the law expects too much."""
        return self.predicted / self.measured - 1

    @property
    def sentence(self) -> str:
        held = "inside" if self.interval.low <= self.measured <= self.interval.high else "outside"
        return (
            f"{self.method} at {wording.flops(self.budget_flops)}, {wording.times(self.extrapolation)} times the next "
            f"budget: the smaller budgets foretell {wording.loss(self.predicted)} (90 % interval: "
            f"{wording.interval(self.interval, wording.loss)}), measured {wording.loss(self.measured)}, {held} it; the "
            f"error is {100 * self.error:+.1f} %, the noise of a trial {100 * self.noise_relative_sd:.1f} %."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "budget_flops": self.budget_flops,
            "predicted": self.predicted,
            "interval": self.interval.to_list(),
            "measured": self.measured,
            "relative_error": self.error,
            "noise_relative_sd": self.noise_relative_sd,
            "extrapolation": self.extrapolation,
        }


def foretell_largest(
    rows: pd.DataFrame, frontier: Frontier, *, num_draws: int = 1000, seed: int = 0
) -> tuple[Foretold, ...]:
    """Each method's loss at the largest budget from a frontier without it; ``frontier`` is that of all ``rows``.

    Empty where fewer than three budgets were measured: one remaining budget has no law. A method without a law through
    the smaller budgets, or without a loss at the largest, is left out.
    """
    if len(frontier.budgets_flops) < 3:
        return ()
    largest = max(frontier.budgets_flops)
    smaller = fit_frontier(rows[rows["budget_flops"] < largest], num_draws=num_draws, seed=seed)
    measured = {standing.method: standing.loss for standing in frontier.rankings[-1].standings}
    return tuple(
        Foretold(
            method=method.label,
            budget_flops=largest,
            predicted=method.loss_law.at(largest),
            interval=method.loss_law.interval_at(largest),
            measured=measured[method.label],
            noise_relative_sd=method.noise.relative_sd,
            extrapolation=largest / max(method.loss_law.budgets_flops),
        )
        for method in smaller.methods
        if method.loss_law is not None and method.label in measured
    )
