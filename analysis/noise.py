"""How far a measured loss may be from what another seed would have given.

Knows cells' trials and the residuals of profiles. Never knows laws, or which model is the best.

The loss of a cell is taken as log-normal about the truth, with one relative variance a method: that of its seeds, which
a mean over k of them has a k-th of, and that of its luck (the search's, and what the shape cannot follow), which no
number of seeds takes away. What they rest on, each with its degrees of freedom:

- repeats: complete trials of one cell with equal hyperparameters and different seeds (seeds alone);
- residuals of the profiles about the valley through all of them (``valley.py``), or about each one's own parabola where
  there is no valley, as a single seed would have them: a mean over k seeds counts k-fold (seeds and k times the luck);
- a prior of 1.5 % that fills up to four degrees of freedom and is worth one at least, so that a sweep without either
  still gets honest, wide intervals. (Seed spread seen on nano models: 0.8 %; a learning rate that is off by 2x costs 2
  to 4 % more. Porian et al. 2024 report 0.05 to 1 % for language models.)

Where the residuals are the larger, the difference is luck; where they are the smaller, both tell of the seeds and are
pooled. Without repeats the two cannot be told apart and need not be: all is put down to the seeds, of which each cell
has one. The variances are themselves drawn anew for each bootstrap draw (scaled inverse chi-squared), so few degrees of
freedom widen the intervals as Student's t would. Each method has its own, since what a shape cannot follow differs by
method (freezing has steps where the number of frozen blocks changes). Limits: the noise is assumed independent between
cells and of one relative size over budgets, and the search's failure to find a cell's best hyperparameters is a
one-sided error that enters through the residuals alone. tests/analysis/test_coverage.py has the figures.
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Residuals:
    """Relative residuals of a fit to cells, (n,): each times the root of its cell's number of seeds."""

    values: FloatArray
    degrees: int
    num_seeds: float
    """Mean over the cells."""

    @property
    def squares(self) -> float:
        return float((self.values**2).sum())


NO_RESIDUALS = Residuals(values=np.empty(0), degrees=0, num_seeds=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Relative variance of a cell's loss, and what it rests on."""

    first_variance: float
    """Of a single trial's seed by prior and repeats, and by the residuals too where there are no repeats."""
    first_degrees: int
    residual_variance: float
    """Of a single trial by the residuals; 0 without repeats."""
    residual_degrees: int
    """Of them 0 where there are no repeats."""
    seeds_per_cell: float
    """Mean over the cells that left the residuals."""
    num_repeat_degrees: int
    num_residual_degrees: int
    num_prior_degrees: int

    @property
    def relative_sd(self) -> float:
        """Of a single trial."""
        return float(np.sqrt(self.variance(np.ones(1))[0]))

    def variance(self, num_seeds: FloatArray) -> FloatArray:
        """Relative variance of means over ``num_seeds`` (n,) seeds: (n,)."""
        seeds, luck = self._split(np.array(self.first_variance), np.array(self.residual_variance))
        return np.asarray(luck + seeds / num_seeds)

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
        """Draws of the relative standard deviation of a single trial: (num_draws,)."""
        return np.asarray(np.sqrt(np.sum(self._draw(rng, num_draws), axis=0)))

    def draws(self, rng: np.random.Generator, num_seeds: FloatArray, num_draws: int) -> FloatArray:
        """Draws of the noise in ln loss of means over ``num_seeds`` (n,) seeds: (num_draws, n).

        All cells of a draw share its variances, which are drawn first.
        """
        seeds, luck = self._draw(rng, num_draws)
        sd = np.sqrt(luck[:, None] + seeds[:, None] / num_seeds)
        return np.asarray(sd * rng.standard_normal((num_draws, num_seeds.size)))

    def _draw(self, rng: np.random.Generator, num_draws: int) -> tuple[FloatArray, FloatArray]:
        """Variance of the seeds and of the luck, each (num_draws,)."""
        first = self.first_variance * self.first_degrees / rng.chisquare(self.first_degrees, num_draws)
        residual = np.zeros(num_draws)
        if self.residual_degrees:
            residual = self.residual_variance * self.residual_degrees / rng.chisquare(self.residual_degrees, num_draws)
        return self._split(first, residual)

    def _split(self, first: FloatArray, residual: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Variance of the seeds and of the luck, from what the two sources say."""
        degrees = self.first_degrees + self.residual_degrees
        pooled = (self.first_degrees * first + self.residual_degrees * residual) / degrees
        return np.where(residual > first, first, pooled), np.maximum(0.0, residual - first) / self.seeds_per_cell


def estimate_noise(trials: pd.DataFrame, residuals: Iterable[Residuals]) -> Noise:
    """The noise of a method from its complete trials (``complete_trials``) and the residuals of its profiles."""
    return _noise(*_repeats(trials), tuple(residuals))


def noise_of_profiles(budgets_flops: FloatArray, num_params: FloatArray, loss: FloatArray) -> Noise:
    """The noise of points (n,) of which nothing but budget, size and loss is known."""
    residuals = []
    for budget in np.unique(budgets_flops):
        here = budgets_flops == budget
        order = np.lexsort((loss[here], num_params[here]))
        size, first = np.unique(num_params[here][order], return_index=True)
        residuals.append(window_residuals(np.log10(size), loss[here][order][first], np.ones(size.size)))
    return _noise(0.0, 0, tuple(residuals))


def window_residuals(log_size: FloatArray, loss: FloatArray, num_seeds: FloatArray) -> Residuals:
    """Residuals of the parabola through the points near a profile's minimum.

    ``log_size`` (n,) sorted log10, ``loss`` (n,), means over ``num_seeds`` (n,). None where the parabola has three
    points (it goes through them) or there is no minimum.
    """
    if loss.size < 3:
        return NO_RESIDUALS
    minima = locate_minima(log_size, loss[None, :], num_seeds)
    near = slice(int(minima.start[0]), int(minima.stop[0]))
    if near.stop - near.start <= 3:
        return NO_RESIDUALS
    fitted = minima.y[0] + minima.curvature[0] * (log_size[near] - minima.x[0]) ** 2
    return Residuals(
        values=(loss[near] - fitted) / fitted * np.sqrt(num_seeds[near]),
        degrees=fitted.size - 3,
        num_seeds=float(num_seeds[near].mean()),
    )


def _noise(repeat_squares: float, repeat_degrees: int, residuals: tuple[Residuals, ...]) -> Noise:
    squares, degrees = sum(one.squares for one in residuals), sum(one.degrees for one in residuals)
    prior = max(MIN_PRIOR_DEGREES, PRIOR_DEGREES - repeat_degrees - degrees)
    apart = repeat_degrees > 0 and degrees > 0
    first_degrees = prior + repeat_degrees + (0 if apart else degrees)
    known = prior * PRIOR_RELATIVE_SD**2 + repeat_squares + (0.0 if apart else squares)
    return Noise(
        first_variance=known / first_degrees,
        first_degrees=first_degrees,
        residual_variance=squares / degrees if apart else 0.0,
        residual_degrees=degrees if apart else 0,
        seeds_per_cell=sum(one.num_seeds * one.degrees for one in residuals) / degrees if degrees else 1.0,
        num_repeat_degrees=repeat_degrees,
        num_residual_degrees=degrees,
        num_prior_degrees=prior,
    )


def _repeats(trials: pd.DataFrame) -> tuple[float, int]:
    """Sum of squares about the group means of ln loss, and its degrees of freedom."""
    log_loss = np.log(trials["loss"])
    means = log_loss.groupby([trials["settings"], trials["seed"]]).mean()
    groups = means.groupby(level="settings")
    deviations = means - groups.transform("mean")
    return float((deviations**2).sum()), len(means) - groups.ngroups
