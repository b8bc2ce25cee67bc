"""IsoFLOP profiles: loss over model size at one budget, for one method, and the optimum where there is one.

Knows rows of a store (the columns that it names) and the numerics of ``analysis/fit.py``. Never knows laws over
budgets, files, or how a trial was trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from analysis.fit import FloatArray, Interval, Parabola, locate_minima, percentile_interval
from analysis.noise import Residuals, window_residuals
from trainer.result import TrialState
from trainer.trial import TrialSpec

MIN_MODELS = 3
MAX_APART = 1.5
"""Where a valley says another loss of a budget than its own parabola by more, the valley is none of this budget's."""

CELL = ("method", "budget_flops", "model")
# Two trials that agree in all of these differ by their seed alone.
SETTINGS = (
    "learning_rate",
    "temperature",
    "weight_decay",
    "batch_size",
    "max_length",
    "warmup_fraction",
    "pooling",
    "gradient_clipping",
    "num_evaluation_pairs",
    "num_candidates",
    "data",
    "revision",
    "method_rank",
    "method_alpha",
    "method_active_fraction",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What a cell gives to its profile: its best complete trial."""

    trial_id: str
    spec: TrialSpec
    num_params: int
    """Non-embedding parameters of the base model: the size axis."""
    tokens: int
    pairs: int
    steps: int
    epochs: float
    loss: float
    """Mean over the seeds that were run with the best trial's settings: the best of several seeds is too good."""
    num_seeds: int
    num_trials: int
    """Complete trials of the cell."""

    @property
    def model(self) -> str:
        return self.spec.model


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The vertex of a profile's parabola, with 90 % intervals.

    The loss is not the parabola's own: see ``build_profile``.
    """

    num_params: float
    tokens: float
    loss: float
    num_params_interval: Interval
    tokens_interval: Interval
    loss_interval: Interval
    parabola: Parabola
    """Loss over log10 of the size, down to ``loss``."""
    models: tuple[str, ...]
    """The models that the parabola goes through, by size."""


class ProfileState(StrEnum):
    """What the points of a profile say about the best size."""

    OPTIMUM = "optimum"
    EDGE_LOW = "edge low"
    EDGE_HIGH = "edge high"
    FLAT = "flat"
    FEW = "too few models"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Loss over model size at one budget and method."""

    budget_flops: int
    points: tuple[Point, ...]
    """One a model, by size; at least one."""
    state: ProfileState
    optimum: Optimum | None
    """Present exactly where the state is OPTIMUM."""

    @property
    def best(self) -> Point:
        """The lowest measured point; not an optimum where the state says otherwise."""
        return min(self.points, key=lambda point: point.loss)

    @property
    def loss(self) -> float:
        """The optimum's loss, or the lowest measured where there is no optimum (an upper bound of it)."""
        return self.best.loss if self.optimum is None else self.optimum.loss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProfileDraws:
    """Bootstrap draws of a profile's optimum, arrays of shape (num_draws,); NaN where a draw has none."""

    num_params: FloatArray
    tokens: FloatArray
    loss: FloatArray
    """The lowest loss of the draw where it has no optimum, so never NaN."""


def complete_trials(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows that can be fitted, each trial once, and a sentence for each kind of row that was left out.

    A new column ``settings`` numbers the groups of trials that differ by their seed alone.
    """
    notes = []
    rows = rows.drop_duplicates("trial_id")
    for state, number in rows["state"].value_counts().sort_index().items():
        if state != TrialState.COMPLETE:
            notes.append(f"{number} {state} trial{'s' if number != 1 else ''} of {len(rows)} left out of all fits.")
    complete = rows[rows["state"] == TrialState.COMPLETE]
    loss = complete["loss"].astype(float)
    usable = np.isfinite(loss) & (loss > 0)
    if not usable.all():
        notes.append(f"{(~usable).sum()} complete trials left out of all fits: their loss is not a positive number.")
    trials = complete[usable].assign(loss=loss[usable])
    settings = trials.groupby([*CELL, *SETTINGS], dropna=False).ngroup()
    return trials.assign(settings=settings), tuple(notes)


def cells(trials: pd.DataFrame) -> dict[tuple[str, int], tuple[Point, ...]]:
    """The points of each (method label, budget), by size, from complete trials: the best trial of each model.

    Of two models of one size the better one is kept: a profile has one loss for a size.
    """
    same_settings = trials.groupby("settings")
    trials = trials.assign(
        mean_loss=same_settings["loss"].transform("mean"),
        num_seeds=same_settings["seed"].transform("nunique"),
        num_trials=trials.groupby([*CELL])["loss"].transform("size"),
    )
    best = trials.sort_values(["mean_loss", "loss", "trial_id"], kind="stable").drop_duplicates([*CELL])
    best = best.drop_duplicates(["method", "budget_flops", "num_params_non_embedding"])
    found: dict[tuple[str, int], list[Point]] = {}
    for row in best.sort_values(["method", "budget_flops", "num_params_non_embedding"]).to_dict("records"):
        found.setdefault((str(row["method"]), int(row["budget_flops"])), []).append(_point(row))
    return {key: tuple(points) for key, points in found.items()}


def _point(row: dict[Any, Any]) -> Point:
    return Point(
        trial_id=row["trial_id"],
        spec=TrialSpec.from_json(row["spec"]),
        num_params=int(row["num_params_non_embedding"]),
        tokens=int(row["tokens"]),
        pairs=int(row["pairs"]),
        steps=int(row["steps"]),
        epochs=float(row["epochs"]),
        loss=float(row["mean_loss"]),
        num_seeds=int(row["num_seeds"]),
        num_trials=int(row["num_trials"]),
    )


def relative_residuals(points: tuple[Point, ...]) -> Residuals:
    """``window_residuals`` of a profile's points."""
    return window_residuals(*_arrays(points), _num_seeds(points))


def minimum(points: tuple[Point, ...]) -> float:
    """log10 of the size at the minimum; infinite at an edge, NaN where there are too few points or they are flat."""
    if len(points) < MIN_MODELS:
        return math.nan
    log_size, loss = _arrays(points)
    return float(locate_minima(log_size, loss[None, :], _num_seeds(points)).x[0])


def build_profile(
    points: tuple[Point, ...], noise: FloatArray, own_loss: tuple[float, FloatArray] | None = None
) -> tuple[Profile, ProfileDraws]:
    """The profile through ``points`` (sorted by size) and its bootstrap draws.

    ``noise`` has shape (num_draws, len(points)): what each draw adds to ln loss of a point. Each draw looks for its own
    minimum, window and edge, so the intervals know that the minimum may be elsewhere. A draw whose minimum is at an
    edge says that the size lies beyond it: the interval is then open on that side.

    A parabola around the lowest of several noisy points is too low at its vertex. ``own_loss`` is the optimum's loss
    and its draws (num_draws,) by a way that does not choose (``Valley.own_loss``). Without it, the loss is moved up by
    as much as the draws, which have the noise twice, lean below it, and they by twice as much.
    """
    if len(points) < MIN_MODELS:
        return _few(points, noise)
    log_size, loss = _arrays(points)
    minima = locate_minima(log_size, loss[None, :], _num_seeds(points))
    moved = loss * np.exp(noise)
    drawn = locate_minima(log_size, moved, _num_seeds(points))
    # Under great noise a parabola may dive below 0, where there is no loss.
    drawn_loss = np.where(drawn.y > 0, drawn.y, moved.min(axis=1))
    size = 10.0**drawn.x
    tokens = tokens_at(points, drawn.x)
    draws = ProfileDraws(num_params=np.where(np.isfinite(drawn.x), size, np.nan), tokens=tokens, loss=drawn_loss)
    vertex = float(minima.x[0])
    optimum = None
    if math.isfinite(vertex):
        level, drawn_loss = _level(float(minima.y[0]), drawn_loss, own_loss)
        draws = replace(draws, loss=drawn_loss)
        state = ProfileState.OPTIMUM
        near = slice(int(minima.start[0]), int(minima.stop[0]))
        optimum = Optimum(
            num_params=10**vertex,
            tokens=float(tokens_at(points, minima.x)[0]),
            loss=level,
            num_params_interval=percentile_interval(np.where(drawn.x == -np.inf, -np.inf, size)),
            tokens_interval=percentile_interval(np.where(np.isfinite(drawn.x), tokens, -drawn.x)),
            loss_interval=percentile_interval(drawn_loss),
            parabola=Parabola(curvature=float(minima.curvature[0]), vertex=vertex, minimum=level),
            models=tuple(point.model for point in points[near]),
        )
    elif math.isnan(vertex):
        state = ProfileState.FLAT
    else:
        state = ProfileState.EDGE_LOW if vertex < 0 else ProfileState.EDGE_HIGH
    return _profile(points, state, optimum), draws


def _few(points: tuple[Point, ...], noise: FloatArray) -> tuple[Profile, ProfileDraws]:
    unknown = np.full(noise.shape[0], np.nan)
    loss = (_arrays(points)[1] * np.exp(noise)).min(axis=1)
    return _profile(points, ProfileState.FEW, None), ProfileDraws(num_params=unknown, tokens=unknown, loss=loss)


def _profile(points: tuple[Point, ...], state: ProfileState, optimum: Optimum | None) -> Profile:
    return Profile(budget_flops=points[0].spec.budget_flops, points=points, state=state, optimum=optimum)


def _arrays(points: tuple[Point, ...]) -> tuple[FloatArray, FloatArray]:
    """log10 of the size and the loss, each of shape (n,)."""
    return np.log10([float(point.num_params) for point in points]), np.array([point.loss for point in points])


def _num_seeds(points: tuple[Point, ...]) -> FloatArray:
    return np.array([float(point.num_seeds) for point in points])


def _level(
    vertex_loss: float, drawn: FloatArray, own_loss: tuple[float, FloatArray] | None
) -> tuple[float, FloatArray]:
    """The optimum's loss and its draws, (num_draws,) and never NaN, without the lean of what is ``drawn``."""
    if own_loss is None or not vertex_loss / MAX_APART < own_loss[0] < vertex_loss * MAX_APART:
        lean = vertex_loss - float(np.median(drawn))
        return vertex_loss + lean, drawn + 2 * lean
    loss, draws = own_loss
    return loss, np.where(np.isfinite(draws) & (draws > 0), draws, drawn)


def tokens_at(points: tuple[Point, ...], log_size: FloatArray) -> FloatArray:
    """Tokens that the budget pays for at ``log_size`` (num_draws,): the measured ones, log-log between two models."""
    known_size, _ = _arrays(points)
    log_tokens = np.log([float(point.tokens) for point in points])
    at = np.where(np.isfinite(log_size), log_size, known_size[0])
    return np.where(np.isfinite(log_size), np.exp(np.interp(at, known_size, log_tokens)), np.nan)
