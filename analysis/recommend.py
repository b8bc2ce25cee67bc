"""What to train at a budget: method, model, hyperparameters, tokens, the loss to expect, and how sure that is.

Knows the frontier, the shapes of the models that exist, and what a person asks of a model. Pure. Never knows rows,
files or how it is shown.

Each method stands for the model that exists and that it has its lowest loss with, by its laws; the method is the one
whose loss is the lowest. Where no model is near an optimal size the laws alone rank the methods, and where the data
carry no law the nearest measured budget decides; the words say that.
Hyperparameters come from the best trial of the method's nearest cell (nearest budget, then nearest model): they were
tuned there, not at this budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis import wording
from analysis.cautions import cautions
from analysis.choice import Alternative, Choice, alternatives, choices, nearest, rank, trainable
from analysis.constraints import FAR_FROM_OPTIMUM, Bite, Constraints, data_bites, ladder_bites, memory_bites
from analysis.fit import Interval
from analysis.frontier import Frontier, MethodFrontier, Ranking
from analysis.hardware import Hardware
from analysis.limits import fits_under, limit_bites, load_of, nothing_fits
from analysis.profile import Point, Profile
from trainer.flops import num_tokens
from trainer.ladder import ModelShape, parameter_counts
from trainer.trial import Hyperparameters, Method


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to train at a budget. Every number that the data do not carry is ``None``, and ``cautions`` says why."""

    budget_flops: int
    label: str
    """The method's name among those that are compared."""
    method: Method
    """With the settings of the trial that the hyperparameters come from, where trials of the method differ in them."""
    model: str
    num_params: int
    """Non-embedding parameters of the model."""
    optimal_num_params: float | None
    """Where the method's size law puts the optimum, before rounding to a model that exists."""
    optimal_num_params_interval: Interval | None
    hyperparameters: Hyperparameters
    hyperparameters_from: Point
    """The trial that they come from."""
    tokens: int
    pairs: int
    steps: int
    epochs: float
    loss: float | None
    """Expected held-out loss of this model, in nats: the law's optimum plus what rounding the size costs."""
    loss_interval: Interval | None
    measured: Point | None
    """The method's best point where this very budget was measured."""
    ranking: Ranking
    """The methods at this budget, each with its best model that exists; at its own optimal size where no model is near
    one; at the nearest measured budget where there is no law."""
    measured_budgets_flops: tuple[int, int]
    """The smallest and the largest budget that the recommended method's law rests on."""
    alternatives: tuple[Alternative, ...]
    """The runner-up among the methods, then among the models; empty where the laws do not tell."""
    bites: tuple[Bite, ...]
    """The limits that it runs into."""
    hardware: Hardware | None
    """The device that was asked for."""
    cautions: tuple[str, ...]
    """What to mind, in sentences, gravest first; those of ``bites`` are among them."""

    @property
    def extrapolation(self) -> float:
        """How many times the budget lies above or below what was measured; 1 inside."""
        low, high = self.measured_budgets_flops
        return max(1.0, self.budget_flops / high, low / self.budget_flops)

    @property
    def inside(self) -> bool:
        return self.extrapolation == 1.0

    @property
    def probability_best(self) -> float:
        return self.ranking.standings[0].probability_best

    def sentences(self) -> tuple[str, ...]:
        """The answer in a few sentences: what to train, what to expect, with which settings, and what to mind."""
        spent = () if self.hardware is None else (self.hardware.sentence(self.budget_flops),)
        instead = tuple(one.sentence for one in self.alternatives)
        return (self._what(), self._expect(), self._settings(), *spent, *instead, *self.cautions)

    def _what(self) -> str:
        return (
            f"With {wording.flops(self.budget_flops)}, train {self.model} ({wording.count(self.num_params)} "
            f"non-embedding parameters) by {describe(self.method)} on {wording.count(self.tokens)} tokens: "
            f"{wording.count(self.pairs)} pairs, {wording.count(self.steps)} steps of "
            f"{self.hyperparameters.batch_size}, {_epochs(self.epochs)} of the data."
        )

    def _expect(self) -> str:
        expect, at = "No loss can be foretold", f" at {wording.flops(self.ranking.budget_flops)}"
        if self.loss is not None and self.loss_interval is not None:
            within = wording.interval(self.loss_interval, wording.loss)
            expect, at = f"Expect a held-out loss of {wording.loss(self.loss)} (90 % interval: {within})", ""
        if self.measured is not None:
            expect += f", where the best trial measured {wording.loss(self.measured.loss)} with {self.measured.model}"
        first, *others = self.ranking.standings
        if not others:
            return f"{expect}; no other method was measured."
        sure = wording.share(first.probability_best)
        return (
            f"{expect}; {first.method} is the best method{at} with probability {sure}, "
            f"and the runner-up is {others[0].method} at {wording.loss(others[0].loss)}."
        )

    def _settings(self) -> str:
        ours, source = self.hyperparameters, self.hyperparameters_from
        trials = "the only trial" if source.num_trials == 1 else f"the best of {source.num_trials} trials"
        scaled = ""
        if ours.learning_rate != source.spec.hyperparameters.learning_rate:
            scaled = ", the learning rate in proportion to the models' pre-training rates"
        # The name alone tells the settings of a method whose studies do not search them.
        searched = "" if self.label == self.method.label else "Settings of the method, "
        rate = "learning rate" if searched else "Learning rate"
        return (
            f"{searched}{rate} {ours.learning_rate:.2g}, temperature {ours.temperature:.2g}, weight decay "
            f"{ours.weight_decay:.2g}: from {trials} of {source.model} at "
            f"{wording.flops(source.spec.budget_flops)}{scaled}."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an open end of an interval is ``null``."""
        return {
            "budget_flops": self.budget_flops,
            "method": self.label,
            "method_settings": {"kind": self.method.kind, **asdict(self.method)},
            "model": self.model,
            "num_params_non_embedding": self.num_params,
            "optimal_num_params": self.optimal_num_params,
            "optimal_num_params_interval": _to_list(self.optimal_num_params_interval),
            "hyperparameters": asdict(self.hyperparameters),
            "hyperparameters_from": self.hyperparameters_from.trial_id,
            "tokens": self.tokens,
            "pairs": self.pairs,
            "steps": self.steps,
            "epochs": self.epochs,
            "loss": self.loss,
            "loss_interval": _to_list(self.loss_interval),
            "measured_trial_id": None if self.measured is None else self.measured.trial_id,
            "ranking": self.ranking.to_dict(),
            "measured_budgets_flops": list(self.measured_budgets_flops),
            "inside": self.inside,
            "extrapolation": self.extrapolation,
            "alternatives": [one.to_dict() for one in self.alternatives],
            "bites": [bite.to_dict() for bite in self.bites],
            "hardware": None if self.hardware is None else self.hardware.to_dict(self.budget_flops),
            "cautions": list(self.cautions),
            "sentences": list(self.sentences()),
        }


def recommend(
    frontier: Frontier,
    budget_flops: int,
    shapes: Sequence[ModelShape],
    tokens_per_pair: float,
    constraints: Constraints | None = None,
) -> Recommendation:
    """What to train with ``budget_flops`` booked FLOPs, among the models of ``shapes`` that keep the ``constraints``.

    ``tokens_per_pair`` is the mean real tokens of a pair. Raises ``ValueError`` where nothing is complete yet, for a
    budget that is not positive, and where the constraints leave no model.
    """
    if budget_flops <= 0:
        raise ValueError(f"budget is {budget_flops} FLOPs: give a number above 0")
    if not frontier.rankings:
        raise ValueError("trials: none is complete, so nothing can be recommended; let the sweep finish some first")
    constraints = constraints or Constraints()
    allowed = constraints.allowed(shapes)
    fits = fits_under(constraints, tokens_per_pair)
    found = choices(frontier, budget_flops, allowed, fits)
    ranking = rank(budget_flops, found) if found else _ranking_without_models(frontier, budget_flops)
    method = frontier.method(ranking.standings[0].method)
    profile = min(method.profiles, key=lambda profile: _distance(profile.budget_flops, budget_flops))
    here = profile if profile.budget_flops == budget_flops else None
    size, size_interval = _optimal_size(method, here, budget_flops)
    wanted = size or profile.best.num_params
    shapes_that_fit = [one for one in trainable(allowed, method.method) if fits(method, one)]
    if not shapes_that_fit:
        raise ValueError(nothing_fits(constraints, method))
    shape = found[0].shape if found else nearest(shapes_that_fit, wanted)
    loss, loss_interval = _expected_loss(found, here, ranking, _distance(shape.num_params_non_embedding, wanted))
    point = min(profile.points, key=lambda point: _distance(point.num_params, shape.num_params_non_embedding))
    trained = point.spec.method
    tokens = num_tokens(budget_flops, parameter_counts(shape, trained), trained)
    pairs = int(tokens / tokens_per_pair)
    measured = (profile.budget_flops,) if method.loss_law is None else method.loss_law.budgets_flops
    draft = Recommendation(
        budget_flops=budget_flops,
        label=method.label,
        method=trained,
        model=shape.name,
        num_params=shape.num_params_non_embedding,
        optimal_num_params=size,
        optimal_num_params_interval=size_interval,
        hyperparameters=_hyperparameters(point, shape, shapes),
        hyperparameters_from=point,
        tokens=tokens,
        pairs=pairs,
        steps=math.ceil(pairs / point.spec.hyperparameters.batch_size),
        epochs=pairs * point.epochs / point.pairs,
        loss=loss,
        loss_interval=loss_interval,
        measured=here.best if here else None,
        ranking=ranking,
        measured_budgets_flops=(min(measured), max(measured)),
        alternatives=alternatives(budget_flops, found, shapes_that_fit) if found else (),
        bites=(),
        hardware=constraints.hardware,
        cautions=(),
    )
    return _minded(draft, frontier, method, profile, found, shape, shapes, constraints, tokens_per_pair)


def _minded(
    draft: Recommendation,
    frontier: Frontier,
    method: MethodFrontier,
    profile: Profile,
    found: Sequence[Choice],
    shape: ModelShape,
    shapes: Sequence[ModelShape],
    constraints: Constraints,
    tokens_per_pair: float,
) -> Recommendation:
    """The draft with the limits that it runs into and what to mind."""
    bites = (
        *limit_bites(frontier, draft, shapes, constraints, tokens_per_pair),
        *ladder_bites(shape, draft.optimal_num_params, constraints.allowed(shapes)),
        *data_bites(draft.epochs, max(point.epochs for one in method.profiles for point in one.points)),
        *memory_bites(load_of(replace(method, method=draft.method), shape, tokens_per_pair), constraints),
    )
    return replace(draft, bites=bites, cautions=cautions(draft, frontier, method, profile, found, bites))


def _epochs(epochs: float) -> str:
    said = wording.times(epochs)
    return f"{said} {'epoch' if said == '1' else 'epochs'}"


def describe(method: Method) -> str:
    """The method in words."""
    words = {"full": "full fine-tuning", "bias": "bias-only tuning"}
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(method).items())
    named = {"freeze": "block freezing", "lora": "LoRA"}.get(method.kind, method.kind)
    return words.get(method.kind) or f"{named} ({settings})"


def _distance(a: float, b: float) -> float:
    """Between two positive numbers, in log."""
    return abs(math.log(a / b))


def _optimal_size(
    method: MethodFrontier, here: Profile | None, budget_flops: int
) -> tuple[float | None, Interval | None]:
    """The optimal size by the law, or as measured at this very budget, or not at all."""
    if method.size_law is not None:
        return method.size_law.at(budget_flops), method.size_law.interval_at(budget_flops)
    if here is not None and here.optimum is not None:
        return here.optimum.num_params, here.optimum.num_params_interval
    return None, None


def _ranking_without_models(frontier: Frontier, budget_flops: int) -> Ranking:
    by_laws = frontier.ranking_by_laws(budget_flops)
    if by_laws.standings:
        return by_laws
    return min(frontier.rankings, key=lambda measured: _distance(measured.budget_flops, budget_flops))


def _expected_loss(
    found: Sequence[Choice], here: Profile | None, ranking: Ranking, off: float
) -> tuple[float | None, Interval | None]:
    """The first standing's loss, where it is that of a model: by the laws, or measured at this very budget.

    ``off`` is the distance of the model from the optimum, in log: without a law it must be next to it.
    """
    first = ranking.standings[0]
    if found or (here is not None and ranking.budget_flops == here.budget_flops and _is_next(off, first.is_optimum)):
        return first.loss, first.loss_interval
    return None, None


def _is_next(off: float, is_optimum: bool) -> bool:
    return off <= math.log(FAR_FROM_OPTIMUM) if is_optimum else off == 0


def _hyperparameters(point: Point, shape: ModelShape, shapes: Sequence[ModelShape]) -> Hyperparameters:
    """The point's settings; its learning rate moves with the pre-training rate where both models' rates are known."""
    ours = point.spec.hyperparameters
    source = next((known for known in shapes if known.name == point.model), None)
    if source is None or not (source.pretraining_learning_rate and shape.pretraining_learning_rate):
        return ours
    ratio = shape.pretraining_learning_rate / source.pretraining_learning_rate
    return replace(ours, learning_rate=ours.learning_rate * ratio)


def _to_list(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else interval.to_list()
