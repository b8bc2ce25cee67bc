"""Each method's loss as a surface over size and tokens, through the best trial of every cell.

Knows the frontier's points and the parametric fit. Never knows rows, figures, or what is decided by it: the frontier's
own laws decide.

``L(N, D) = E + A/N^alpha + B/D^beta`` by variable projection (least squares of the loss); tokens of repeated data count
as what they are worth as fresh ones (Muennighoff et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.doubts import WIDE_INTERVAL
from analysis.fit import FloatArray
from analysis.forms import SURFACE
from analysis.frontier import Frontier, MethodFrontier
from analysis.parametric import ParametricFit, fit_parametric
from analysis.repeats import effective_tokens

NUM_PARAMS = 5
NUM_DRAWS = 300
MAX_EXPONENT = 3.0
"""Published ones are below 1; a step in the data gives tens."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surface:
    """A method's surface, and the points (n,) it goes through."""

    method: str
    points: pd.DataFrame
    """``trial_id``, ``model``, ``budget_flops``, ``num_params``, ``tokens``, ``epochs``, ``effective_tokens`` and
    ``loss``; with a fit also ``fitted`` and ``residual``: ln of the loss over the fitted one."""
    fit: ParametricFit | None
    reason: str
    """Why there is no fit, in words; empty where there is one."""
    noise_relative_sd: float | None
    """Of a loss; ``None`` where nothing is known of it."""

    @property
    def unidentified(self) -> tuple[str, ...]:
        """The exponents of which the data say less than a factor of 3, or which are no exponents of a loss."""
        assert self.fit is not None
        values, intervals = self.fit.values, self.fit.intervals
        return tuple(
            name
            for name in SURFACE.exponents
            for within in [intervals[name]]
            if not (within.low > 0 and within.high < WIDE_INTERVAL * within.low and values[name] < MAX_EXPONENT)
        )

    @property
    def residual_sd(self) -> float:
        """Root mean square of the residuals, with the parameters taken off the degrees of freedom."""
        return float(np.sqrt((self.points["residual"] ** 2).sum() / (len(self.points) - NUM_PARAMS)))

    def at(self, num_params: FloatArray, tokens: FloatArray) -> FloatArray:
        """The fitted loss in nats at sizes and tokens of one shape."""
        assert self.fit is not None
        flat = self.fit.predict({"params": num_params.ravel(), "tokens": tokens.ravel()})
        return np.asarray(flat.reshape(num_params.shape))


def fit_surfaces(frontier: Frontier) -> tuple[Surface, ...]:
    """A surface for each method, in the frontier's order."""
    return tuple(_surface(method) for method in frontier.methods)


def _surface(method: MethodFrontier) -> Surface:
    points = pd.DataFrame(
        [
            {"trial_id": point.trial_id, "model": point.model, "budget_flops": profile.budget_flops}
            | {"num_params": point.num_params, "tokens": point.tokens, "epochs": point.epochs, "loss": point.loss}
            for profile in method.profiles
            for point in profile.points
        ]
    )
    points["effective_tokens"] = effective_tokens(points["tokens"].to_numpy(float), points["epochs"].to_numpy(float))
    return surface_of(method.label, points, method.noise.relative_sd)


def surface_of(method: str, points: pd.DataFrame, noise_relative_sd: float | None) -> Surface:
    """The surface through ``points``: ``budget_flops``, ``num_params``, ``effective_tokens``, ``loss`` are needed."""
    reason = _reason(points)
    fit = None
    if not reason:
        values = {"params": points["num_params"].to_numpy(float), "tokens": points["effective_tokens"].to_numpy(float)}
        fit = fit_parametric(SURFACE, values, points["loss"].to_numpy(float), way="varpro", num_draws=NUM_DRAWS)
        points = points.assign(fitted=fit.predict(values), residual=fit.residuals)
    return Surface(method=method, points=points, fit=fit, reason=reason, noise_relative_sd=noise_relative_sd)


def _reason(points: pd.DataFrame) -> str:
    if points["budget_flops"].nunique() < 2:
        return "one budget: size and tokens cannot be told apart"
    if len(points) <= NUM_PARAMS + 1:
        return f"{len(points)} points for {NUM_PARAMS} parameters"
    if points["num_params"].nunique() < 2 or points["loss"].nunique() < 2:
        return "one size, or equal losses"
    return ""
