"""The score to expect of what is recommended, from the loss to expect and the link from loss to score.

Knows links, a recommendation and the draws behind its loss. Never knows rows, files or how it is shown.

The interval is of draws: each takes a draw of the loss and a draw of the curve, so both are in it. It is that of the
curve at that loss; a single trial scatters about it by what is said beside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import wording
from analysis.expect import loss_draws
from analysis.fit import FloatArray, Interval, percentile_interval
from analysis.frontier import Frontier
from analysis.link import MEAN, NUM_DRAWS, Curve, CurveName, Link, link_of
from analysis.recommend import Recommendation


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedScore:
    """A score at a loss that was not measured."""

    task: str
    loss: float
    score: float
    interval: Interval
    """90 %, of the loss and of the curve together."""
    scatter: float
    """Standard deviation of single trials about the curve."""
    curve: CurveName
    measured_losses: tuple[float, float]
    has_loss_draws: bool
    weaknesses: tuple[str, ...]

    @property
    def is_outside(self) -> bool:
        low, high = self.measured_losses
        return not low <= self.loss <= high

    def sentences(self) -> tuple[str, ...]:
        """What to expect, and what makes it doubtful."""
        what = "a mean evaluation score" if self.task == MEAN else f"a score on {self.task}"
        taken = "" if self.has_loss_draws else ", the loss taken as known"
        said = [
            f"At a loss of {wording.loss(self.loss)} expect {what} of {self.score:.3f} (90 % interval: "
            f"{self.interval.low:.3f} to {self.interval.high:.3f}{taken}; one trial scatters by {self.scatter:.3f} "
            f"more), by the {self.curve} curve from loss to score."
        ]
        if self.is_outside:
            low, high = map(wording.loss, self.measured_losses)
            said.append(f"Mind: that loss lies outside the scored ones ({low} to {high}), so the link is extrapolated.")
        if self.weaknesses:
            said.append(f"WARNING: the link from loss to score is weak: {'; '.join(self.weaknesses)}.")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "loss": self.loss,
            "score": self.score,
            "interval": self.interval.to_list(),
            "scatter": self.scatter,
            "curve": self.curve,
            "measured_losses": list(self.measured_losses),
            "outside": self.is_outside,
            "weaknesses": list(self.weaknesses),
            "sentences": list(self.sentences()),
        }


def foretell_score(
    links: Sequence[Link], frontier: Frontier, recommendation: Recommendation
) -> tuple[ExpectedScore | None, str]:
    """The mean score of the recommended model, or ``None`` and a sentence why there is none."""
    link = link_of(links)
    if link is None:
        return None, "No score can be foretold: no trial has scores on the same tasks as the others."
    if not link.curves:
        return None, f"No score can be foretold: {link.weaknesses[0]}."
    if recommendation.loss is None:
        return None, "No score can be foretold, since no loss can."
    method = frontier.method(recommendation.label)
    draws = None
    if method.loss_law is not None:
        found = loss_draws(method, recommendation.budget_flops, recommendation.num_params)
        draws = found[np.isfinite(found)]
    return expected_score(link, recommendation.loss, draws), ""


def expected_score(link: Link, loss: float, draws: FloatArray | None = None) -> ExpectedScore:
    """The score at ``loss``, a link with curves given; ``draws`` (any number) are those of the loss.

    Beyond the measured losses the power-exponential curve answers, since the isotonic one says nothing there.
    """
    low, high = link.losses
    curve = link.curves[0] if low <= loss <= high else _smooth(link)
    if has_draws := draws is not None and len(draws) > 0:
        # Independent of the curve's draws: these come in no order that the others share.
        losses = np.random.default_rng(0).choice(draws, NUM_DRAWS)
    else:
        losses = np.full(NUM_DRAWS, loss)
    return ExpectedScore(
        task=link.task,
        loss=loss,
        score=float(curve.at(np.array([loss]))[0]),
        interval=percentile_interval(curve.draws.each_at(losses)),
        scatter=link.scatter if math.isfinite(link.scatter) else 0.0,
        curve=curve.name,
        measured_losses=link.losses,
        has_loss_draws=has_draws,
        weaknesses=link.weaknesses,
    )


def _smooth(link: Link) -> Curve:
    return next(curve for curve in link.curves if curve.name == "power-exponential")
