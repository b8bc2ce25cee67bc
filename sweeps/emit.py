"""The sweep that trains a recommendation: one cell, its hyperparameters held.

Knows specs and recommendations. Never knows files, or how the recommendation was found.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.recommend import Recommendation
from sweeps.spec import Fixed, Limits, MethodSpec, Space, SweepSpec
from trainer.trial import format_flops, model_slug

NAME_LENGTH = 100


def one_cell(spec: SweepSpec, recommendation: Recommendation) -> SweepSpec:
    """``spec`` with the recommended cell alone, one trial, and the recommended hyperparameters.

    The limits make room for the cell where the recommendation went beyond them: it has said so itself.
    """
    ours = recommendation.hyperparameters
    label = recommendation.method.label
    # The border takes what a float64 column of the store holds exactly.
    budget = int(float(recommendation.budget_flops))
    ending = f"-{model_slug(recommendation.model)}-{label}-{format_flops(budget)}"[-NAME_LENGTH + 1 :]
    space = Space(
        learning_rate=Fixed(value=ours.learning_rate),
        temperature=Fixed(value=ours.temperature),
        weight_decay=Fixed(value=ours.weight_decay),
    )
    return replace(
        spec,
        name=spec.name[: NAME_LENGTH - len(ending)] + ending,
        models=(recommendation.model,),
        methods=(MethodSpec(method=recommendation.method, models=(recommendation.model,), space=space, num_trials=1),),
        budgets_flops=(budget,),
        fixed=replace(
            spec.fixed,
            batch_size=ours.batch_size,
            max_length=ours.max_length,
            warmup_fraction=ours.warmup_fraction,
            pooling=ours.pooling,
            gradient_clipping=ours.gradient_clipping,
        ),
        limits=Limits(
            min_steps=min(spec.limits.min_steps, max(0, recommendation.steps - 1)),
            max_epochs=max(spec.limits.max_epochs, 1.1 * recommendation.epochs),
        ),
    )
