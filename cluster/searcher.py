"""What Tune asks for trials: the agenda's next one, where and when it may run, and what became of it.

Knows which rows the store has, on which hardware a trial is asked for, whose turn it is, and which deaths of a trial's
process need another start. Tune's word is only a hint: a trial has ended when it has a row. Never knows how Tune is run
(``cluster/tune.py``), how a trial trains, or how hyperparameters are suggested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from cluster.actor import Assignment, failed
from cluster.deaths import Deaths
from cluster.fleet import Fleet, load_of
from cluster.meter import Meter
from cluster.nodes import alive, machines
from cluster.placement import size_of
from cluster.progress import Reached, Tracker
from cluster.share import Share
from cluster.stopper import Stopper
from cluster.turns import Turns
from sweeps.agenda import Agenda
from sweeps.columns import checked_losses
from sweeps.plan import Study
from sweeps.search import Finished
from sweeps.spec import Resources
from sweeps.store import Store, StoreError
from trainer.prepare import Prepared
from trainer.result import TrialState
from trainer.trial import Placement, TrialFiles, TrialSpec

COMPACT_EVERY = 256
"""New rows after which they are copied into a compact file: whoever looks at the store reads no more of them one by
one."""
FACTS = ("state", "loss", "checked", "booked_flops", "seconds", "device_seconds")
"""What progress needs of a row, beside its spec."""


class StoreSearcher(Searcher):  # type: ignore[misc]  # Ray ships no types
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
        """Keep the device time that no row tells where the next driver finds it."""
        try:
            self._store.write_unrecorded(self.meter.to_keep)
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
