"""The sweep on Ray: one Tune run in the life of a driver, over all studies.

Knows how trials are started as actors, which of their deaths need another start, and how a person stops a sweep. The
store is the only memory: Tune's own state is scratch, and launching again is how a sweep is resumed. Never knows how a
trial trains, what is suggested next, or how progress is shown.
"""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from cluster.actor import TRAIN, Assignment, Trial, failed
from cluster.placement import Machine, largest_step_tokens, place
from cluster.progress import Report, SweepProgress, Tracker
from sweeps.agenda import Agenda
from sweeps.plan import Study
from sweeps.search import Finished
from sweeps.spec import Resources
from sweeps.store import Store, StoreError
from sweeps.weights import drop_worse_weights
from trainer.memory import StepLoad
from trainer.prepare import Prepared
from trainer.trial import Placement, TrialFiles, TrialSpec, TrialState

DEATHS = 5
"""Deaths of a trial's process in a row, without progress between, after which it is FAILED: it would never end."""
PROGRESS_SECONDS = 0.5
FACTS = ("state", "loss", "booked_flops", "seconds")
"""What progress needs of a row, beside its spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a driver's life ended."""

    progress: SweepProgress
    stopped_by: signal.Signals | None
    """The signal that ended it early."""


def run(
    studies: Sequence[Study],
    prepared: Prepared,
    store: Store,
    resources: Resources,
    on_progress: Report,
    *,
    train: str = TRAIN,
) -> Outcome:
    """Run every trial of ``studies`` that has no row in ``store``; each ends as one row.

    ``on_progress`` is called about twice a second. SIGINT and SIGTERM end it early and cleanly, a second one at once.
    ``train`` names the training function as ``module:function``. Raises ``ValueError`` where no trial can go on (the
    disk is full, the store cannot be written) and where the store has rows of other studies.
    """
    num_slots = _num_slots(resources)
    search = _Search(studies, prepared, store, resources, train, num_slots)
    on_progress(search.tracker.snapshot())
    if search.agenda.remaining:
        with _scratch(store.root) as scratch, search.stopper.on_signals():
            _tune(search, on_progress, scratch, resources, num_slots)
        search.look_again()
    if search.stopper.halted:
        raise ValueError(search.stopper.halted)
    if resources.keep_weights == "best":
        # A trial's process that was killed between its row and its tidying has left a worse one's weights.
        drop_worse_weights(store)
    progress = search.tracker.snapshot()
    on_progress(progress)
    assert search.stopper.signal or not search.agenda.remaining, "Tune ended before the sweep did"
    return Outcome(progress=progress, stopped_by=search.stopper.signal)


def _tune(search: _Search, on_progress: Report, scratch: Path, resources: Resources, num_slots: int) -> None:
    # Tune tells of interrupted and failed trials in words that lead astray here (Tuner.restore); the rows tell it.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tune.run(
        Trial,
        name="tune",
        storage_path=str(scratch),
        search_alg=search,
        stop=search.stopper,
        callbacks=[_Watch(search, on_progress)],
        num_samples=-1,
        # Twice the slots: when a trial ends, the next one waits already and takes over its process.
        max_concurrent_trials=min(resources.max_concurrent_trials, 2 * num_slots),
        max_failures=DEATHS - 1,
        reuse_actors=resources.reuse_actors,
        trial_name_creator=_trial_id,
        trial_dirname_creator=_trial_id,
        raise_on_failed_trial=False,
        verbose=0,
    )


class _Search(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Gives Tune the agenda's trials, and the agenda the store's rows. What Tune says of an ending is only a hint."""

    def __init__(
        self,
        studies: Sequence[Study],
        prepared: Prepared,
        store: Store,
        resources: Resources,
        train: str,
        num_slots: int,
    ) -> None:
        super().__init__()
        self.agenda = Agenda(studies)
        self.tracker = Tracker(studies, num_slots)
        self.stopper = _Stopper()
        self.last_errors: dict[str, str] = {}
        self._prepared, self._store, self._resources, self._train = prepared, store, resources, train
        machines = _machines()
        # All at once: what fits nowhere is refused before anything is trained.
        self._placements = {study.key: place(_load(study, prepared), resources, machines) for study in studies}
        self._asked: dict[str, tuple[Study, Assignment]] = {}
        self._reached: dict[str, int] = {}
        self._reached_at_death: dict[str, int] = {}
        rows = store.read_trials()
        for spec, *facts in zip(*(rows[name] for name in ("spec", *FACTS)), strict=True):
            self._take(TrialSpec.from_json(spec), *facts)
        self.tracker.rules_out(self.agenda.ruled_out)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        running = {(study.key, assignment.spec.number) for study, assignment in self._asked.values()}
        study, number = next(self.agenda.ready(running), (None, 0))
        if study is not None:
            assignment = self._assignment(self.agenda.trial(study, number), self._placements[study.key])
            self._asked[trial_id] = study, assignment
            return {"assignment": assignment}
        # One that runs may yet die too often and be asked again.
        return None if self._asked else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if "spent_flops" in result:
            _, assignment = self._asked[trial_id]
            self.tracker.reports(assignment.spec, spent_flops=result["spent_flops"], loss=result["train_loss"])
            self._reached[assignment.spec.trial_id] = result["spent_flops"]

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        _, assignment = self._asked.pop(trial_id)
        self.stopper.halted = self.stopper.halted or (result or {}).get("halt", "")
        try:
            if error:
                self._bury(assignment)
            self._look(assignment.spec)
            self.tracker.rules_out(self.agenda.ruled_out)
        except StoreError as broken:
            # Tune would wrap it into an error of its own.
            self.stopper.halted = str(broken)

    def look_again(self) -> None:
        """Take the rows of trials that ended while Tune was stopping."""
        for _, assignment in self._asked.values():
            self._look(assignment.spec)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept: the store is the only memory."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep is resumed from its store, never from Tune's state")

    def _assignment(self, spec: TrialSpec, placement: Placement) -> Assignment:
        model = self._prepared.models[spec.model]
        return Assignment(
            spec=spec,
            shape=model.shape,
            placement=placement,
            files=TrialFiles(
                tokens=model.tokens,
                model=model.path,
                checkpoints=str(self._store.checkpoints(spec.trial_id)),
                weights="" if self._resources.keep_weights == "none" else str(self._store.weights(spec.trial_id)),
            ),
            store=self._store.root,
            max_attempts=self._resources.max_attempts,
            keep_weights=self._resources.keep_weights,
            train=self._train,
        )

    def _bury(self, assignment: Assignment) -> None:
        """Record a trial whose process died too often as FAILED, unless it came further each time."""
        spec = assignment.spec
        if not self._store.has(spec.trial_id) and not self._has_progressed(spec):
            reason = self.last_errors.get(spec.trial_id, "no error was left behind")
            error = f"its process died {DEATHS} times without progress: {reason}"
            self._store.record(failed(assignment, error, here=False))

    def _has_progressed(self, spec: TrialSpec) -> bool:
        before = self._reached_at_death.get(spec.trial_id, 0)
        self._reached_at_death[spec.trial_id] = self._reached.get(spec.trial_id, 0)
        return self._reached_at_death[spec.trial_id] > before

    def _look(self, spec: TrialSpec) -> None:
        self.tracker.stops(spec)
        if self._store.has(spec.trial_id):
            row = self._store.read_trial(spec.trial_id)
            loss = row.metrics.loss if row.metrics else math.nan
            self._take(spec, row.state, loss, row.spending.booked_flops, row.spending.seconds)

    def _take(self, spec: TrialSpec, state: str, loss: float, booked_flops: int, seconds: float) -> None:
        ended = Finished(spec=spec, state=TrialState(state), loss=None if math.isnan(loss) else float(loss))
        self.agenda.tell(ended)
        self.tracker.records(ended, booked_flops=int(booked_flops), seconds=float(seconds))


class _Watch(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells the tracker what starts and dies, and the person how far the sweep is."""

    def __init__(self, search: _Search, on_progress: Report) -> None:
        self._search, self._on_progress = search, on_progress
        self._told = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.tracker.starts(trial.config["assignment"].spec)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec: TrialSpec = trial.config["assignment"].spec
        self._search.tracker.stops(spec)
        self._search.last_errors[spec.trial_id] = str(trial.get_error())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._on_progress(self._search.tracker.snapshot())
            self._told = time.monotonic()


class _Stopper(tune.Stopper):  # type: ignore[misc]  # Ray ships no types
    """Ends the Tune run between two of its steps."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.halted = ""
        """Why no trial can go on, in a sentence."""

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.signal is not None or bool(self.halted)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop at SIGINT or SIGTERM; a second signal finds the handlers as they were before, and ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()


@contextmanager
def _scratch(store: Path) -> Iterator[Path]:
    """A folder for what Tune insists to write; a driver that was killed has left its own, which goes as well."""
    folder = store / ".tune"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trial_id(trial: Any) -> str:
    return str(trial.config["assignment"].spec.trial_id)


def _load(study: Study, prepared: Prepared) -> StepLoad:
    """The training step of any trial of ``study``."""
    num_negatives = prepared.manifest.source.num_negatives
    batch_size, longest = study.fixed.batch_size, (2 + num_negatives) * study.fixed.max_length
    return StepLoad(
        shape=prepared.models[study.cell.model].shape,
        method=study.cell.method,
        batch_size=batch_size,
        tokens=largest_step_tokens(prepared.statistics.tokens_per_pair, batch_size, longest),
        num_negatives=num_negatives,
    )


def _machines() -> list[Machine]:
    """The machines of the Ray that is there, as it sees them."""
    machines = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and "CPU" in has:
            gpus = [kind.removeprefix("accelerator_type:") for kind in has if kind.startswith("accelerator_type:")]
            machines.append(
                Machine(
                    num_cpus=has["CPU"],
                    memory_bytes=int(has["memory"]),
                    num_gpus=has.get("GPU", 0),
                    gpu=next(iter(gpus), ""),
                )
            )
    return machines


def _num_slots(resources: Resources) -> int:
    """Trials that fit beside each other into the Ray that is there."""
    has = ray.cluster_resources()
    wanted = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    slots = min(int(has.get(kind, 0) / amount) for kind, amount in wanted.items() if amount)
    if slots == 0:
        asked = ", ".join(
            f"resources.{kind.lower()}s_per_trial is {amount:g}" for kind, amount in wanted.items() if amount
        )
        there = ", ".join(f"{has.get(kind, 0):g} {kind}s" for kind in wanted)
        raise ValueError(f"{asked}, and this Ray has {there}: ask for less in the spec, or launch on a larger machine")
    return max(1, slots // (1 if resources.workers_per_trial == "auto" else resources.workers_per_trial))
