"""How far a measured loss may be from what another seed would have given.

Knows cells' trials and the residuals of profiles. Never knows laws, or which model is the best.

The loss of a cell is taken as log-normal about the truth, with one relative standard deviation a method. Three sources
are pooled, each with its degrees of freedom:

- repeats: complete trials of one cell with equal hyperparameters and different seeds (pure seed noise);
- residuals of the profiles' parabolas that have more than three points (seed noise, luck of the search, and what a
  parabola cannot follow: the estimate errs on the wide side);
- a prior of 1.5 % worth four degrees of freedom, so that a sweep without either still gets honest, wide intervals.
  (Seed spread seen on nano models: 0.8 %; a learning rate that is off by 2x costs 2 to 4 % more. Porian et al. 2024
  report 0.05 to 1 % for language models.)

The standard deviation is itself drawn anew for each bootstrap draw from its posterior (scaled inverse chi-squared), so
few degrees of freedom widen the intervals as Student's t would. Each method has its own, since what a parabola cannot
follow differs by method (freezing has steps where the number of frozen blocks changes). Limits: the noise is assumed
independent between cells and of one relative size over budgets, and the search's failure to find a cell's best
hyperparameters is a one-sided error that enters through the residuals alone. One seed a cell leaves few degrees of
freedom, so the prior matters: intervals are too wide where the true noise is far below it and too narrow above twice it
(tests/analysis/test_coverage.py has the figures). Several seeds a cell mend that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import wording
from analysis.fit import FloatArray

PRIOR_RELATIVE_SD = 0.015
PRIOR_DEGREES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Relative standard deviation of a cell's loss, and what it rests on."""

    relative_sd: float
    num_repeat_degrees: int
    num_residual_degrees: int

    @property
    def words(self) -> str:
        grounds = [f"a prior of {100 * PRIOR_RELATIVE_SD:.1f} % worth {PRIOR_DEGREES} degrees of freedom"]
        if self.num_repeat_degrees:
            grounds.append(f"{self.num_repeat_degrees} from trials that differ by their seed alone")
        if self.num_residual_degrees:
            grounds.append(f"{self.num_residual_degrees} from the residuals of the parabolas")
        return f"{100 * self.relative_sd:.1f} % of the loss (one standard deviation), from {wording.listing(grounds)}"

    def draw_sd(self, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Draws of the standard deviation itself, shape (num_draws,)."""
        degrees = PRIOR_DEGREES + self.num_repeat_degrees + self.num_residual_degrees
        return np.asarray(self.relative_sd * np.sqrt(degrees / rng.chisquare(degrees, num_draws)))


def estimate_noise(trials: pd.DataFrame, residuals: Iterable[tuple[FloatArray, int]]) -> Noise:
    """The noise of a method from its complete trials (``complete_trials``) and its profiles' relative residuals.

    Each item of ``residuals`` is (residuals of shape (n,), degrees of freedom).
    """
    repeat_squares, repeat_degrees = _repeats(trials)
    squares, degrees = 0.0, 0
    for values, free in residuals:
        squares += float((values**2).sum())
        degrees += free
    total = PRIOR_DEGREES + repeat_degrees + degrees
    variance = (PRIOR_DEGREES * PRIOR_RELATIVE_SD**2 + repeat_squares + squares) / total
    return Noise(relative_sd=variance**0.5, num_repeat_degrees=repeat_degrees, num_residual_degrees=degrees)


def _repeats(trials: pd.DataFrame) -> tuple[float, int]:
    """Sum of squares about the group means of ln loss, and its degrees of freedom."""
    log_loss = np.log(trials["loss"])
    means = log_loss.groupby([trials["settings"], trials["seed"]]).mean()
    groups = means.groupby(level="settings")
    deviations = means - groups.transform("mean")
    return float((deviations**2).sum()), len(means) - groups.ngroups
