"""Which method and which model at a budget, and what another choice would cost.

Knows the frontier and the shapes of models that exist. Never knows hyperparameters, data or how anything is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import wording
from analysis.expect import loss_draws, loss_over
from analysis.fit import FloatArray, Interval, percentile_interval
from analysis.frontier import Frontier, MethodFrontier, Ranking, Standing
from trainer.ladder import ModelShape, parameter_counts
from trainer.trial import Method

MAX_FACTOR = 100.0
Fits = Callable[[MethodFrontier, ModelShape], bool]
"""Whether a model may be trained by a method."""
_FACTORS = np.geomspace(1.0, MAX_FACTOR, 2001)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A method's best model at a budget, and the loss to expect of it."""

    method: MethodFrontier
    shape: ModelShape
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """What choosing another method or model would cost."""

    method: str
    model: str
    loss: float
    more_loss: float
    more_loss_interval: Interval
    more_flops: float | None
    """Times the budget to reach the recommended loss; ``None`` where no budget up to 100 times does, as far as the
    laws can tell."""

    @property
    def sentence(self) -> str:
        within = wording.interval(self.more_loss_interval, lambda value: f"{value:+.3f}")
        low, high = self.more_loss_interval.low, self.more_loss_interval.high
        within = f"{low:+.3f} to {high:+.3f}" if math.isfinite(low) and math.isfinite(high) else within
        reach = (
            f"the recommended loss would take it {wording.times(self.more_flops)} times the budget"
            if self.more_flops is not None
            else f"no budget up to {MAX_FACTOR:g} times this one is known to bring it to the recommended loss"
        )
        return (
            f"{self.model} by {self.method} instead: loss {wording.loss(self.loss)}, {self.more_loss:+.3f} "
            f"(90 % interval: {within}); {reach}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "model": self.model,
            "loss": self.loss,
            "more_loss": self.more_loss,
            "more_loss_interval": self.more_loss_interval.to_list(),
            "more_flops": self.more_flops,
        }


def trainable(shapes: Sequence[ModelShape], method: Method) -> list[ModelShape]:
    """The shapes in which the method has something to train."""
    kept = []
    for shape in shapes:
        try:
            parameter_counts(shape, method)
        except ValueError:
            continue
        kept.append(shape)
    return kept


def nearest(shapes: Sequence[ModelShape], num_params: float) -> ModelShape:
    """The shape whose size is the nearest, in log."""
    return min(shapes, key=lambda shape: abs(math.log(shape.num_params_non_embedding / num_params)))


def choices(
    frontier: Frontier, budget_flops: float, shapes: Sequence[ModelShape], fits: Fits = lambda method, shape: True
) -> list[Choice]:
    """Each method with the best at the budget of the models that ``fits`` it, best first; without methods that have no
    such model near their optimal size."""
    found = []
    for method in frontier.methods:
        losses = {
            shape.name: (float(loss_over(method, np.array([budget_flops]), shape.num_params_non_embedding)[0]), shape)
            for shape in trainable(shapes, method.method)
            if fits(method, shape)
        }
        known = [(loss, shape) for loss, shape in losses.values() if math.isfinite(loss)]
        if known:
            loss, shape = min(known, key=lambda pair: pair[0])
            found.append(Choice(method=method, shape=shape, loss=loss))
    return sorted(found, key=lambda choice: choice.loss)


def rank(budget_flops: int, found: Sequence[Choice]) -> Ranking:
    """The choices against each other, with the share of the draws that each wins."""
    draws = [_draws(choice, budget_flops) for choice in found]
    winners = np.stack([np.where(np.isnan(one), np.inf, one) for one in draws]).argmin(axis=0)
    return Ranking(
        budget_flops=budget_flops,
        standings=tuple(
            Standing(
                method=choice.method.label,
                loss=choice.loss,
                loss_interval=percentile_interval(one),
                probability_best=float((winners == place).mean()),
                is_optimum=True,
            )
            for place, (choice, one) in enumerate(zip(found, draws, strict=True))
        ),
    )


def alternatives(budget_flops: int, found: Sequence[Choice], shapes: Sequence[ModelShape]) -> tuple[Alternative, ...]:
    """The runner-up among the methods, and among the models of the best method, where there are such."""
    best, *others = found
    own = [
        Choice(method=best.method, shape=shape, loss=float(loss))
        for shape in trainable(shapes, best.method.method)
        if shape.name != best.shape.name
        for loss in loss_over(best.method, np.array([budget_flops]), shape.num_params_non_embedding)
        if math.isfinite(loss)
    ]
    second = min(own, key=lambda choice: choice.loss, default=None)
    told = []
    if others:
        told.append(_alternative(budget_flops, best, others[0], trainable(shapes, others[0].method.method)))
    if second is not None:
        told.append(_alternative(budget_flops, best, second, [second.shape]))
    return tuple(told)


def _alternative(budget_flops: int, best: Choice, other: Choice, shapes: Sequence[ModelShape]) -> Alternative:
    """``shapes``: those that the other choice may take at larger budgets."""
    budgets = budget_flops * _FACTORS
    losses = np.stack([loss_over(other.method, budgets, shape.num_params_non_embedding) for shape in shapes])
    reached = (losses <= best.loss).any(axis=0)
    with np.errstate(invalid="ignore"):  # far off, draws of both may be infinite
        more = _draws(other, budget_flops) - _draws(best, budget_flops)
    return Alternative(
        method=other.method.label,
        model=other.shape.name,
        loss=other.loss,
        more_loss=other.loss - best.loss,
        more_loss_interval=percentile_interval(more),
        more_flops=float(_FACTORS[reached.argmax()]) if reached.any() else None,
    )


def _draws(choice: Choice, budget_flops: float) -> FloatArray:
    return loss_draws(choice.method, budget_flops, choice.shape.num_params_non_embedding)
