"""Which models a person's limits leave to each method, and what these limits cost.

Knows the limits of ``analysis/constraints.py``, and the choice that would be made without them. Never knows how a
recommendation is put together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.choice import Fits, choices, nearest
from analysis.constraints import Bite, Constraints
from analysis.frontier import Frontier, MethodFrontier
from trainer.ladder import ModelShape
from trainer.memory import StepLoad

if TYPE_CHECKING:
    from analysis.recommend import Recommendation


def load_of(method: MethodFrontier, shape: ModelShape, tokens_per_pair: float) -> StepLoad:
    """A step of the batch that the method's largest budget was trained with."""
    largest = max(method.profiles, key=lambda profile: profile.budget_flops)
    batch_size = largest.best.spec.hyperparameters.batch_size
    tokens = math.ceil(batch_size * tokens_per_pair)
    return StepLoad(shape=shape, method=method.method, batch_size=batch_size, tokens=tokens)


def fits_under(constraints: Constraints, tokens_per_pair: float) -> Fits:
    """Whether the devices that may be used hold a method's training step of a model."""
    return lambda method, shape: constraints.holds(load_of(method, shape, tokens_per_pair))


def nothing_fits(constraints: Constraints, method: MethodFrontier) -> str:
    """The sentence for a method whose every model is too large."""
    assert constraints.hardware is not None
    return (
        f"--gpus {constraints.num_gpus} of {constraints.hardware.device} hold no model's training step by "
        f"{method.label}: allow more of them, or a device with more memory"
    )


def limit_bites(
    frontier: Frontier,
    draft: Recommendation,
    shapes: Sequence[ModelShape],
    constraints: Constraints,
    tokens_per_pair: float,
) -> list[Bite]:
    """The limits that the model breaks which would be chosen without them, and what they cost."""
    free = choices(frontier, draft.budget_flops, shapes)
    wanted = free[0].shape if free else nearest(shapes, draft.optimal_num_params or draft.num_params)
    broken = list(constraints.broken_by(wanted))
    if free and not constraints.holds(load_of(free[0].method, wanted, tokens_per_pair)):
        says = f"a step of it does not fit the memory of {constraints.num_gpus} such devices"
        broken.append(Bite(kind="memory", sentence=says))
    return [
        replace(
            bite,
            sentence=f"Without this limit it would be {wanted.name}"
            f"{f' by {free[0].method.label}' if free else ''}, but {bite.sentence}"
            + (f": that costs {draft.loss - free[0].loss:.3f} of loss." if free and draft.loss is not None else "."),
        )
        for bite in broken
    ]
