"""Which trials' trained weights a store keeps, and which trial a person means when asking for one.

Knows rows and the folders of weights beside them. What is kept is a function of the rows alone, so it does not matter
who asks, in which order, or who was killed. Never knows what is inside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sweeps.columns import from_row
from sweeps.grouping import method_label
from sweeps.spec import SweepSpec
from sweeps.store import Store, StoreError
from trainer.result import TrialResult, TrialState

Which = Literal["best", "frontier", "all"]
"""Of the complete trials: the one of least loss; the best of each budget and method; all."""
_NAMED = 3
"""Trials that a sentence names where several are meant."""


def drop_worse_weights(store: Store) -> None:
    """Remove the weights of every recorded trial that is not the best of its budget and method.

    Safe at any moment and from several processes at once: rows are only ever added, so a trial that another one beats
    now can never become the best, and the better one's weights were whole before its row was written. Weights
    of a trial without a row are left alone: it is about to be recorded.
    """
    recorded = [store.read_trial(trial_id) for trial_id in store.trials_with_weights() if store.has(trial_id)]
    for trial_id in {result.spec.trial_id for result in recorded} - best_trials(recorded, store.spec):
        store.remove_weights(trial_id)


def best_trials(results: Iterable[TrialResult], sweep: SweepSpec) -> frozenset[str]:
    """Ids of the complete trials of least loss at each budget and method; of equal ones the first by id."""
    best: dict[tuple[int, str], tuple[float, str]] = {}
    for result in results:
        if result.state is TrialState.COMPLETE:
            group = result.spec.budget_flops, method_label(sweep, result.spec.method)
            best[group] = min(best.get(group, (math.inf, "")), (_loss(result), result.spec.trial_id))
    return frozenset(trial_id for _, trial_id in best.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Complete trials that a person means."""

    results: tuple[TrialResult, ...]
    """Those whose weights are kept, by budget and loss."""
    without_weights: tuple[str, ...]
    """Ids of those whose weights are not."""


def choose_trials(store: Store, which: Which) -> Chosen:
    """The trials that ``which`` means. Raises ``ValueError`` where none of them has weights."""
    if which == "best":
        return Chosen(results=(_best_with_weights(store),), without_weights=())
    table, _ = store.read_table()
    complete = [result for row in table.to_pylist() if (result := from_row(row)).state is TrialState.COMPLETE]
    wanted = best_trials(complete, store.spec) if which == "frontier" else {result.spec.trial_id for result in complete}
    kept = store.trials_with_weights()
    results = [result for result in complete if result.spec.trial_id in wanted & kept]
    if not results:
        raise ValueError(
            f"store {str(store.root)!r} has no weights of the {len(wanted)} complete trials that are meant: launch a "
            "sweep with resources.keep_weights: all"
        )
    return Chosen(
        results=tuple(sorted(results, key=lambda result: (result.spec.budget_flops, _loss(result)))),
        without_weights=tuple(sorted(wanted - kept)),
    )


def find_trial(store: Store, prefix: str) -> TrialResult:
    """The complete trial whose id begins with ``prefix`` and whose weights are kept.

    With an empty prefix the one of least loss of all that have weights. Raises ``ValueError`` where there is no such
    trial or more than one.
    """
    return _named(store, prefix) if prefix else _best_with_weights(store)


def find_id(store: Store, prefix: str) -> str:
    """The id of the recorded trial that begins with ``prefix``. Raises ``ValueError`` where none or several do."""
    ids = store.trial_ids()
    found = [prefix] if prefix in ids else sorted(trial_id for trial_id in ids if trial_id.startswith(prefix))
    if not found:
        raise ValueError(
            f"trial {prefix!r} has no row in store {str(store.root)!r}: give the id of a trial that has ended, or its "
            "first characters"
        )
    if len(found) > 1:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ValueError(f"trial {prefix!r} may be {', '.join(found[:_NAMED])}{more}: give more characters of its id")
    return found[0]


def _named(store: Store, prefix: str) -> TrialResult:
    trial_id = find_id(store, prefix)
    result = store.read_trial(trial_id)
    if result.state is not TrialState.COMPLETE:
        raise ValueError(f"trial {trial_id} ended {result.state.value}: choose one that is COMPLETE")
    if trial_id not in store.trials_with_weights():
        raise ValueError(
            f"trial {trial_id} has no weights in store {str(store.root)!r}: choose another, or keep them with "
            "resources.keep_weights: all in the spec of a new sweep"
        )
    return result


def _best_with_weights(store: Store) -> TrialResult:
    kept = [store.read_trial(trial_id) for trial_id in store.trials_with_weights() if store.has(trial_id)]
    complete = [result for result in kept if result.state is TrialState.COMPLETE]
    if not complete:
        raise StoreError(
            f"store {str(store.root)!r} has no complete trial with weights: wait for one, or launch a sweep with "
            "resources.keep_weights: best"
        )
    return min(complete, key=lambda result: (_loss(result), result.spec.trial_id))


def _loss(result: TrialResult) -> float:
    assert result.metrics is not None, "a complete trial has metrics"
    return result.metrics.loss
