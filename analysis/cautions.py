"""What to mind about a recommendation, in sentences: how far it reaches, what is not known, what was not compared.

Knows a recommendation's numbers and the frontier behind them. Never knows how they were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import wording
from analysis.choice import Choice
from analysis.constraints import FAR_FROM_OPTIMUM, Bite
from analysis.frontier import Frontier, MethodFrontier
from analysis.profile import Profile

if TYPE_CHECKING:
    from analysis.recommend import Recommendation

MAX_EXTRAPOLATION = 4.0
CLEAR = 0.9


def cautions(
    draft: Recommendation,
    frontier: Frontier,
    method: MethodFrontier,
    profile: Profile,
    found: Sequence[Choice],
    bites: Sequence[Bite],
) -> tuple[str, ...]:
    """Gravest first. ``profile`` is the method's at the nearest budget; ``found`` are the choices that were ranked."""
    return (
        *_budget_cautions(draft, method, profile),
        *_size_cautions(draft, profile, bites),
        *(bite.sentence for bite in bites),
        *_left_out_cautions(frontier, found),
    )


def _budget_cautions(draft: Recommendation, method: MethodFrontier, profile: Profile) -> list[str]:
    cautions = []
    low, high = draft.measured_budgets_flops
    if not draft.inside:
        above = draft.budget_flops > high
        outside = (
            f"this budget is {wording.times(draft.extrapolation)} times {'above' if above else 'below'} the "
            f"{'largest' if above else 'smallest'} measured one ({wording.flops(high if above else low)})"
        )
        if draft.extrapolation > MAX_EXTRAPOLATION:
            cautions.append(
                f"WARNING: {outside}. Beyond {MAX_EXTRAPOLATION:g} times this is a guess and every interval is "
                "too narrow: measure a budget in between."
            )
        else:
            cautions.append(f"Mind: {outside}, so this is an extrapolation.")
    if method.loss_law is None:
        cautions.append(
            f"No law over budgets could be fitted: this is the best of what was measured at "
            f"{wording.flops(profile.budget_flops)}."
        )
    if draft.probability_best < CLEAR:
        cautions.append("The best method is not clear: the runner-up may be as good, so let cost or memory decide.")
    return cautions


def _size_cautions(draft: Recommendation, profile: Profile, bites: Sequence[Bite]) -> list[str]:
    if draft.optimal_num_params is None:
        return [
            f"The best size for this budget is not known: the model is the best of {len(profile.points)} measured with "
            f"{draft.label} at {wording.flops(profile.budget_flops)}."
        ]
    ratio = draft.num_params / draft.optimal_num_params
    at_the_end = any(bite.kind in ("largest_model", "smallest_model") for bite in bites)
    if at_the_end or max(ratio, 1 / ratio) <= FAR_FROM_OPTIMUM:
        return []
    return [
        f"The optimal size is {wording.count(draft.optimal_num_params)} non-embedding parameters; the nearest model "
        f"that may be chosen is {wording.times(max(ratio, 1 / ratio))} times {'larger' if ratio > 1 else 'smaller'}."
    ]


def _left_out_cautions(frontier: Frontier, found: Sequence[Choice]) -> list[str]:
    """Methods with a law that are not ranked, since no model is near their optimal size."""
    ranked = {choice.method.label for choice in found}
    out = [m.label for m in frontier.methods if m.loss_law is not None and m.label not in ranked]
    if not ranked or not out:
        return []
    return [f"Not compared, since no model that may be chosen is near the optimal size: {wording.listing(out)}."]
