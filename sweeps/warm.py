"""Warm starts: what smaller budgets teach a study about its hyperparameters, and what one more trial of it may gain.

Knows the finished trials of one method, as shares of each study's range, and fits one bowl through all of them. Pure:
rows in, values out. Never knows Optuna, a file, or which cells are run.

The loss of a trial is taken as ``m + sum over hyperparameters of q t^2 + l t`` with ``t`` from -1 to 1 over the range
that the spec gives, ``m`` of each study its own, and ``l`` of the learning rate linear in ln budget and ln size, so
that its optimum follows a power law of both. All trials of all studies of a method are fitted at once, since the best
of three or four trials says little about where the optimum of a study is. The fit is a Gaussian posterior: its priors
keep a few trials from saying too much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from analysis.fit import FloatArray
from sweeps.plan import Cell, Study
from sweeps.points import at, four_digits, share_of
from sweeps.search import Finished, best_of, value_of
from sweeps.space import Range, Space, Value
from trainer.result import TrialState

RATE = "learning_rate"
# Prior rise of ln loss from the middle of a range to its end. Seen on nano models: 2 to 4 % for a learning rate that is
# off by 2x, so about 10 to 15 % at the ends of a range of 25x.
PRIOR_RISE: Mapping[str, float] = {RATE: 0.12}
PRIOR_RISE_OF_OTHERS = 0.04
# The optimum's exponent in budget and size, one standard deviation: the rate is already in units that follow the model.
PRIOR_EXPONENT = 0.15
# Relative standard deviation between seeds, worth so many degrees of freedom beside what the rows tell.
PRIOR_NOISE, PRIOR_DEGREES = 0.01, 4
# A bowl fits near its bottom only: a trial counts less, the further it lies above the best one of its study.
SHAPE_ERROR = 0.5
# What is told of a trial that diverged: so far above the best one of its study, in ln loss.
DIVERGED_ABOVE = 0.3
# A range never shrinks below this share of the spec's, nor inside so many standard deviations of the optimum.
MIN_SHARE, NUM_DEVIATIONS = 0.25, 2.0
# A best trial this close to an end, as a share of the range, lies on the edge; the next range goes on beyond it.
EDGE_SHARE, BEYOND = 0.05, 0.5
# No range goes further than this, in half-widths of the spec's from its middle.
FURTHEST = 2.0
# Only these go beyond the spec's range: a share ends at 1, and the machines are chosen for the largest rank.
WITHOUT_END = (RATE, "temperature", "weight_decay")


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A study with rows."""

    study: Study
    """As planned: its space is the spec's."""
    space: Space
    """The one that was searched."""
    rows: Mapping[int, Finished]

    @property
    def best(self) -> Finished | None:
        return best_of(self.study, self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """A study whose best trial lies at an end of what was searched: the optimum may lie beyond."""

    cell: Cell
    name: str
    value: float
    side: Literal["low", "high"]
    end: float

    @property
    def words(self) -> str:
        return (
            f"{self.cell.words}: the best {self.name.replace('_', ' ')} is {self.value:g}, at the {self.side} end "
            f"({self.end:g}) of its range"
        )


def edges(pasts: Iterable[Past]) -> tuple[Edge, ...]:
    """Every hyperparameter whose best value in a study lies at an end of the range that the study searched."""
    return tuple(
        Edge(cell=past.study.cell, name=name, value=value, side=side, end=end)
        for past in pasts
        for name, value, side, end in _edges_of(past)
    )


def _edges_of(past: Past) -> list[tuple[str, float, Literal["low", "high"], float]]:
    found: list[tuple[str, float, Literal["low", "high"], float]] = []
    if past.best is None:
        return found
    for name, r in past.space.ranges.items():
        value = float(value_of(past.best.spec, name))
        share = share_of(r, value)
        if share <= EDGE_SHARE:
            found.append((name, value, "low", r.low))
        elif share >= 1 - EDGE_SHARE:
            found.append((name, value, "high", r.high))
    return found


def warmed(study: Study, history: Sequence[Past]) -> Study:
    """``study`` with a space around what ``history`` foretells, or as it is where history tells nothing.

    ``history`` holds the complete studies of its method at smaller budgets. Each range is centred and started at the
    bowl's optimum for this budget and size, and shrinks with its uncertainty. Where the nearest neighbour (next smaller
    budget, then nearest size) has found its best at an end of its range, this one goes on beyond that end.
    """
    neighbours = [past for past in history if past.best is not None]
    if not neighbours or not study.space.ranges:
        return study
    bowl = Bowl(study, history)
    nearest = min(
        neighbours,
        key=lambda past: (
            -past.study.cell.budget_flops,
            abs(math.log(past.study.num_params / study.num_params)),
            past.study.num_params,
        ),
    )
    ends = {(name, side): end for name, _, side, end in _edges_of(nearest)}
    ranges: dict[str, Any] = {}
    for name, r in study.space.ranges.items():
        centre, deviation = bowl.optimum(name)
        half = min(1.0, max(MIN_SHARE, NUM_DEVIATIONS * deviation))
        low, high = max(centre - half, -1.0), min(centre + half, 1.0)
        if centre > 1 - EDGE_SHARE:
            high = centre + half
        if centre < -1 + EDGE_SHARE:
            low = centre - half
        before = nearest.study.space.ranges[name]
        if (name, "low") in ends:
            low = min(low, _position(before, ends[name, "low"]) - BEYOND)
        if (name, "high") in ends:
            high = max(high, _position(before, ends[name, "high"]) + BEYOND)
        furthest = FURTHEST if name in WITHOUT_END else 1.0
        ranges[name] = _range(r, max(low, -furthest), min(high, furthest), centre)
    return replace(study, space=replace(study.space, **ranges))


class Bowl:
    """The fitted bowl of one method, seen from one study's budget and size, in positions of the spec's ranges."""

    def __init__(self, study: Study, pasts: Sequence[Past]) -> None:
        """``pasts`` are studies of the same method, with the study itself among them where it has rows."""
        self._study = study
        self._names = tuple(study.space.ranges)
        self.noise = noise_of(pasts)
        mean, precision = self._prior()
        rows = [row for past in pasts for row in self._rows(past)]
        design = np.array([row.features for row in rows]).reshape(len(rows), mean.size)
        log_loss, above = (np.array([getattr(row, name) for row in rows]) for name in ("log_loss", "above"))
        weight = 1 / (self.noise**2 + (SHAPE_ERROR * above) ** 2)
        # Each study has a level of its own, which drops out of differences from its weighted mean.
        member = np.array([[row.key == past.study.key for past in pasts] for row in rows], float).reshape(
            len(rows), len(pasts)
        )
        shares = member * weight[:, None] / np.maximum((member * weight[:, None]).sum(axis=0), 1e-300)
        design = design - member @ (shares.T @ design)
        log_loss = log_loss - member @ (shares.T @ log_loss)
        information = precision + design.T @ (design * weight[:, None])
        self._covariance = np.linalg.inv(information)
        self._mean = self._covariance @ (precision @ mean + design.T @ (weight * log_loss))

    def optimum(self, name: str) -> tuple[float, float]:
        """The best position of a hyperparameter for the study, and its standard deviation."""
        index = 2 * self._names.index(name)
        rise = max(float(self._mean[index]), 0.25 * _prior_rise(name))
        slope = float(self._mean[index + 1])
        gradient = np.array([slope / (2 * rise**2), -1 / (2 * rise)])
        variance = float(gradient @ self._covariance[index : index + 2, index : index + 2] @ gradient)
        return float(np.clip(-slope / (2 * rise), -FURTHEST, FURTHEST)), math.sqrt(variance)

    def gain(self, point: Mapping[str, Value]) -> float:
        """Expected ln loss of ``point`` above the optimum's, whose uncertainty counts: what more trials may gain."""
        total = 0.0
        for name in self._names:
            best, deviation = self.optimum(name)
            rise = max(float(self._mean[2 * self._names.index(name)]), 0.25 * _prior_rise(name))
            distance = _position(self._study.space.ranges[name], float(point[name])) - best
            total += rise * (distance**2 + deviation**2)
        return total

    def _prior(self) -> tuple[FloatArray, FloatArray]:
        """Mean and precision of rise and slope for each hyperparameter, then of the rate's slope in budget and size."""
        mean, deviation = [], []
        for name, r in self._study.space.ranges.items():
            rise, start = _prior_rise(name), 0.0 if r.start is None else _position(r, r.start)
            mean += [rise, -2 * rise * start]
            deviation += [rise, rise]
        if RATE in self._names:
            rate = self._study.space.ranges[RATE]
            half_width = math.log(rate.high / rate.low) / 2 if rate.log else 1.0
            mean += [0.0, 0.0]
            deviation += [2 * _prior_rise(RATE) * PRIOR_EXPONENT / half_width] * 2
        return np.array(mean), np.diag(1 / np.array(deviation) ** 2)

    def _rows(self, past: Past) -> list[_Row]:
        best = past.best
        if best is None or best.loss is None:
            return []
        told = ((row, _above(row, best.loss)) for _, row in sorted(past.rows.items()))
        return [
            _Row(
                key=past.study.key,
                features=self._features(past.study, row),
                log_loss=math.log(best.loss) + above,
                above=max(above, 0.0),
            )
            for row, above in told
            if above is not None
        ]

    def _features(self, study: Study, row: Finished) -> list[float]:
        features: list[float] = []
        for name in self._names:
            t = _position(study.space.ranges[name], float(value_of(row.spec, name)))
            features += [t * t, t]
        if RATE in self._names:
            rate = features[2 * self._names.index(RATE) + 1]
            features += [
                rate * math.log(study.cell.budget_flops / self._study.cell.budget_flops),
                rate * math.log(study.num_params / self._study.num_params),
            ]
        return features


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    key: str
    features: list[float]
    log_loss: float
    above: float
    """ln loss above the best of its study."""


def losses_like(best: Finished, rows: Mapping[int, Finished]) -> list[float]:
    """The losses of the trials that were given what ``best`` was given: itself and its repeats."""
    given = (best.spec.hyperparameters, best.spec.method)
    return [
        row.loss
        for row in rows.values()
        if row.loss is not None and (row.spec.hyperparameters, row.spec.method) == given
    ]


def noise_of(pasts: Iterable[Past]) -> float:
    """Relative standard deviation of a loss between seeds, from the studies' repeats and a prior."""
    squares, degrees = PRIOR_DEGREES * PRIOR_NOISE**2, PRIOR_DEGREES
    for past in pasts:
        if past.best is None:
            continue
        logs = [math.log(loss) for loss in losses_like(past.best, past.rows)]
        squares += sum((value - sum(logs) / len(logs)) ** 2 for value in logs)
        degrees += len(logs) - 1
    return math.sqrt(squares / degrees)


def _above(row: Finished, best: float) -> float | None:
    """ln loss above the best of the study; nothing is known of a trial that failed."""
    if row.state is TrialState.DIVERGED:
        return DIVERGED_ABOVE
    return None if row.loss is None else math.log(row.loss / best)


def _prior_rise(name: str) -> float:
    return PRIOR_RISE.get(name, PRIOR_RISE_OF_OTHERS)


def _position(r: Range, value: float) -> float:
    """-1 at the low end of a range and 1 at the high one, on its scale."""
    return 2 * share_of(r, value) - 1


def _range(r: Range, low: float, high: float, start: float) -> Range:
    """The range between two positions of ``r``, with four digits; on a linear scale never below its own lower end."""
    if not r.log:
        low = max(low, -1.0)
    ends = [four_digits(at(r, (position + 1) / 2)) for position in (low, high)]
    if r.whole:
        ends = [float(math.floor(ends[0])), float(math.ceil(ends[1]))]
    start = four_digits(at(r, (min(max(start, low), high) + 1) / 2))
    return Range(low=ends[0], high=ends[1], log=r.log, start=min(max(start, ends[0]), ends[1]), whole=r.whole)
