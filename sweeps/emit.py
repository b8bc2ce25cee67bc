"""The sweep that trains a recommendation: one cell, its hyperparameters held, and what is expected of it.

Knows specs and recommendations. Never knows files, or how the recommendation was found.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.expectation import ExpectedLoss
from analysis.recommend import Recommendation
from sweeps.space import Fixed, Space
from sweeps.spec import Limits, MethodSpec, SweepSpec
from trainer.trial import format_flops, model_slug

NAME_LENGTH = 100


def one_cell(spec: SweepSpec, recommendation: Recommendation, *, noise_relative_sd: float, stated_at: str) -> SweepSpec:
    """``spec`` with the recommended cell alone, one trial, the recommended hyperparameters, and the expected loss.

    ``noise_relative_sd`` is that of a trial of the recommended method, ``stated_at`` the time of now in ISO 8601.
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
        seeds=1,
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
        expected=_expected(spec.name, recommendation, noise_relative_sd, stated_at),
    )


def _expected(
    sweep: str, recommendation: Recommendation, noise_relative_sd: float, stated_at: str
) -> ExpectedLoss | None:
    """``None`` where no loss could be foretold."""
    if recommendation.loss is None or recommendation.loss_interval is None:
        return None
    low, high = recommendation.loss_interval.to_list()
    return ExpectedLoss(
        loss=recommendation.loss,
        low=low,
        high=high,
        noise_relative_sd=noise_relative_sd,
        extrapolation=recommendation.extrapolation,
        sweep=sweep,
        stated_at=stated_at,
    )
