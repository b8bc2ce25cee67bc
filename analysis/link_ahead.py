"""Whether the link of the smaller budgets holds at the largest: its scores foretold from their losses.

Knows scored trials. Never knows how a link is chosen or shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.link_curves import fit_exponentials
from trainer.trial import format_flops

MIN_BEFORE = 5
MIN_AFTER = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Ahead:
    """Scores at the largest budget, by the power-exponential curve through the trials of all smaller ones."""

    budget_flops: float
    num_trials: int
    error: float
    """Root mean square of what was foretold less what was scored."""
    bias: float
    """Its mean: above 0 where too much was foretold."""
    spread: float
    """Standard deviation of the scores there: the error of foretelling their mean."""

    @property
    def sentence(self) -> str:
        way = "too high" if self.bias > 0 else "too low"
        return (
            f"From the losses at {format_flops(self.budget_flops)} FLOPs, the link of the smaller budgets foretells "
            f"the {self.num_trials} scores there with an error of {self.error:.3f} (root mean square; the scores "
            f"spread by {self.spread:.3f}), {way} by {abs(self.bias):.3f} on average."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "budget_flops": self.budget_flops,
            "num_trials": self.num_trials,
            "error": self.error,
            "bias": self.bias,
            "spread": self.spread,
        }


def foretell_largest(points: pd.DataFrame) -> Ahead | None:
    """``points`` has ``budget_flops``, ``loss`` and ``score``; ``None`` where there are too few on either side."""
    largest = float(points["budget_flops"].max())
    before, after = points[points["budget_flops"] < largest], points[points["budget_flops"] == largest]
    if len(before) < MIN_BEFORE or len(after) < MIN_AFTER or before["loss"].nunique() < MIN_BEFORE:
        return None
    curve = fit_exponentials(
        before["loss"].to_numpy(dtype=np.float64), before["score"].to_numpy(dtype=np.float64)[None]
    )
    scores = after["score"].to_numpy(dtype=np.float64)
    off = curve.at(after["loss"].to_numpy(dtype=np.float64))[0] - scores
    return Ahead(
        budget_flops=largest,
        num_trials=len(after),
        error=float(np.sqrt((off**2).mean())),
        bias=float(off.mean()),
        spread=float(scores.std()),
    )
