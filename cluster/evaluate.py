"""Trained models on evaluation tasks: what has no score yet, as Ray tasks, until every score is in the store.

Knows which scores are missing, how they are divided into Ray tasks, and how long the rest will take. The store is the
queue's memory: a process, a machine or a driver that dies has lost only the task it was at. Never knows how a model is
evaluated (``cluster/scorer.py``).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster.answers import prepared_of
from cluster.scorer import Outcome, Work, evaluate_work, is_current
from sweeps.scores import Shelf, read_score
from sweeps.store import Store
from trainer.data import Report
from trainer.result import TrialResult
from trainer.trained import RECORD, weights_hash

if TYPE_CHECKING:
    from trainer.nano_rows import NanoRows

MACHINE_LOSSES = 10
"""Deaths of processes or machines that a Ray task survives; what it had evaluated is not done again."""
LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Models and tasks, as a person asks for them."""

    results: tuple[TrialResult, ...]
    tasks: tuple[str, ...]
    nano: NanoRows | None
    """What nano tasks are made of, where there are any."""
    revisions: tuple[str, ...]
    """Of the tasks' data, in their order."""
    baselines: tuple[tuple[str, tuple[str, ...]], ...]
    """Names of baselines, each with the tasks that it says something about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is."""

    num_done: int
    num_scores: int
    num_failed: int
    seconds: float
    remaining_seconds: float | None
    """``None`` before the first score."""
    last: Outcome | None


@dataclass(kw_only=True, slots=True)
class _Clock:
    """What the rest takes, by how long each task has taken so far."""

    started: float = field(default_factory=time.monotonic)
    seen: dict[str, list[float]] = field(default_factory=dict)

    def saw(self, outcome: Outcome) -> None:
        if not outcome.error:
            self.seen.setdefault(outcome.task, []).append(outcome.seconds)

    def remaining(self, tasks: Counter[str], num_slots: int) -> float | None:
        means = {task: sum(seconds) / len(seconds) for task, seconds in self.seen.items()}
        if not means:
            return None
        usual = sum(means.values()) / len(means)
        return sum(means.get(task, usual) * number for task, number in tasks.items()) / max(1, num_slots)


def question_of(
    store: Store, results: Sequence[TrialResult], tasks: Sequence[str], cache: Any, report: Report
) -> Question:
    """What is asked about these trials. Raises ``ValueError`` where nano tasks are asked for and cannot be made."""
    from trainer.prepare import nano_test_rows
    from trainer.tasks import BASELINES, baseline_tasks, needs_nano, revision_of

    nano = nano_test_rows(prepared_of(store).manifest, cache, report) if needs_nano(tasks) else None
    return Question(
        results=tuple(results),
        tasks=tuple(tasks),
        nano=nano,
        revisions=tuple(revision_of(task, nano) for task in tasks),
        baselines=tuple((name, baseline_tasks(name, tasks)) for name in BASELINES),
    )


def missing_work(store: Store, asked: Question, cache: str) -> list[Work]:
    """What has no score of these weights on these data yet, one piece for each model."""
    from trainer.tasks import BASELINE_RECIPE

    resources = store.spec.resources
    revisions = dict(zip(asked.tasks, asked.revisions, strict=True))
    models: list[tuple[Shelf, str, str, tuple[str, ...]]] = [
        ("baselines", name, f"{name} {BASELINE_RECIPE}", tasks) for name, tasks in asked.baselines
    ]
    for result in asked.results:
        trial_id = result.spec.trial_id
        models.append(("scores", trial_id, weights_hash((store.weights(trial_id) / RECORD).read_text()), asked.tasks))
    pieces = []
    for shelf, name, weights, tasks in models:
        rows = {task: read_score(store, name, task, shelf) for task in tasks}
        missing = tuple(
            task for task, row in rows.items() if row is None or not is_current(row, weights, revisions[task])
        )
        if missing:
            pieces.append(
                Work(
                    store=store.root,
                    shelf=shelf,
                    name=name,
                    weights_hash=weights,
                    tasks=missing,
                    revisions=tuple(revisions[task] for task in missing),
                    cache=cache,
                    device="cuda" if resources.gpus_per_trial and shelf == "scores" else "cpu",
                    num_threads=resources.num_threads,
                )
            )
    return pieces


def divided(pieces: Sequence[Work], num_slots: int) -> list[Work]:
    """The pieces, cut so that no slot is idle where there are fewer models than slots: each part loads its model once,
    and has every so many of its tasks.
    """
    parts = max(1, math.ceil(num_slots / max(1, len(pieces))))
    return [
        replace(piece, tasks=piece.tasks[start::parts], revisions=piece.revisions[start::parts])
        for piece in pieces
        for start in range(min(parts, len(piece.tasks)))
    ]


def evaluate_on_ray(
    store: Store, pieces: Sequence[Work], nano: NanoRows | None, show: Callable[[EvaluationProgress], None]
) -> list[Outcome]:
    """Evaluate on the Ray that this process is connected to; the outcomes, failures among them.

    A task that fails leaves the others alone. Ray starts again what dies with its process or its machine.
    """
    import ray

    resources = store.spec.resources
    wants = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    num_slots = _slots(ray.cluster_resources(), wants)
    shared = ray.put(nano)
    run = ray.remote(evaluate_work)
    work_of = {}
    for work in divided(pieces, num_slots):
        gpus = wants["GPU"] if work.device == "cuda" else 0
        options = run.options(
            name=f"evaluate {work.name}",
            num_cpus=wants["CPU"],
            num_gpus=gpus,
            num_returns="streaming",
            max_retries=MACHINE_LOSSES,
        )
        work_of[options.remote(work, shared)] = work
    left = Counter(task for work in work_of.values() for task in work.tasks)
    told: dict[Any, int] = dict.fromkeys(work_of, 0)
    outcomes: list[Outcome] = []
    clock, num_scores = _Clock(), left.total()
    while work_of:
        ready, _ = ray.wait(list(work_of), num_returns=1, timeout=LOOK_SECONDS)
        for stream in ready:
            new = _next(stream, work_of[stream], told[stream])
            told[stream] += len(new)
            for outcome in new:
                clock.saw(outcome)
                left[outcome.task] -= 1
            outcomes += new
            if told[stream] == len(work_of[stream].tasks):
                del work_of[stream]
        show(
            EvaluationProgress(
                num_done=len(outcomes),
                num_scores=num_scores,
                num_failed=sum(bool(outcome.error) for outcome in outcomes),
                seconds=time.monotonic() - clock.started,
                remaining_seconds=clock.remaining(left, min(num_slots, len(work_of))),
                last=outcomes[-1] if outcomes else None,
            )
        )
    return outcomes


def _next(stream: Any, work: Work, num_told: int) -> list[Outcome]:
    """What the Ray task has told now; where it is lost for good, that the rest of its tasks failed."""
    import ray
    from ray.exceptions import RayError

    try:
        return [ray.get(reference) for reference in islice(stream, 1)]
    except RayError as error:
        sentence = str(error).strip().splitlines()[0]
        return [Outcome(name=work.name, task=task, error=sentence) for task in work.tasks[num_told:]]


def _slots(has: dict[str, float], wants: dict[str, float]) -> int:
    """How many Ray tasks run beside each other."""
    return max(1, min(math.floor(has.get(kind, 0) / amount) for kind, amount in wants.items() if amount))
