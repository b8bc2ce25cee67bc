"""The frontier: optima over budgets, the laws through them, and the best method at each budget.

Knows rows of a store and how profiles are built. Never knows which model a person should train (``recommend.py``),
figures or files.

Uncertainty is a parametric bootstrap. Each draw takes a noise level from what is known about it (``noise.py``), moves
every cell's loss by it, finds each profile's minimum, window and edge again, and ranks the methods again; intervals are
the middle 90 % of the draws. The laws of a method with two or more minima come from one fit to all of its profiles
(``valley.py``), whose draws add the noise to the fit; where that is not to be had, from the minima one by one, and then
draws that scatter by more than their own errors say widen the law (Birge 1932). Points are not resampled: a profile has
three to five near its minimum, too few for that. Limits: with two budgets nothing checks a law; the straight line in
log-log bends where the loss nears its floor or data repeat, and no interval knows of it; the lowest of several noisy
cells is too low, in a profile's own minimum and again in every draw of it, so the intervals of a measured budget's loss
lean low; the known bias of parabolas on wide or off-centre grids (docs/fits.md) is not corrected.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.crossover import Crossover, find_crossover
from analysis.fit import FloatArray, Interval, percentile_interval
from analysis.law import Law, fit_law
from analysis.noise import Noise, Residuals, estimate_noise
from analysis.notes import Built, is_held, law_notes, profile_notes, sweep_notes
from analysis.profile import (
    Point,
    Profile,
    ProfileDraws,
    ProfileState,
    build_profile,
    cells,
    complete_trials,
    minimum,
    relative_residuals,
    tokens_at,
)
from analysis.valley import Valley, ValleyLaws, fit_valley, valley_laws
from trainer.trial import METHODS, Method


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodFrontier:
    """One method over the budgets. A law is ``None`` where the data do not carry one; ``notes`` says why."""

    label: str
    """Its name among the methods, as the rows have it."""
    method: Method
    """Where trials of one method differ in its settings, such as LoRA's rank: those of the best at the largest budget.
    """
    profiles: tuple[Profile, ...]
    """By budget."""
    noise: Noise
    size_law: Law | None
    """Optimal non-embedding parameters, ``N*(C)``, through the optima alone."""
    tokens_law: Law | None
    """Optimal tokens, ``D*(C)``, through the same budgets."""
    loss_law: Law | None
    """Loss of the optimum. A budget with its minimum at an edge takes part with its lowest measured loss: an upper
    bound of what the method reaches there, and better than forgetting the budget."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A method's place at a budget."""

    method: str
    loss: float
    loss_interval: Interval
    probability_best: float
    """Share of the draws in which no other method of the ranking has a lower loss."""
    is_optimum: bool
    """False where the loss is only the lowest measured one, with no optimum in the grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """The methods at a budget, best first."""

    budget_flops: int
    standings: tuple[Standing, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "budget_flops": self.budget_flops,
            "methods": [
                {
                    "method": standing.method,
                    "loss": standing.loss,
                    "loss_interval": standing.loss_interval.to_list(),
                    "probability_best": standing.probability_best,
                    "is_optimum": standing.is_optimum,
                }
                for standing in self.standings
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """What a sweep says: per method the profiles and laws, per measured budget the ranking of methods."""

    methods: tuple[MethodFrontier, ...]
    rankings: tuple[Ranking, ...]
    """By budget, from what was measured there."""
    crossovers: tuple[Crossover, ...]
    """Of every two methods that have a law of the loss."""
    num_rows: int
    num_complete: int
    notes: tuple[str, ...]
    """What cannot be said and why, in sentences; every method's notes are among them."""

    @property
    def budgets_flops(self) -> tuple[int, ...]:
        return tuple(ranking.budget_flops for ranking in self.rankings)

    def method(self, label: str) -> MethodFrontier:
        return next(method for method in self.methods if method.label == label)

    def ranking_by_laws(self, budget_flops: int) -> Ranking:
        """The methods that have a loss law, ranked by it at any budget."""
        laws = {method.label: method.loss_law for method in self.methods if method.loss_law is not None}
        losses = {label: law.at(budget_flops) for label, law in laws.items()}
        draws = {label: law.draws_at(budget_flops) for label, law in laws.items()}
        return _ranking(budget_flops, losses, draws, dict.fromkeys(laws, True))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, for JSON."""
        return {
            "num_rows": self.num_rows,
            "num_complete": self.num_complete,
            "methods": [_method_to_dict(method) for method in self.methods],
            "rankings": [ranking.to_dict() for ranking in self.rankings],
            "crossovers": [crossover.to_dict() for crossover in self.crossovers],
            "notes": list(self.notes),
        }


def fit_frontier(rows: pd.DataFrame, *, num_draws: int = 1000, seed: int = 0) -> Frontier:
    """The frontier of a sweep from its rows (columns as in the store). Deterministic for a given ``seed``.

    A sweep with too little in it is no error: what cannot be fitted is ``None`` and ``notes`` says so in words.
    """
    trials, dropped = complete_trials(rows)
    points = cells(trials)
    rng = np.random.default_rng(seed)
    methods, built = [], {}
    for label in _labels(points):
        own = {budget: cell for (method, budget), cell in sorted(points.items()) if method == label}
        profiles, noise, laws = _fit_method(own, trials[trials["method"] == label], rng, num_draws)
        methods.append(_method_frontier(label, list(profiles.values()), noise, laws))
        built.update({(label, budget): both for budget, both in profiles.items()})
    budgets = sorted({budget for _, budget in built})
    rankings = tuple(_measured_ranking(budget, built) for budget in budgets)
    measured = {ranking.budget_flops: {standing.method for standing in ranking.standings} for ranking in rankings}
    has_law = {method.label: method.loss_law is not None for method in methods}
    notes = (*dropped, *sweep_notes(measured, has_law), *(note for method in methods for note in method.notes))
    return Frontier(
        methods=tuple(methods),
        rankings=rankings,
        crossovers=_crossovers(methods),
        num_rows=rows["trial_id"].nunique(),
        num_complete=len(trials),
        notes=notes,
    )


def _crossovers(methods: Sequence[MethodFrontier]) -> tuple[Crossover, ...]:
    """Of every two methods with a loss law, within the budgets that both laws rest on."""
    found = []
    for first, second in itertools.combinations(methods, 2):
        if first.loss_law is None or second.loss_law is None:
            continue
        budgets = (*first.loss_law.budgets_flops, *second.loss_law.budgets_flops)
        losses = (first.loss_law.log_over, second.loss_law.log_over)
        found.append(find_crossover((first.label, second.label), losses, (min(budgets), max(budgets))))
    return tuple(found)


def _labels(points: Mapping[tuple[str, int], tuple[Point, ...]]) -> list[str]:
    """The methods' labels in the order of ``METHODS``."""
    methods = {label: cell[0].spec.method for (label, _), cell in points.items()}
    return sorted(methods, key=lambda label: (list(METHODS).index(methods[label].kind), label))


def _fit_method(
    own: Mapping[int, tuple[Point, ...]], trials: pd.DataFrame, rng: np.random.Generator, num_draws: int
) -> tuple[dict[int, Built], Noise, ValleyLaws | None]:
    """A method's profiles by budget, its noise, and the laws of its valley where there is one."""
    num_seeds = {budget: np.array([float(point.num_seeds) for point in cell]) for budget, cell in own.items()}
    valley = _valley(own, num_seeds)
    noise = estimate_noise(trials, map(relative_residuals, own.values()) if valley is None else [_residuals(valley)])
    # Where luck does not average out, repeated cells weigh less than their seeds say.
    if valley is not None and len({float(number) for numbers in num_seeds.values() for number in numbers}) > 1:
        valley = _valley(own, {budget: 1 / noise.variance(numbers) for budget, numbers in num_seeds.items()})
    ends = np.cumsum([0, *map(len, own.values())])
    drawn = noise.draws(rng, np.concatenate(list(num_seeds.values())), num_draws)
    moves = {budget: drawn[:, ends[place] : ends[place + 1]] for place, budget in enumerate(own)}
    laws, own_losses = None, {}
    if valley is not None:
        inside = np.concatenate([moves[budget] for budget in valley.offered_flops], axis=1)
        thetas, still = valley.draws(inside), np.zeros((1, inside.shape[1]))
        laws = valley_laws(valley, thetas)
        for budget in valley.budgets_flops:
            [loss] = valley.own_loss(budget, valley.theta[None], still)
            own_losses[budget] = float(loss), valley.own_loss(budget, thetas, inside)
    profiles = {budget: build_profile(cell, moves[budget], own_losses.get(budget)) for budget, cell in own.items()}
    return profiles, noise, laws


def _residuals(valley: Valley) -> Residuals:
    """Of a valley whose weights are numbers of seeds."""
    return Residuals(
        values=valley.residuals * np.sqrt(valley.weights),
        degrees=valley.degrees,
        num_seeds=float(valley.weights.mean()),
    )


def _valley(own: Mapping[int, tuple[Point, ...]], weights: Mapping[int, FloatArray]) -> Valley | None:
    """The valley through a method's profiles, where two budgets or more have a minimum inside their sizes."""
    minima = {budget: minimum(points) for budget, points in own.items()}
    inside = {budget: place for budget, place in minima.items() if math.isfinite(place)}
    if len(inside) < 2:
        return None
    slope, level = np.polyfit([math.log(budget) for budget in inside], list(inside.values()), 1)
    points = [(budget, point) for budget, cell in own.items() if budget in inside for point in cell]
    return fit_valley(
        np.log10([float(point.num_params) for _, point in points]),
        np.array([float(budget) for budget, _ in points]),
        np.array([point.loss for _, point in points]),
        np.concatenate([weights[budget] for budget in own if budget in inside]),
        (float(level), float(slope)),
    )


def _method_frontier(label: str, built: Sequence[Built], noise: Noise, laws: ValleyLaws | None) -> MethodFrontier:
    profiles = tuple(profile for profile, _ in built)
    # An optimum that most draws lose over the edge would put a law through a coin toss.
    held = [both for both in built if is_held(*both)]
    seen = [both for both in built if both[0].state != ProfileState.FEW]
    upper_bounds = [profile for profile, draws in seen if not is_held(profile, draws)]
    size_law = _law(held, lambda p: p.optimum.num_params if p.optimum else math.nan, lambda d: d.num_params)
    tokens_law = _law(held, lambda p: p.optimum.tokens if p.optimum else math.nan, lambda d: d.tokens)
    loss_law = _law(seen, lambda p: p.loss, lambda d: d.loss)
    if laws is not None and size_law is not None:
        size_law, tokens_law = laws.size, _tokens_law(laws.size, profiles)
        if set(laws.loss.budgets_flops) == {profile.budget_flops for profile, _ in seen}:
            loss_law, upper_bounds = laws.loss, []
    return MethodFrontier(
        label=label,
        method=profiles[-1].best.spec.method,
        profiles=profiles,
        noise=noise,
        size_law=size_law,
        tokens_law=tokens_law,
        loss_law=loss_law,
        notes=(
            *profile_notes(label, built),
            *(law_notes(label, len(held), upper_bounds) if len(seen) > 1 else ()),
        ),
    )


def _law(
    built: Sequence[Built], value: Callable[[Profile], float], draws: Callable[[ProfileDraws], FloatArray]
) -> Law | None:
    if len(built) < 2:
        return None
    budgets = tuple(profile.budget_flops for profile, _ in built)
    values = np.array([value(profile) for profile, _ in built])
    return fit_law(budgets, values, np.stack([draws(one) for _, one in built], axis=1))


def _tokens_law(size: Law, profiles: Sequence[Profile]) -> Law:
    """What the budgets of the law of size pay for at its sizes."""
    points = {profile.budget_flops: profile.points for profile in profiles}
    values = [tokens_at(points[budget], np.log10([size.at(budget)]))[0] for budget in size.budgets_flops]
    with np.errstate(divide="ignore"):  # a draw with a wild exponent may have no size at all
        draws = [tokens_at(points[budget], np.log10(size.draws_at(budget))) for budget in size.budgets_flops]
    return fit_law(size.budgets_flops, np.array(values), np.stack(draws, axis=1), np.ones(len(values)))


def _measured_ranking(budget_flops: int, built: Mapping[tuple[str, int], Built]) -> Ranking:
    here = {label: both for (label, budget), both in built.items() if budget == budget_flops}
    return _ranking(
        budget_flops,
        {label: profile.loss for label, (profile, _) in here.items()},
        {label: draws.loss for label, (_, draws) in here.items()},
        {label: profile.optimum is not None for label, (profile, _) in here.items()},
    )


def _ranking(
    budget_flops: int, losses: Mapping[str, float], draws: Mapping[str, FloatArray], is_optimum: Mapping[str, bool]
) -> Ranking:
    if not losses:
        return Ranking(budget_flops=budget_flops, standings=())
    winners = np.stack([draws[label] for label in losses]).argmin(axis=0)
    standings = [
        Standing(
            method=label,
            loss=losses[label],
            loss_interval=percentile_interval(draws[label]),
            probability_best=float((winners == place).mean()),
            is_optimum=is_optimum[label],
        )
        for place, label in enumerate(losses)
    ]
    return Ranking(budget_flops=budget_flops, standings=tuple(sorted(standings, key=lambda s: s.loss)))


def _method_to_dict(method: MethodFrontier) -> dict[str, Any]:
    laws = {"num_params": method.size_law, "tokens": method.tokens_law, "loss": method.loss_law}
    return {
        "method": method.label,
        "noise_relative_sd": method.noise.relative_sd,
        "laws": {name: law.to_dict() if law else None for name, law in laws.items()},
        "profiles": [_profile_to_dict(profile) for profile in method.profiles],
    }


def _profile_to_dict(profile: Profile) -> dict[str, Any]:
    optimum = profile.optimum
    return {
        "budget_flops": profile.budget_flops,
        "state": profile.state.value,
        "best_model": profile.best.model,
        "best_loss": profile.best.loss,
        "best_trial_id": profile.best.trial_id,
        "optimum": None
        if optimum is None
        else {
            "num_params": optimum.num_params,
            "num_params_interval": optimum.num_params_interval.to_list(),
            "tokens": optimum.tokens,
            "tokens_interval": optimum.tokens_interval.to_list(),
            "loss": optimum.loss,
            "loss_interval": optimum.loss_interval.to_list(),
            "models": list(optimum.models),
        },
    }
