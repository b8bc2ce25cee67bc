"""What the profiles, laws and methods of a sweep cannot say and why, in sentences.

Knows profiles with their draws. Never knows how laws are fitted, or what a person should do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from analysis import wording
from analysis.profile import Profile, ProfileDraws, ProfileState

Built = tuple[Profile, ProfileDraws]


def is_held(profile: Profile, draws: ProfileDraws) -> bool:
    """Whether there is an optimum, in the fit and in at least half of the draws."""
    return profile.state == ProfileState.OPTIMUM and bool(np.isfinite(draws.num_params).mean() >= 0.5)


def profile_notes(label: str, built: Sequence[Built]) -> list[str]:
    """One sentence for each thing that some of a method's profiles cannot say."""
    words = {
        ProfileState.FEW: "fewer than three models have a loss, so no optimum can be looked for.",
        ProfileState.FLAT: "all models have the same loss, so no size is better than another.",
        ProfileState.EDGE_LOW: "the smallest model is the best: an edge of the grid, not an optimum.",
        ProfileState.EDGE_HIGH: "the largest model is the best: an edge of the grid, not an optimum.",
        ProfileState.OPTIMUM: "noise may move the minimum to an edge of the grid, so the laws of size leave it out.",
    }
    notes = []
    for state, say in words.items():
        budgets = [p.budget_flops for p, draws in built if p.state == state and not is_held(p, draws)]
        if budgets:
            notes.append(f"{label} at {wording.budgets(budgets)}: {say}")
    return notes


def law_notes(label: str, num_optima: int, upper_bounds: Sequence[Profile]) -> list[str]:
    """What the laws of a method measured at two or more budgets cannot say."""
    notes = []
    if num_optima < 2:
        number = "only one budget has an optimum" if num_optima else "no budget has an optimum"
        notes.append(f"{label}: {number}, so no law of size or tokens can be fitted.")
    if num_optima == 2:
        notes.append(f"{label}: the laws of size and tokens go through two budgets alone, so nothing checks them.")
    if upper_bounds:
        budgets = wording.budgets([profile.budget_flops for profile in upper_bounds])
        notes.append(
            f"{label}: the loss law uses the lowest measured loss at {budgets}, an upper bound of the optimum's."
        )
    return notes


def sweep_notes(measured: Mapping[int, Set[str]], has_law: Mapping[str, bool]) -> list[str]:
    """What a sweep cannot say: from the methods that were measured at each budget, and whether each has a loss law."""
    if not measured:
        return ["No trial is complete, so nothing can be fitted or recommended."]
    notes = []
    if len(measured) == 1:
        budget = wording.flops(min(measured))
        notes.append(f"Only one budget was measured ({budget}), so nothing can be said about other budgets.")
    elif lawless := [label for label, known in has_law.items() if not known]:
        notes.append(f"{wording.listing(lawless)}: fewer than two budgets with three models, so no laws over budgets.")
    for budget_flops, present in measured.items():
        missing = [label for label in has_law if label not in present]
        if missing:
            budget = wording.flops(budget_flops)
            notes.append(
                f"{wording.listing(missing)} at {budget}: no complete trial, so left out of the ranking there."
            )
    return notes
