"""Whether one curve from loss to score serves all methods and all budgets alike.

Knows scored trials and what a common curve gives them. Never knows how the curve was fitted.

At equal loss the groups may lie apart: each group gets an offset of its own beside a common slope along the curve, and
an F test asks whether the offsets are more than noise. Groups that differ in their losses are told apart from the
curve's own misfit only as far as they overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtrc, stdtrit

from analysis import wording
from analysis.fit import LEVEL, FloatArray, Interval
from trainer.trial import format_flops

MIN_DOF = 3
MIN_RANKED = 4
UNLIKELY = 0.05
_WORDS = {"method": "methods", "budget_flops": "budgets"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The trials of one method, or of one budget."""

    name: str
    num_trials: int
    rank: float | None
    """Spearman's correlation within; ``None`` with fewer than four trials or equal values."""
    offset: float | None
    """How far its scores lie above the common curve at equal loss; ``None`` where the trials do not tell."""
    offset_interval: Interval | None

    @property
    def is_apart(self) -> bool:
        within = self.offset_interval
        return within is not None and not within.low <= 0 <= within.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """How the groups of one kind lie about the common curve."""

    by: str
    """``method`` or ``budget_flops``."""
    groups: tuple[Group, ...]
    p_value: float | None
    """Of offsets this large where one curve serves all; ``None`` where there is one group, or too few trials."""

    @property
    def is_shared(self) -> bool | None:
        return None if self.p_value is None else self.p_value >= UNLIKELY

    @property
    def sentence(self) -> str:
        words = _WORDS[self.by]
        if len(self.groups) < 2:
            return f"All trials are of one {words[:-1]}."
        if self.p_value is None:
            return f"There are too few trials to tell whether one curve serves all {words}."
        if self.is_shared:
            return f"One curve serves all {words}, as far as these trials tell (p = {self.p_value:.2f})."
        apart = [group for group in self.groups if group.is_apart] or self.groups
        told = [f"{group.name} by {group.offset:+.3f}" for group in apart]
        p = f"p = {self.p_value:.3f}" if self.p_value >= 0.001 else "p < 0.001"
        return (
            f"One curve does not serve all {words} ({p}): at equal loss scores differ from the common curve, "
            f"{wording.listing(told)}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "p_value": self.p_value,
            "groups": [
                {
                    "name": group.name,
                    "num_trials": group.num_trials,
                    "spearman": group.rank,
                    "offset": group.offset,
                    "offset_interval": None if group.offset_interval is None else group.offset_interval.to_list(),
                }
                for group in self.groups
            ],
        }


def stability(points: pd.DataFrame, along: FloatArray) -> tuple[Stability, ...]:
    """By method, then by budget. ``points`` has ``method``, ``budget_flops``, ``loss`` and ``score``; ``along`` (n,) is
    what the common curve gives each of them."""
    return tuple(_stability(points, along, by) for by in _WORDS)


def _stability(points: pd.DataFrame, along: FloatArray, by: str) -> Stability:
    names, place = np.unique(points[by].to_numpy(), return_inverse=True)
    scores = points["score"].to_numpy(dtype=np.float64)
    offsets, intervals, p_value = _offsets(scores, along, place, len(names))
    groups = tuple(
        Group(
            name=format_flops(float(name)) if by == "budget_flops" else str(name),
            num_trials=int((place == number).sum()),
            rank=_rank(points[place == number]),
            offset=None if offsets is None else float(offsets[number]),
            offset_interval=None if intervals is None else intervals[number],
        )
        for number, name in enumerate(names)
    )
    return Stability(by=by, groups=groups, p_value=p_value)


def ranked(values: FloatArray | pd.Series[float]) -> FloatArray:
    """The rank of each value (n,) from 1; equal values share their mean rank."""
    return np.asarray(pd.Series(values).rank(), dtype=np.float64)


def _rank(own: pd.DataFrame) -> float | None:
    if len(own) < MIN_RANKED or own["loss"].nunique() < 2 or own["score"].nunique() < 2:
        return None
    return float(np.corrcoef(ranked(own["loss"]), ranked(own["score"]))[0, 1])


def _offsets(
    scores: FloatArray, along: FloatArray, place: np.ndarray[Any, np.dtype[np.intp]], num_groups: int
) -> tuple[FloatArray | None, tuple[Interval, ...] | None, float | None]:
    """Offsets that sum to zero over the trials, their intervals, and the p-value of the F test that all are zero."""
    dof = len(scores) - num_groups - 1
    if num_groups < 2 or dof < MIN_DOF or np.ptp(along) == 0:
        return None, None, None
    slope = along - along.mean()
    own = np.eye(num_groups)[place]
    design = np.column_stack([own, slope])
    together = np.column_stack([np.ones(len(scores)), slope])
    solution = np.linalg.lstsq(design, scores, rcond=None)[0]
    squares = float(((scores - design @ solution) ** 2).sum())
    common = float(((scores - together @ np.linalg.lstsq(together, scores, rcond=None)[0]) ** 2).sum())
    shares = own.mean(axis=0)
    centring = np.column_stack([np.eye(num_groups) - shares[None, :], np.zeros(num_groups)])
    offsets = centring @ solution
    if squares <= 1e-24:
        return offsets, tuple(Interval(low=o, high=o) for o in offsets), 1.0 if common <= 1e-24 else 0.0
    covariance = squares / dof * centring @ np.linalg.pinv(design.T @ design) @ centring.T
    reach = float(stdtrit(dof, (1 + LEVEL) / 2)) * np.sqrt(np.maximum(0.0, np.diag(covariance)))
    intervals = tuple(Interval(low=float(o - r), high=float(o + r)) for o, r in zip(offsets, reach, strict=True))
    ratio = max(0.0, (common - squares) / (num_groups - 1)) / (squares / dof)
    p_value = float(fdtrc(num_groups - 1, dof, ratio))
    return offsets, intervals, p_value if math.isfinite(p_value) else None
