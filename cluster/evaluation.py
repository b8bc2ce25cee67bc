"""An evaluation as a person asks for it: which trials, which tasks, here or on a cluster, and what is said of it.

Knows the order of these and every sentence. Never knows how a Ray task evaluates.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.answers import say
from cluster.evaluate import Question, evaluate_on_ray, missing_work, question_of
from cluster.score_tables import watching_scores
from cluster.view import preparing
from sweeps.store import Store
from sweeps.weights import Chosen, Which, choose_trials, find_trial
from trainer.prepare import default_cache
from trainer.refusal import is_ours
from trainer.tasks import fetch, task_names

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.spec import SweepSpec

MOST_FAILURES = 5
"""Failures that are told one by one."""
_NAMED = 3

RayOf = Callable[[], AbstractContextManager[object]]


def tasks_of(given: str, spec: SweepSpec | None) -> tuple[str, ...]:
    """The tasks of ``--tasks``; where it is left out, nano for a sweep on nano data and the paper's fifteen else."""
    if not given:
        return task_names(("nano",) if spec is not None and spec.data.source == "nano" else ("paper15",))
    return task_names([name.strip() for name in given.split(",") if name.strip()])


def score_kept(store: Store, tasks: Sequence[str], console: Console, ray_of: RayOf) -> bool:
    """Evaluate every trial whose weights are kept, at the end of a sweep; whether all of it has a score now.

    What cannot be evaluated is said and costs no trial: every row is in the store before.
    """
    try:
        kept = choose_trials(store, "all")
        _, is_whole = evaluate_chosen(store, kept, task_names(tasks), default_cache(), console, ray_of)
    except ValueError as error:
        if not is_ours(error):
            raise
        say(console, f"no scores: {error}")
        return False
    return is_whole


def chosen(store: Store, trial: str, which: Which, console: Console) -> Chosen:
    """The trials of ``--trial`` or of one of the other choices; those that cannot be evaluated are named."""
    found = Chosen(results=(find_trial(store, trial),), without_weights=()) if trial else choose_trials(store, which)
    if lacking := found.without_weights:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        say(
            console,
            f"{len(lacking)} of {len(found.results) + len(lacking)} trials have no weights and get no scores "
            f"({', '.join(lacking[:_NAMED])}{more}): resources.keep_weights: all keeps them in a new sweep",
        )
    return found


def prefetch(store: Store | None, tasks: Sequence[str], cache: Path, console: Console) -> None:
    """Bring what tasks need into the caches of this machine, so that all else runs with ``HF_HUB_OFFLINE=1``."""
    with preparing(console) as report:
        fetch(tasks, report)
        if store is not None:
            question_of(store, (), tasks, cache, report)
    say(console, f"{len(tasks)} tasks are in the cache: evaluate them with HF_HUB_OFFLINE=1")


def evaluate_chosen(
    store: Store, found: Chosen, tasks: Sequence[str], cache: Path, console: Console, ray_of: RayOf
) -> tuple[Question, bool]:
    """Evaluate what has no score yet; what was asked, and whether all of it has a score now.

    ``ray_of`` connects to a Ray; nothing is started where nothing is missing.
    """
    with preparing(console) as report:
        asked = question_of(store, found.results, tasks, cache, report)
    pieces = missing_work(store, asked, str(cache))
    if not pieces:
        return asked, True
    try:
        with ray_of(), watching_scores(console) as show:
            outcomes = evaluate_on_ray(store, pieces, asked.nano, show)
    except KeyboardInterrupt:
        say(console, "stopped, and no score is lost: the same command goes on")
        sys.exit(128 + signal.SIGINT)
    failures = [outcome for outcome in outcomes if outcome.error]
    for failure in failures[:MOST_FAILURES]:
        say(console, f"{failure.name} has no score on {failure.task}: {failure.error}")
    if failures:
        say(console, f"{len(failures)} of {len(outcomes)} scores failed; the same command tries them again")
    return asked, not failures


def scores_asked(store: Store, asked: Question) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores of the trials that were asked about, and of the baselines, on the tasks that were."""
    from sweeps.scores import read_scores

    scores, baselines = read_scores(store), read_scores(store, "baselines")
    names = {result.spec.trial_id for result in asked.results}
    ours = scores[scores["trial_id"].isin(names) & scores["task"].isin(asked.tasks)]
    return ours, baselines[baselines["task"].isin(asked.tasks)]


def own_ray() -> AbstractContextManager[object]:
    """A Ray on this machine, gone at the end."""
    from cluster.local import local_ray

    return local_ray(default_cache())
