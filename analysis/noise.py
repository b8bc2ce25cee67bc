"""How far a measured loss may be from what another seed would have given.

Knows cells' trials and the residuals of profiles. Never knows laws, or which model is the best.

The loss of a cell is taken as log-normal about the truth, with one relative standard deviation a method. Three sources
are pooled, each with its degrees of freedom:

- repeats: complete trials of one cell with equal hyperparameters and different seeds (pure seed noise);
- residuals of the profiles about the valley through all of them (``valley.py``), or about each one's own parabola where
  there is no valley (seed noise, luck of the search, and what the shape cannot follow: it errs on the wide side);
- a prior of 1.5 % that fills up to four degrees of freedom and is worth one at least, so that a sweep without either
  still gets honest, wide intervals. (Seed spread seen on nano models: 0.8 %; a learning rate that is off by 2x costs 2
  to 4 % more. Porian et al. 2024 report 0.05 to 1 % for language models.)

The standard deviation is itself drawn anew for each bootstrap draw from its posterior (scaled inverse chi-squared), so
few degrees of freedom widen the intervals as Student's t would. Each method has its own, since what a shape cannot
follow differs by method (freezing has steps where the number of frozen blocks changes). Limits: the noise is assumed
independent between cells and of one relative size over budgets, and the search's failure to find a cell's best
hyperparameters is a one-sided error that enters through the residuals alone. tests/analysis/test_coverage.py has the
figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import wording
from analysis.fit import FloatArray, locate_minima

PRIOR_RELATIVE_SD = 0.015
PRIOR_DEGREES, MIN_PRIOR_DEGREES = 4, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Relative standard deviation of a cell's loss, and what it rests on."""

    relative_sd: float
    num_repeat_degrees: int
    num_residual_degrees: int
    num_prior_degrees: int

    @property
    def words(self) -> str:
        number = f"{self.num_prior_degrees} degree{'s' if self.num_prior_degrees > 1 else ''}"
        grounds = [f"a prior of {100 * PRIOR_RELATIVE_SD:.1f} % worth {number} of freedom"]
        if self.num_repeat_degrees:
            grounds.append(f"{self.num_repeat_degrees} from trials that differ by their seed alone")
        if self.num_residual_degrees:
            grounds.append(f"{self.num_residual_degrees} from the residuals of the profiles")
        return f"{100 * self.relative_sd:.1f} % of the loss (one standard deviation), from {wording.listing(grounds)}"

    def draw_sd(self, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Draws of the standard deviation itself, shape (num_draws,)."""
        degrees = self.num_prior_degrees + self.num_repeat_degrees + self.num_residual_degrees
        return np.asarray(self.relative_sd * np.sqrt(degrees / rng.chisquare(degrees, num_draws)))


def estimate_noise(trials: pd.DataFrame, residuals: Iterable[tuple[FloatArray, int]]) -> Noise:
    """The noise of a method from its complete trials (``complete_trials``) and its profiles' relative residuals.

    Each item of ``residuals`` is (residuals of shape (n,), degrees of freedom).
    """
    return _pool(*_repeats(trials), residuals)


def _pool(repeat_squares: float, repeat_degrees: int, residuals: Iterable[tuple[FloatArray, int]]) -> Noise:
    squares, degrees = 0.0, 0
    for values, free in residuals:
        squares += float((values**2).sum())
        degrees += free
    prior = max(MIN_PRIOR_DEGREES, PRIOR_DEGREES - repeat_degrees - degrees)
    variance = (prior * PRIOR_RELATIVE_SD**2 + repeat_squares + squares) / (prior + repeat_degrees + degrees)
    return Noise(
        relative_sd=variance**0.5,
        num_repeat_degrees=repeat_degrees,
        num_residual_degrees=degrees,
        num_prior_degrees=prior,
    )


def noise_of_profiles(budgets_flops: FloatArray, num_params: FloatArray, loss: FloatArray) -> Noise:
    """The noise of points (n,) of which nothing but budget, size and loss is known."""
    residuals = []
    for budget in np.unique(budgets_flops):
        here = budgets_flops == budget
        order = np.lexsort((loss[here], num_params[here]))
        size, first = np.unique(num_params[here][order], return_index=True)
        residuals.append(window_residuals(np.log10(size), loss[here][order][first]))
    return _pool(0.0, 0, residuals)


def window_residuals(log_size: FloatArray, loss: FloatArray) -> tuple[FloatArray, int]:
    """Relative residuals of the parabola through the points near a profile's minimum, and their degrees of freedom.

    ``log_size`` (n,) sorted log10, ``loss`` (n,). Empty where the parabola has three points (it goes through them) or
    there is no minimum.
    """
    if loss.size < 3:
        return np.empty(0), 0
    minima = locate_minima(log_size, loss[None, :])
    near = slice(int(minima.start[0]), int(minima.stop[0]))
    if near.stop - near.start <= 3:
        return np.empty(0), 0
    fitted = minima.y[0] + minima.curvature[0] * (log_size[near] - minima.x[0]) ** 2
    return (loss[near] - fitted) / fitted, fitted.size - 3


def _repeats(trials: pd.DataFrame) -> tuple[float, int]:
    """Sum of squares about the group means of ln loss, and its degrees of freedom."""
    log_loss = np.log(trials["loss"])
    means = log_loss.groupby([trials["settings"], trials["seed"]]).mean()
    groups = means.groupby(level="settings")
    deviations = means - groups.transform("mean")
    return float((deviations**2).sum()), len(means) - groups.ngroups
