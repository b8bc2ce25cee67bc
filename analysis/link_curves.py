"""Curves of a score over a loss that fall as the loss rises: power-exponential and monotone, one fit or many draws.

Knows arrays. Every function works on many draws of the scores at a time, one draw a row. Never knows tasks, trials or
what decides between the curves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from analysis.fit import FloatArray

RATES = (0.05, 8.0)
"""Smallest and largest rate times the range of the losses: from next to a straight line to a decay that is over before
half of the range. A faster one would be a spike at the lowest loss alone."""
_NUM_RATES = 60

Numbers = npt.NDArray[np.int64]
HIGHEST = 1.0
"""No main metric is above it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Exponentials:
    """``score = floor + height exp(-rate (loss - origin))`` with ``height >= 0``; parameters (num_draws,).

    With ``error = 1 - score`` this is ``Err(L) = eps - k exp(-gamma L)`` of Gadre et al. (2403.08540, section 3), where
    ``eps = 1 - floor``, ``gamma = rate`` and ``k = height exp(rate origin)``.
    """

    floor: FloatArray
    height: FloatArray
    rate: FloatArray
    """Per nat."""
    origin: float
    """The lowest loss that was fitted."""
    squares: FloatArray
    """Sum of squared residuals of each draw."""

    def at(self, losses: FloatArray) -> FloatArray:
        """Scores of every draw at losses (k,): (num_draws, k)."""
        with np.errstate(over="ignore"):
            decay = np.exp(-self.rate[:, None] * (np.asarray(losses)[None, :] - self.origin))
            return np.minimum(HIGHEST, self.floor[:, None] + self.height[:, None] * decay)

    def each_at(self, losses: FloatArray) -> FloatArray:
        """Scores of draw i at loss i: (num_draws,) in and out."""
        with np.errstate(over="ignore"):
            decay = np.exp(-self.rate * (losses - self.origin))
            return np.asarray(np.minimum(HIGHEST, self.floor + self.height * decay))


def fit_exponentials(losses: FloatArray, scores: FloatArray) -> Exponentials:
    """The least-squares curve through each draw: losses (n,), scores (num_draws, n).

    At a given rate the curve is a straight line in ``exp(-rate loss)``, so the rate alone is searched, on a grid
    (variable projection).
    """
    origin, span = float(losses.min()), float(np.ptp(losses))
    mean = scores.mean(axis=1)
    centred = scores - mean[:, None]
    total = (centred**2).sum(axis=1)
    floor, height, rate = mean.copy(), np.zeros_like(mean), np.full_like(mean, RATES[0] / span)
    best = np.full_like(mean, np.inf)
    for candidate in np.geomspace(*RATES, _NUM_RATES) / span:
        decay = np.exp(-candidate * (losses - origin))
        off = decay - decay.mean()
        slope = np.maximum(0.0, centred @ off / (off @ off))
        squares = total - slope * (2 * (centred @ off) - slope * (off @ off))
        better = squares < best
        best = np.where(better, squares, best)
        floor = np.where(better, mean - slope * decay.mean(), floor)
        height, rate = np.where(better, slope, height), np.where(better, candidate, rate)
    return Exponentials(floor=floor, height=height, rate=rate, origin=origin, squares=best)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Steps:
    """Scores that never rise with the loss, straight between the fitted losses and constant beyond them."""

    losses: FloatArray
    """Distinct and rising, (m,)."""
    values: FloatArray
    """(num_draws, m)."""

    def at(self, losses: FloatArray) -> FloatArray:
        """Scores of every draw at losses (k,): (num_draws, k)."""
        return np.stack([np.interp(losses, self.losses, values) for values in self.values])

    def each_at(self, losses: FloatArray) -> FloatArray:
        """Scores of draw i at loss i: (num_draws,) in and out."""
        pairs = zip(losses, self.values, strict=True)
        return np.array([np.interp(loss, self.losses, values) for loss, values in pairs])


def fit_steps(losses: FloatArray, scores: FloatArray) -> Steps:
    """The least-squares falling step function through each draw (isotonic regression): (n,) and (num_draws, n)."""
    distinct, place, counts = np.unique(losses, return_inverse=True, return_counts=True)
    means = scores @ (np.eye(len(distinct))[place] / counts)
    values = [isotonic_regression(row, weights=counts, increasing=False).x for row in means]
    return Steps(losses=distinct, values=np.stack(values))


def residual_draws(residuals: FloatArray, groups: Numbers, dof: int, num_draws: int, seed: int) -> FloatArray:
    """Draws of what lies about a curve: (num_draws, n), normal, with the spread itself drawn as uncertain.

    ``residuals`` (n,) are those of a fit that left ``dof`` degrees of freedom; ``groups`` (n,) number the cells, whose
    trials share a part of their residual (an analysis of variance says how much). The variance of each draw is that of
    the residuals times ``n / chi2(dof)``, which makes the intervals Student's where the curve is a straight line.
    """
    random = np.random.default_rng(seed)
    shared, own = _components(residuals, groups)
    scale = np.sqrt(len(residuals) / random.chisquare(dof, (num_draws, 1)))
    cells = random.standard_normal((num_draws, int(groups.max()) + 1))[:, groups]
    return np.asarray(scale * (shared * cells + own * random.standard_normal((num_draws, len(residuals)))))


def _components(residuals: FloatArray, groups: Numbers) -> tuple[float, float]:
    """Standard deviations between and within groups that together make the residuals' mean square."""
    total = float((residuals**2).mean())
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(place, residuals) / counts
    within_dof = len(residuals) - len(counts)
    if within_dof == 0 or len(counts) < 2:
        return 0.0, total**0.5
    within = float(((residuals - means[place]) ** 2).sum()) / within_dof
    between = float((counts * means**2).sum()) / len(counts)
    size = (len(residuals) - (counts**2).sum() / len(residuals)) / (len(counts) - 1)
    shared = max(0.0, (between - within) / size)
    part = shared / (shared + within) if shared + within else 0.0
    return (part * total) ** 0.5, ((1 - part) * total) ** 0.5
