"""Which cells can be offered for measuring next, and how their losses hang on a method's laws.

Knows a method's laws, the shapes of models that exist and a sweep's limits. Pure. Never knows what has been spent, or
which offer is the best (``design.py``).

To first order, ln loss of a cell is linear in the level and the exponent of the loss's law and of the size's. Only
cells inside the window of a fit are offered: further from the optimum one would tell the more of it, but no fit uses
it. A budget without a profile takes part in no law, so its first three models come together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.choice import trainable
from analysis.expect import loss_over
from analysis.fit import WINDOW_FACTOR, FloatArray
from analysis.frontier import MethodFrontier
from analysis.law import Law
from trainer.flops import num_tokens
from trainer.ladder import ModelShape, parameter_counts

SPACING = 2.0
"""Between new budgets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRules:
    """Which cells may be run, and how."""

    tokens_per_pair: float
    pairs_per_epoch: float
    batch_size: int
    min_steps: int
    max_epochs: float

    def allow(self, pairs: float) -> bool:
        return pairs >= self.min_steps * self.batch_size and pairs <= self.max_epochs * self.pairs_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Offer:
    """Cells of one budget that are run together."""

    budget_flops: int
    models: tuple[str, ...]
    slopes: FloatArray
    """Derivatives of each cell's ln loss by the four parameters, (n, 4)."""

    @property
    def flops(self) -> int:
        """With one trial each."""
        return self.budget_flops * len(self.models)


def offered_budgets(measured: Sequence[int], target: int) -> list[int]:
    """The measured ones, and new ones from the largest up to the target."""
    new = [max(measured)]
    while new[-1] * SPACING <= target:
        new.append(round(new[-1] * SPACING))
    return sorted({*measured, *new, target})


def offers_at(method: MethodFrontier, budget: int, shapes: Sequence[ModelShape], rules: CellRules) -> list[Offer]:
    """The budget's cells one by one, and together those with which a new budget has a profile: the best and its
    neighbours."""
    assert method.loss_law is not None and method.size_law is not None
    cells = []
    for shape in _near(trainable(shapes, method.method), method.size_law.at(budget)):
        size = shape.num_params_non_embedding
        loss = float(loss_over(method, np.array([float(budget)]), size)[0])
        tokens = num_tokens(budget, parameter_counts(shape, method.method), method.method)
        if math.isfinite(loss) and rules.allow(tokens / rules.tokens_per_pair):
            cells.append((loss, shape.name, _slopes(method.loss_law, method.size_law, budget, size, loss)))
    groups = [[cell] for cell in cells]
    best = min(range(len(cells)), key=lambda place: cells[place][0], default=0)
    if 0 < best < len(cells) - 1:
        groups.append(cells[best - 1 : best + 2])
    return [
        Offer(
            budget_flops=budget,
            models=tuple(model for _, model, _ in group),
            slopes=np.array([slopes for _, _, slopes in group]),
        )
        for group in groups
    ]


def _near(shapes: Sequence[ModelShape], optimum: float) -> list[ModelShape]:
    """By size, those that a fit would use: within its window around the optimum, at least the three nearest."""
    off = [abs(math.log(shape.num_params_non_embedding / optimum)) for shape in shapes]
    reach = max(math.log(WINDOW_FACTOR), *sorted(off)[:3]) + 1e-6
    near = [shape for shape, distance in zip(shapes, off, strict=True) if distance <= reach]
    return sorted(near, key=lambda shape: shape.num_params_non_embedding)


def _slopes(loss_law: Law, size_law: Law, budget: float, num_params: float, loss: float) -> list[float]:
    """Derivatives of a cell's ln loss by (ln level, exponent) of the loss and of the size.

    ``loss`` is floor plus ``k off^2`` with ``off = ln N - ln N*``, so it moves by ``-2 k off`` with ln N*.
    """
    floor, off = loss_law.at(budget), math.log(num_params / size_law.at(budget))
    by_floor, by_size = floor / loss, -2 * (loss - floor) / off / loss if off else 0.0
    return [
        by_floor,
        by_floor * math.log(budget / loss_law.fit.pivot),
        by_size,
        by_size * math.log(budget / size_law.fit.pivot),
    ]
