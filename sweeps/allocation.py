"""Adaptive allocation: which cells of a budget are run, from the outcomes of smaller budgets, each with its reason.

Knows the candidate studies of a budget, the least losses that were measured so far, and two laws with priors: the
optimal size and the least loss of each method over the budgets. Pure: the same outcomes give the same decisions,
whenever they are asked for. Never knows hyperparameters, Optuna or a file.

Both laws are straight lines in log-log, with a curvature that is probably small; the methods share a line and each has
a deviation from it. They are fitted as one Gaussian posterior, so that two budgets already say something, and how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.fit import FloatArray, locate_minima
from sweeps.plan import Cell, Study
from sweeps.warm import Past, losses_like

# Standard deviations of level, exponent and curvature (in ln FLOPs): of what the methods share, and of each one's own.
SIZE_MEAN, SIZE_SHARED, SIZE_OWN = (0.0, 0.5, 0.0), (30.0, 0.15, 0.01), (0.7, 0.07, 0.005)
LOSS_MEAN, LOSS_SHARED, LOSS_OWN = (0.0, -0.05, 0.0), (10.0, 0.05, 0.004), (0.3, 0.02, 0.002)
# What the search of a cell and the shape of a profile leave open beside the seeds, in ln loss.
SEARCH_ERROR = 0.005
# Of an optimum at the edge of the ladder, and of a vertex at best, in steps of the ladder.
EDGE_DEVIATION, VERTEX_DEVIATION = 1.5, 0.15
NUM_DRAWS, SEED = 4000, 20260
NEEDED = 3
"""Models that a profile needs for a minimum inside."""

Verdict = Literal["run", "check", "leave"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A study that is done."""

    cell: Cell
    num_params: int
    loss: float | None
    """The least one, a mean where it was repeated; absent where no trial is complete."""

    @property
    def method(self) -> str:
        return self.cell.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided of a cell, and why, in words for a person."""

    cell: Cell
    verdict: Verdict
    """``check``: the one cell that is run of a method which has been dropped."""
    reason: str

    @property
    def sentence(self) -> str:
        words = {"run": "run", "check": "run as a check", "leave": "not run"}
        return f"{self.cell.words}: {words[self.verdict]}, {self.reason}."


def outcome_of(past: Past) -> Outcome:
    """What a study that is done has come to."""
    losses: list[float] = []
    if past.best is not None:
        losses = losses_like(past.best, past.rows)
    return Outcome(
        cell=past.study.cell,
        num_params=past.study.num_params,
        loss=sum(losses) / len(losses) if losses else None,
    )


def decide(
    candidates: Sequence[Study],
    past: Sequence[Outcome],
    here: Sequence[Outcome],
    coming: Sequence[int],
    *,
    drop_below: float,
    noise: float,
) -> tuple[Decision, ...]:
    """The cells of one budget that are run, given the outcomes of the smaller budgets (``past``) and of this one.

    ``candidates`` are all studies of the budget, ``coming`` this budget and the larger ones of the sweep. Asked again
    as cells of the budget are done, the answer only grows: a method's next cells follow from all of its earlier ones.
    Cells that are not among the decisions are not needed as far as is known.
    """
    budget = coming[0]
    chances = method_chances(past, sorted({study.cell.label for study in candidates}), coming, noise)
    found: list[Decision] = []
    finished = True
    dropped: dict[str, Cell] = {}
    ladders: dict[str, list[Study]] = {}
    for study in sorted(candidates, key=lambda study: (study.num_params, study.key)):
        ladders.setdefault(study.cell.label, []).append(study)
    for method, ladder in sorted(ladders.items()):
        if chances[method] < drop_below:
            centre, _ = _predicted(ladder, past, budget, noise)
            dropped[method] = ladder[centre].cell
            why = f"{method} is best at a coming budget with a probability of {chances[method]:.3f} only: one check"
            found.append(Decision(cell=ladder[centre].cell, verdict="check", reason=why))
            finished &= ladder[centre].cell in {outcome.cell for outcome in here}
        else:
            decisions, done = _bracket(ladder, past, here, budget, noise)
            found += decisions
            finished &= done
    if finished:
        for method, checked in dropped.items():
            found += _returned(ladders[method], checked, past, here, budget, noise)
    return tuple(found)


def _bracket(
    ladder: Sequence[Study], past: Sequence[Outcome], here: Sequence[Outcome], budget: int, noise: float
) -> tuple[list[Decision], bool]:
    """Cells around the expected optimum, and on from there while the best one is the last: (decisions, all done)."""
    centre, why = _predicted(ladder, past, budget, noise)
    first = min(max(centre - NEEDED // 2, 0), max(len(ladder) - NEEDED, 0))
    chosen = dict.fromkeys(range(first, min(first + NEEDED, len(ladder))), why)
    losses = {outcome.cell: outcome.loss for outcome in here}
    while all(ladder[index].cell in losses for index in chosen):
        known = {index: math.inf if (loss := losses[ladder[index].cell]) is None else loss for index in chosen}
        best = min(known, key=lambda index: (known[index], index))
        beyond = [i for i in (best - 1, best + 1) if 0 <= i < len(ladder) and i not in chosen]
        if not beyond:
            return _decisions(ladder, chosen), True
        for index in beyond:
            chosen[index] = f"the best of its neighbours, {ladder[best].cell.model}, was the last that was run"
    return _decisions(ladder, chosen), False


def _decisions(ladder: Sequence[Study], chosen: Mapping[int, str]) -> list[Decision]:
    return [Decision(cell=ladder[i].cell, verdict="run", reason=why) for i, why in sorted(chosen.items())]


def _returned(
    ladder: Sequence[Study], checked: Cell, past: Sequence[Outcome], here: Sequence[Outcome], budget: int, noise: float
) -> list[Decision]:
    """The neighbours of a dropped method's check cell, where that one is as good as the best cell of the others."""
    method = checked.label
    own = [o.loss for o in here if o.method == method and o.loss is not None]
    others = [o.loss for o in here if o.method != method and o.loss is not None]
    if not own or (others and min(own) > min(others) * (1 + noise)):
        return []
    decisions, _ = _bracket(ladder, past, here, budget, noise)
    why = f"the check of {method} was as good as the best of the other methods"
    return [Decision(cell=d.cell, verdict="run", reason=why) for d in decisions if d.cell != checked]


def _predicted(ladder: Sequence[Study], past: Sequence[Outcome], budget: int, noise: float) -> tuple[int, str]:
    """The rung of the ladder that is nearest to the expected optimum, and why it and its neighbours are run."""
    method = ladder[0].cell.label
    seen = _optima(past, noise)
    if not seen:
        return len(ladder) // 2, "nothing is known yet: the middle of the ladder and its neighbours"
    law = _Law(seen, [method], SIZE_MEAN, SIZE_SHARED, SIZE_OWN)
    mean, covariance = law.at([(method, budget)])
    deviation = math.sqrt(covariance[0, 0])
    rung = min(range(len(ladder)), key=lambda i: (abs(math.log(ladder[i].num_params) - mean[0]), i))
    size, factor = math.exp(min(mean[0], 80.0)), math.exp(min(deviation, 20.0))
    return rung, f"around the expected optimum of {size:.2g} parameters (within a factor of {factor:.2g})"


def method_chances(
    past: Sequence[Outcome], methods: Sequence[str], coming: Sequence[int], noise: float
) -> dict[str, float]:
    """For each method the largest probability, over the coming budgets, that its least loss is the least of all."""
    methods = list(dict.fromkeys(methods))
    deviation = math.hypot(noise, SEARCH_ERROR)
    least: dict[tuple[str, int], float] = {}
    for outcome in past:
        if outcome.loss is not None:
            key = outcome.method, outcome.cell.budget_flops
            least[key] = min(least.get(key, math.inf), outcome.loss)
    if not least:
        return dict.fromkeys(methods, 1.0)
    seen = [(method, budget, math.log(loss), deviation) for (method, budget), loss in sorted(least.items())]
    law = _Law(seen, methods, LOSS_MEAN, LOSS_SHARED, LOSS_OWN)
    normal = np.random.default_rng(SEED).standard_normal((NUM_DRAWS, len(methods)))
    chances = np.zeros(len(methods))
    for budget in coming:
        mean, covariance = law.at([(method, budget) for method in methods])
        draws = mean + normal @ np.linalg.cholesky(covariance + 1e-12 * np.eye(len(methods))).T
        chances = np.maximum(chances, np.bincount(draws.argmin(axis=1), minlength=len(methods)) / NUM_DRAWS)
    return dict(zip(methods, chances.tolist(), strict=True))


def _optima(past: Sequence[Outcome], noise: float) -> list[tuple[str, int, float, float]]:
    """(method, budget, ln of the optimal size, its standard deviation) of each profile with two models or more."""
    profiles: dict[tuple[str, int], dict[int, float]] = {}
    for outcome in past:
        if outcome.loss is not None:
            profile = profiles.setdefault((outcome.method, outcome.cell.budget_flops), {})
            profile[outcome.num_params] = min(profile.get(outcome.num_params, math.inf), outcome.loss)
    found = []
    for (method, budget), profile in sorted(profiles.items()):
        if len(profile) < 2:
            continue
        log_size = np.log(np.array(sorted(profile), dtype=np.float64))
        loss = np.array([profile[size] for size in sorted(profile)])
        found.append((method, budget, *_optimum(log_size, loss, noise)))
    return found


def _optimum(log_size: FloatArray, loss: FloatArray, noise: float) -> tuple[float, float]:
    """ln of the optimal size of one profile, and its standard deviation."""
    step = float(np.ptp(log_size)) / (log_size.size - 1)
    lowest = int(loss.argmin())
    if 0 < lowest < log_size.size - 1:
        minima = locate_minima(log_size / math.log(10), loss[None, :])
        if math.isfinite(minima.x[0]):
            # Of three points in steps of h, the vertex moves by noise / (2 sqrt 2 curvature h).
            curvature = float(minima.curvature[0]) / math.log(10) ** 2 / float(loss[lowest])
            error = noise / (2 * math.sqrt(2) * curvature * step)
            vertex = float(minima.x[0]) * math.log(10)
            return vertex, min(max(error, VERTEX_DEVIATION * step), EDGE_DEVIATION * step)
    return float(log_size[lowest]), EDGE_DEVIATION * step


class _Law:
    """Level, exponent and curvature over ln budget: a shared part and each method's own, as a Gaussian posterior."""

    def __init__(
        self,
        seen: Sequence[tuple[str, int, float, float]],
        methods: Sequence[str],
        mean: tuple[float, float, float],
        shared: tuple[float, float, float],
        own: tuple[float, float, float],
    ) -> None:
        """``seen``: (method, budget, value, standard deviation). ``methods`` may name some that were not seen."""
        self._methods = list(dict.fromkeys([*methods, *(method for method, *_ in seen)]))
        self._pivot = max(budget for _, budget, *_ in seen)
        prior = np.concatenate([mean, np.zeros(3 * len(self._methods))])
        precision = np.diag(1 / np.array([*shared, *own * len(self._methods)]) ** 2)
        design = np.array([self._features(method, budget) for method, budget, *_ in seen])
        value = np.array([value for _, _, value, _ in seen])
        weight = 1 / np.array([deviation for *_, deviation in seen]) ** 2
        self._covariance = np.linalg.inv(precision + design.T @ (design * weight[:, None]))
        self._mean = self._covariance @ (precision @ prior + design.T @ (weight * value))

    def at(self, points: Sequence[tuple[str, int]]) -> tuple[FloatArray, FloatArray]:
        """Mean (n,) and covariance (n, n) of the law at (method, budget) points."""
        design = np.array([self._features(method, budget) for method, budget in points])
        return design @ self._mean, design @ self._covariance @ design.T

    def _features(self, method: str, budget: int) -> list[float]:
        x = math.log(budget / self._pivot)
        line = [1.0, x, x * x]
        features = line + [0.0] * (3 * len(self._methods))
        start = 3 + 3 * self._methods.index(method)
        features[start : start + 3] = line
        return features
