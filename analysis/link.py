"""What a loss says of a score: correlations and curves from held-out loss to evaluation score, and how weak they are.

Knows rows of trials and scores by trial and task. Never knows where scores come from, files or how anything is drawn.

Two curves that never rise with the loss go through a task's trials: the power-exponential of Gadre et al. (2403.08540)
and the isotonic one. The first answers, since it can go beyond the measured losses and is narrower, unless the second
foretells trials that it has not seen clearly better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis import wording
from analysis.fit import LEVEL, FloatArray, Interval, percentile_interval
from analysis.link_ahead import Ahead, foretell_largest
from analysis.link_curves import Exponentials, Numbers, Steps, fit_exponentials, fit_steps, residual_draws
from analysis.link_groups import Stability, ranked, stability
from trainer.result import TrialState

MEAN, CATEGORY_MEAN = "mean of all tasks", "mean of categories"
MIN_TRIALS = 4
"""A curve has three parameters; one more trial leaves something to judge it by."""
FEW_CELLS = 8
LOW_CORRELATION = 0.6
LOW_EXPLAINED = 0.5
CLEARLY_BETTER = 0.8
"""The isotonic curve answers where its error on unseen trials is less than this times the other's."""
NUM_DRAWS = 1000
JOINED = ["trial_id", "method", "model", "budget_flops", "loss"]

CurveName = Literal["power-exponential", "isotonic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """How two quantities go together, and its 90 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """A curve from loss to score, with its draws."""

    name: CurveName
    fit: Exponentials | Steps
    """One draw: the fit itself."""
    draws: Exponentials | Steps
    explained: float
    """Share of the variance of trials that the curve has not seen which it explains; below 0 it is worse than their
    mean. Each cell is left out once."""

    def at(self, losses: FloatArray) -> FloatArray:
        return np.asarray(self.fit.at(np.asarray(losses, dtype=np.float64))[0])

    def draws_at(self, losses: FloatArray) -> FloatArray:
        """(num_draws, k) at losses (k,)."""
        return self.draws.at(np.asarray(losses, dtype=np.float64))

    def interval_at(self, loss: float) -> Interval:
        return percentile_interval(self.draws_at(np.array([loss]))[:, 0])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Link:
    """From loss to the score on one task, or to a mean over tasks."""

    task: str
    points: pd.DataFrame
    """``JOINED`` and ``score``, a line a trial, by loss."""
    num_cells: int
    """Budgets, models and methods among them: what counts as independent."""
    rank: Correlation | None
    """Spearman's; ``None`` with fewer than ``MIN_TRIALS`` cells."""
    linear: Correlation | None
    """Pearson's."""
    curves: tuple[Curve, ...]
    """The one that answers first; empty where there are too few trials."""
    scatter: float
    """Standard deviation of trials about the curve that answers; NaN without one."""
    stability: tuple[Stability, ...]
    """By method, then by budget."""
    ahead: Ahead | None
    """How the smaller budgets foretell the largest; ``None`` where there are too few trials."""

    @property
    def losses(self) -> tuple[float, float]:
        """The lowest and the highest measured loss."""
        return float(self.points["loss"].min()), float(self.points["loss"].max())

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Why this link is a poor guide, in words; empty where it is not."""
        if not self.curves:
            return (_too_few(len(self.points), self.num_cells),)
        assert self.rank is not None
        found = []
        if self.num_cells < FEW_CELLS:
            found.append(
                f"only {self.num_cells} cells have a score, and {FEW_CELLS} or more are needed to trust a curve"
            )
        if self.rank.interval.high >= 0:
            found.append("the interval of the rank correlation includes zero" if self.rank.value < 0
                         else "the score does not fall with the loss")  # fmt: skip
        elif self.rank.value > -LOW_CORRELATION:
            found.append(f"the rank correlation is only {self.rank.value:.2f}")
        if self.curves[0].explained < LOW_EXPLAINED:
            share = max(0.0, self.curves[0].explained)
            found.append(f"the curve explains {wording.share(share)} of the variance of trials that it has not seen")
        return tuple(found)

    @property
    def is_weak(self) -> bool:
        return bool(self.weaknesses)

    @property
    def sentence(self) -> str:
        """What the link is worth."""
        if not self.curves:
            return f"{self.task}: no link, since {self.weaknesses[0]}."
        assert self.rank is not None and self.linear is not None
        how = (
            f"{self.task}: rank correlation {_said(self.rank)}, Pearson's {_said(self.linear)}, over "
            f"{len(self.points)} trials in {self.num_cells} cells; trials lie {self.scatter:.3f} about the "
            f"{self.curves[0].name} curve (standard deviation)"
        )
        shared = " ".join([*(one.sentence for one in self.stability), *([self.ahead.sentence] if self.ahead else [])])
        weak = f" This link is WEAK: {'; '.join(self.weaknesses)}." if self.is_weak else ""
        return f"{how}.{weak} {shared}".strip()

    def to_dict(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "num_trials": len(self.points),
            "num_cells": self.num_cells,
            "spearman": None if self.rank is None else [self.rank.value, *self.rank.interval.to_list()],
            "pearson": None if self.linear is None else [self.linear.value, *self.linear.interval.to_list()],
            "curve": self.curves[0].name if self.curves else None,
            "explained": self.curves[0].explained if self.curves else None,
            "scatter": self.scatter if self.curves else None,
            "losses": list(self.losses),
            "stability": [one.to_dict() for one in self.stability],
            "ahead": None if self.ahead is None else self.ahead.to_dict(),
            "weaknesses": list(self.weaknesses),
            "sentence": self.sentence,
        }


def fit_links(rows: pd.DataFrame, scores: pd.DataFrame) -> tuple[Link, ...]:
    """The links of every task and of the means over tasks, the means first; empty where no scored trial is in ``rows``.

    ``rows`` has the store's columns, ``scores`` has ``trial_id``, ``task``, ``score`` and, for the mean of categories,
    ``task_type``.
    """
    done = rows[(rows["state"] == TrialState.COMPLETE) & np.isfinite(rows["loss"].astype(float))]
    joined = with_means(scores).merge(done[JOINED], on="trial_id").dropna(subset=["score"])
    order = {name: place for place, name in enumerate((MEAN, CATEGORY_MEAN))}
    tasks = sorted(joined["task"].unique(), key=lambda task: (order.get(task, len(order)), task))
    return tuple(_link(str(task), joined[joined["task"] == task]) for task in tasks)


def with_means(scores: pd.DataFrame) -> pd.DataFrame:
    """``scores`` with a line for each trial's mean over tasks (paper, section 4) and mean of its categories' means.

    Only trials that have a score on every task have a mean, so that all means are of the same tasks; with one task
    there is none, and with one category no mean of categories.
    """
    scored = scores.dropna(subset=["score"])
    wide = scored.pivot_table(index="trial_id", columns="task", values="score").dropna()
    if wide.shape[1] < 2:
        return scored
    means = [wide.mean(axis=1).rename("score").reset_index().assign(task=MEAN)]
    kinds = dict(zip(scored["task"], scored.get("task_type", pd.Series(dtype=object)), strict=False))
    # With one task in each category the two means are the same.
    if 1 < len(set(kinds.values())) < len(kinds):
        by_kind = wide.T.groupby(wide.columns.map(kinds)).mean().T
        means.append(by_kind.mean(axis=1).rename("score").reset_index().assign(task=CATEGORY_MEAN))
    return pd.concat([scored, *means], ignore_index=True)


def _link(task: str, joined: pd.DataFrame) -> Link:
    points = joined[[*JOINED, "score"]].sort_values(["loss", "trial_id"], ignore_index=True)
    losses, scores = (points[name].to_numpy(dtype=np.float64) for name in ("loss", "score"))
    numbers = points.groupby(["budget_flops", "model", "method"], sort=False).ngroup()
    cells: Numbers = np.array(numbers, dtype=np.int64)
    num_cells = len(np.unique(cells))
    curves: tuple[Curve, ...] = ()
    scatter = math.nan
    if num_cells >= MIN_TRIALS and np.ptp(losses) > 0:
        curves, scatter = _curves(losses, scores, cells)
    return Link(
        task=task,
        points=points,
        num_cells=num_cells,
        rank=_correlation(ranked(losses), ranked(scores), num_cells, ranks=True) if curves else None,
        linear=_correlation(losses, scores, num_cells, ranks=False) if curves else None,
        curves=curves,
        scatter=scatter,
        stability=stability(points, curves[0].at(losses)) if curves else (),
        ahead=foretell_largest(points) if curves else None,
    )


def _curves(losses: FloatArray, scores: FloatArray, cells: Numbers) -> tuple[tuple[Curve, ...], float]:
    """Both curves, the one that answers first, and the scatter about it."""
    smooth, steps = fit_exponentials(losses, scores[None]), fit_steps(losses, scores[None])
    residuals = scores - smooth.at(losses)[0]
    # The cells alone are independent: repeats within them leave no degrees of freedom.
    dof = max(1, len(np.unique(cells)) - 3)
    noise = residual_draws(residuals, cells, dof, NUM_DRAWS, seed=0)
    unseen = {name: _unseen(losses, scores, cells, name) for name in ("power-exponential", "isotonic")}
    spread = float(((scores - scores.mean()) ** 2).sum()) or 1.0
    curves = (
        Curve(
            name="power-exponential",
            fit=smooth,
            draws=fit_exponentials(losses, smooth.at(losses) + noise),
            explained=1 - unseen["power-exponential"] / spread,
        ),
        Curve(
            name="isotonic",
            fit=steps,
            # About the scores themselves: a step function smooths, and smoothing it once more would lean.
            draws=fit_steps(losses, scores[None] + noise),
            explained=1 - unseen["isotonic"] / spread,
        ),
    )
    if unseen["isotonic"] < CLEARLY_BETTER * unseen["power-exponential"]:
        curves = curves[1], curves[0]
    off = scores - curves[0].at(losses)
    return curves, float(np.sqrt((off**2).sum() / max(1, len(scores) - 3)))


def _unseen(losses: FloatArray, scores: FloatArray, cells: Numbers, name: str) -> float:
    """Sum of squared errors on each cell's trials by the curve through all the others."""
    fit = fit_exponentials if name == "power-exponential" else fit_steps
    total = 0.0
    for cell in np.unique(cells):
        out = cells == cell
        if np.ptp(losses[~out]) > 0:
            total += float(((fit(losses[~out], scores[~out][None]).at(losses[out])[0] - scores[out]) ** 2).sum())
    return total


def _correlation(x: FloatArray, y: FloatArray, num_cells: int, *, ranks: bool) -> Correlation:
    """Fisher's interval; for ranks with the variance of Bonett and Wright (2000). As many observations as cells."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(value=0.0, interval=Interval(low=-1.0, high=1.0))
    value = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    variance = ((1 + value**2 / 2) if ranks else 1.0) / (num_cells - 3)
    reach = float(ndtri((1 + LEVEL) / 2)) * math.sqrt(variance)
    # A perfect correlation of few has no finite z.
    z = math.atanh(float(np.clip(value, -1 + 1e-12, 1 - 1e-12)))
    return Correlation(value=value, interval=Interval(low=math.tanh(z - reach), high=math.tanh(z + reach)))


def _too_few(num_trials: int, num_cells: int) -> str:
    if num_trials == 1:
        return "1 scored trial is too few for a curve"
    if num_cells >= MIN_TRIALS:
        return "all scored trials have the same loss"
    return f"{num_trials} scored trials in {num_cells} cells are too few for a curve"


def _said(found: Correlation) -> str:
    return f"{found.value:.2f} (90 % interval: {found.interval.low:.2f} to {found.interval.high:.2f})"


def link_of(links: Sequence[Link]) -> Link | None:
    """The link that speaks for all: to the mean over tasks, or to the only task."""
    return links[0] if links and (links[0].task == MEAN or len(links) == 1) else None
