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
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from cluster.actor import TRAIN, Assignment, Trial, failed
from cluster.bounds import Bounds
from cluster.deaths import Deaths
from cluster.fleet import Fleet, load_of
from cluster.jobnote import JobNote
from cluster.live import Notes
from cluster.meter import Meter
from cluster.metrics import Gauges
from cluster.nodes import alive, machines, remove_leftovers
from cluster.placement import size_of
from cluster.progress import Reached, Report, SweepProgress, Tracker
from cluster.share import Share
from cluster.stopper import Stopper
from cluster.trackers import check_trackers
from cluster.turns import Turns
from sweeps.agenda import Agenda
from sweeps.columns import checked_losses
from sweeps.plan import Study
from sweeps.search import Finished
from sweeps.spec import Resources
from sweeps.store import Root, Store, StoreError
from sweeps.weights import drop_worse_weights
from trainer.prepare import Prepared
from trainer.result import TrialState
from trainer.trial import Placement, TrialFiles, TrialSpec

PROGRESS_SECONDS = 0.5
METER_SECONDS = 30.0
"""Device time that a driver's death may leave uncounted."""
COMPACT_EVERY = 256
"""New rows after which they are copied into a compact file: whoever looks at the store reads no more of them one by
one."""
FACTS = ("state", "loss", "checked", "booked_flops", "seconds", "device_seconds")
"""What progress needs of a row, beside its spec."""

UNBOUNDED, WHOLE = Bounds(), Share()


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a driver's life ended."""

    progress: SweepProgress
    stopped_by: signal.Signals | None
    """The signal that ended it early."""
    capped: str = ""
    """Which cap ended it early, in words for a person."""


def run(
    studies: Sequence[Study],
    prepared: Prepared,
    store: Store,
    resources: Resources,
    on_progress: Report,
    *,
    bounds: Bounds = UNBOUNDED,
    share: Share = WHOLE,
    train: str = TRAIN,
) -> Outcome:
    """Run every trial of ``studies`` that has no row in ``store``; each ends as one row.

    ``on_progress`` is called about twice a second. SIGINT and SIGTERM end it early and cleanly, a second one at once;
    ``bounds`` do so when a cap is reached. ``share`` says what other sweeps on the same Ray leave to this one.
    ``train`` names the training function as ``module:function``. Raises ``ValueError`` where no trial can go on (the
    disk is full, the store cannot be written) and where the store has rows of other studies.
    """
    check_trackers(resources.tracking)
    remove_leftovers()
    told = (Gauges(store.spec.name), Notes(store), JobNote(), on_progress)

    def tell(progress: SweepProgress) -> None:
        for listener in told:
            listener(progress)

    search = _Search(studies, prepared, store, resources, train, Meter(bounds, store.read_unrecorded()), share)
    tell(search.tracker.snapshot())
    if search.agenda.remaining and not search.stopper.looks_at(search.meter):
        with _scratch(store.root) as scratch, search.stopper.on_signals():
            _tune(search, tell, scratch, resources)
        search.look_again()
        store.write_unrecorded(search.meter.unrecorded)
    if search.stopper.halted:
        raise ValueError(search.stopper.halted)
    if resources.keep_weights == "best":
        # A trial's process that was killed between its row and its tidying has left a worse one's weights.
        drop_worse_weights(store)
    progress = search.tracker.snapshot()
    tell(progress)
    stopper, is_done = search.stopper, not search.agenda.remaining
    assert stopper.signal or stopper.capped or is_done, "Tune ended before the sweep did"
    return Outcome(progress=progress, stopped_by=stopper.signal, capped="" if is_done else stopper.capped)


def _tune(search: _Search, on_progress: Report, scratch: Path, resources: Resources) -> None:
    # Tune tells of interrupted and failed trials in words that lead astray here (Tuner.restore); the rows tell it.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    tune.run(
        Trial,
        name="tune",
        storage_path=str(scratch),
        search_alg=search,
        stop=search.stopper,
        scheduler=_Withdrawals(search),
        callbacks=[_Watch(search, on_progress)],
        num_samples=-1,
        # The search asks for less where the machines hold less; without a number Tune lets one trial wait at a time.
        max_concurrent_trials=resources.max_concurrent_trials,
        # An interrupted trial is asked for anew: it may get other hardware then.
        max_failures=0,
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
        meter: Meter,
        share: Share,
    ) -> None:
        super().__init__()
        self.meter = meter
        self._share = share
        self.agenda = Agenda(studies)
        self._prepared, self._store, self._resources, self._train = prepared, store, resources, train
        rows, _ = store.read_table(("trial_id", "spec", *FACTS))
        # All at once: what fits nowhere is refused before anything is trained.
        loads = {study.key: load_of(study, prepared) for study in studies}
        self._fleet = Fleet(loads, resources, machines, resumed=len(rows) > 0)
        self.tracker = Tracker(studies, self._fleet.num_slots)
        self.stopper = Stopper()
        self._turns = Turns()
        self._deaths = Deaths()
        self._asked: dict[str, tuple[Study, Assignment]] = {}
        self._begun: dict[str, Any] = {}
        """Tune's trials by its ids, those that have a process."""
        self._nodes: dict[str, str] = {}
        self._explained: set[str] = set()
        self._num_looked = 0
        for row in rows.select(["spec", *FACTS]).to_pylist():
            loss = math.nan if row["loss"] is None else row["loss"]
            facts = (row["booked_flops"], row["seconds"], row["device_seconds"])
            self._take(TrialSpec.from_json(row["spec"]), row["state"], loss, checked_losses(row["checked"]), *facts)
        self.tracker.rules_out(self.agenda.ruled_out)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self._fleet.look()
        num_slots = self._fleet.num_slots
        if self._asked and not self._share.take(len(self._asked), num_slots):
            return None
        # Twice the slots: when a trial ends, the next one waits already and takes over its process.
        if self.stopper.looks_at(self.meter) or len(self._asked) >= 2 * num_slots:
            return None
        running = {(study.key, assignment.spec.number) for study, assignment in self._asked.values()}
        for study, number in self.agenda.ready(running):
            placement = self._fleet.placement(study.key)
            if self._turns.may_ask(size_of(placement), self._fleet.smallest, self._can_fit):
                assignment = self._assignment(self.agenda.trial(study, number), placement)
                self._asked[trial_id] = study, assignment
                self._turns.asks(trial_id, size_of(placement))
                return {"assignment": assignment}
        # One that runs may yet be interrupted and be asked for again.
        return None if self._asked else Searcher.FINISHED

    def _can_fit(self, trial_id: str) -> bool:
        return self._fleet.has_room(self._asked[trial_id][1].placement)

    def begins(self, trial: Any) -> None:
        """Tune's ``trial`` has a process."""
        self._begun[trial.trial_id] = trial
        self._turns.begins(trial.trial_id)
        assignment: Assignment = trial.config["assignment"]
        self.tracker.starts(assignment.spec)
        self.meter.starts(assignment.spec.trial_id, assignment.placement.num_devices)

    def is_outdated(self, trial_id: str) -> bool:
        """Whether a trial that waits would get other hardware if asked for now: what it waits for may be gone."""
        if trial_id not in self._asked or trial_id in self._begun:
            return False
        study, assignment = self._asked[trial_id]
        placement = self._fleet.placement(study.key)
        return (placement, self._fleet.layout(placement)) != (assignment.placement, assignment.layout)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        _, assignment = self._asked[trial_id]
        self._nodes[trial_id] = result.get("node", "")
        if result.get("explained"):
            self._explained.add(trial_id)
        if "spent_flops" in result:
            reached = Reached(
                clock=result["clock"],
                spent_flops=result["spent_flops"],
                tokens=result["tokens"],
                loss=result["train_loss"],
                peak_flops=result["peak_flops"],
            )
            self.tracker.reports(assignment.spec, reached)
            self._deaths.reaches(assignment.spec.trial_id, result["spent_flops"])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        _, assignment = self._asked.pop(trial_id)
        self._turns.begins(trial_id)
        self.stopper.halted = self.stopper.halted or (result or {}).get("halt", "")
        begun = self._begun.pop(trial_id, None)
        node = self._nodes.pop(trial_id, "")
        try:
            if error:
                if trial_id not in self._explained:
                    self._deaths.dies(assignment.spec.trial_id, node, str(begun.get_error()) if begun else "")
                    self._bury(assignment)
                self._fleet.look(now=True)
            self._look(assignment.spec)
            self.tracker.rules_out(self.agenda.ruled_out)
        except StoreError as broken:
            # Tune would wrap it into an error of its own.
            self.stopper.halted = str(broken)
        self._explained.discard(trial_id)

    def look_again(self) -> None:
        """Take the rows of trials that ended while Tune was stopping."""
        for _, assignment in self._asked.values():
            self._look(assignment.spec)

    def note_unrecorded(self) -> None:
        """Keep the device time of trials without a row where the next driver finds it."""
        try:
            self._store.write_unrecorded(self.meter.unrecorded)
        except StoreError as broken:
            self.stopper.halted = str(broken)

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
            layout=self._fleet.layout(placement),
            files=TrialFiles(
                tokens=model.tokens,
                model=model.path,
                checkpoints=str(self._store.checkpoints(spec.trial_id)),
                weights="" if self._resources.keep_weights == "none" else str(self._store.weights(spec.trial_id)),
            ),
            store=self._store.root,
            max_attempts=self._resources.max_attempts,
            keep_weights=self._resources.keep_weights,
            tracking=self._resources.tracking,
            train=self._train,
        )

    def _bury(self, assignment: Assignment) -> None:
        """Record a trial whose process died too often as FAILED, unless it came further each time."""
        trial_id = assignment.spec.trial_id
        if (reason := self._deaths.verdict(trial_id, alive())) and not self._store.has(trial_id):
            self._store.record(failed(assignment, reason, here=False))

    def _look(self, spec: TrialSpec) -> None:
        self.tracker.stops(spec)
        self.meter.stops(spec.trial_id)
        if self._store.has(spec.trial_id):
            self._deaths.forget(spec.trial_id)
            self._num_looked += 1
            if self._num_looked % COMPACT_EVERY == 0:
                self._store.read_table(("trial_id",), strict=False)  # copies what is new into a compact file
            row = self._store.read_trial(spec.trial_id)
            loss, seconds = row.metrics.loss if row.metrics else math.nan, row.spending.seconds
            device_seconds = seconds * row.placement.num_devices
            checked = {one.share: one.loss for one in row.checked}
            self._take(spec, row.state, loss, checked, row.spending.booked_flops, seconds, device_seconds)

    def _take(
        self,
        spec: TrialSpec,
        state: str,
        loss: float,
        checked: Mapping[float, float],
        booked_flops: int,
        seconds: float,
        device_seconds: float,
    ) -> None:
        self.meter.records(spec.trial_id, float(device_seconds))
        loss_or_none = None if math.isnan(loss) else float(loss)
        ended = Finished(spec=spec, state=TrialState(state), loss=loss_or_none, checked=checked)
        self.agenda.tell(ended)
        self.tracker.records(ended, booked_flops=int(booked_flops), seconds=float(seconds))


class _Watch(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells the search what starts, and the person how far the sweep is."""

    def __init__(self, search: _Search, on_progress: Report) -> None:
        self._search, self._on_progress = search, on_progress
        self._told = self._noted = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.begins(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._on_progress(self._search.tracker.snapshot())
            self._search.stopper.looks_at(self._search.meter)
            self._told = time.monotonic()
        if time.monotonic() - self._noted >= METER_SECONDS:
            self._search.note_unrecorded()
            self._noted = time.monotonic()


class _Withdrawals(FIFOScheduler):  # type: ignore[misc]  # Ray ships no types
    """Takes back trials that wait for hardware that has been lost; they are asked for anew."""

    def __init__(self, search: _Search) -> None:
        super().__init__()
        self._search = search

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for trial in list(tune_controller.get_live_trials()):
            if self._search.is_outdated(trial.trial_id):
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


@contextmanager
def _scratch(store: Root) -> Iterator[Path]:
    """A folder for what Tune insists to write; a driver that was killed has left its own, which goes as well."""
    if not isinstance(store, Path):
        with tempfile.TemporaryDirectory(prefix="isoflop-tune-") as here:
            yield Path(here)
        return
    folder = store / ".tune"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trial_id(trial: Any) -> str:
    return str(trial.config["assignment"].spec.trial_id)
