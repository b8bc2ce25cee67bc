"""One trial on one Ray actor: from an assignment to exactly one row in the store.

Knows how a trial may end, and is the one place that turns an ending into a row: ``train`` returns COMPLETE and
DIVERGED results; an exception of its code is counted beside the trial's checkpoints and becomes a FAILED row after
``max_attempts``. The end of a process or of its machine is no ending: the driver asks for the trial again, and it goes
on from its last checkpoint. A machine that drains is left in time. Never knows other trials, or who suggested this one.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.carry import carried
from cluster.gang import Gang
from cluster.nodes import MachineLostError, leaving, own_node
from cluster.placement import Layout
from cluster.trackers import tracking
from sweeps.spec import KeepWeights, TrackerName
from sweeps.store import Root, Store, StoreError
from sweeps.weights import drop_worse_weights
from trainer.devices import find_device
from trainer.ladder import ModelShape, parameter_counts
from trainer.result import CurvePoint, Spending, TrialResult, TrialState
from trainer.trial import Placement, Stopped, TrialFiles, TrialSpec

Train = Callable[..., TrialResult]

TRAIN = "trainer.loop:train"
BEGINS, LEAVES = "isoflop: this process begins", "isoflop: this process leaves"
REPORT_SECONDS = 1.0
LEAVING_SECONDS = 2.0
"""Between two looks at whether the trial's nodes drain."""
ERROR_LINES = 12
FULL_DISK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """All that a worker process needs to run one trial and to record its ending."""

    spec: TrialSpec
    shape: ModelShape
    placement: Placement
    files: TrialFiles
    store: Root
    max_attempts: int
    """Exceptions of the code after which the trial is FAILED."""
    layout: Layout = "PACK"
    """Where the bundles of several workers may be."""
    keep_weights: KeepWeights = "none"
    tracking: tuple[TrackerName, ...] = ()
    train: str = TRAIN
    """``module:function`` with the signature of ``trainer.loop.train``."""


class AttemptFailedError(Exception):
    """The trial's code failed, which is noted beside its checkpoints, and attempts are left."""


class Trial(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """The actor. Training has its own thread, so that it never waits for the driver; a step reports how far it is."""

    def __repr__(self) -> str:
        return str(self.config["assignment"].spec.trial_id)

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        assignment: Assignment = config["assignment"]
        placement = assignment.placement
        worker = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
        worker = {kind: amount for kind, amount in worker.items() if amount}
        if placement.num_workers == 1:
            return tune.PlacementGroupFactory([worker])
        # The empty bundle is the trial's own: it only listens to its workers.
        return tune.PlacementGroupFactory([{}, *[worker] * placement.num_workers], strategy=assignment.layout)

    def setup(self, config: Mapping[str, Any]) -> None:
        self._assignment: Assignment = config["assignment"]
        self._point: tuple[float, CurvePoint] | None = None
        """The last step, and when it was done."""
        self._peak_flops: float | None = None
        self._error: Exception | None = None
        self._is_told = False
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._gang = Gang(self._assignment.spec.trial_id, self._assignment.files)
        self._node = own_node()
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=self._assignment.spec.trial_id, daemon=True)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if not self._thread.ident:
            # Not in setup: Tune also sets up actors that it throws away when another one becomes free for the trial.
            self._peak_flops = _peak_flops(self._assignment.placement)
            self._thread.start()
        ended = self._ended.wait(REPORT_SECONDS)
        if not ended and self._must_leave():
            self._stopping.set()
            self._ended.wait()
            # An error: Tune gives this process, which is on a node that goes, to no other trial then.
            self._error = self._error or MachineLostError("its node drains")
        result = {"done": ended, "node": self._node}
        if self._error is not None:
            if reason := reason_to_halt(self._error, self._assignment.store):
                return {"done": True, "halt": reason}
            if self._is_told or not isinstance(self._error, MachineLostError | AttemptFailedError):
                raise self._error
            # An error's type does not reach the driver: that it is no death of the process is told before.
            self._is_told = True
            return {**result, "done": False, "explained": True}
        if self._point is None:
            return result
        clock, point = self._point
        return {
            **result,
            "clock": clock,
            "spent_flops": point.spent_flops,
            "tokens": point.tokens,
            "train_loss": point.train_loss,
            "peak_flops": self._peak_flops,
        }

    def cleanup(self) -> None:
        self._stopping.set()
        if self._thread.ident:
            self._thread.join()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        raise AssertionError("trials keep their own checkpoints; Tune is never asked for one")

    def load_checkpoint(self, checkpoint: object) -> None:
        raise AssertionError("trials keep their own checkpoints; Tune is never asked for one")

    def _must_leave(self) -> bool:
        if time.monotonic() - self._looked < LEAVING_SECONDS:
            return False
        self._looked = time.monotonic()
        return not leaving().isdisjoint({self._node, *self._gang.nodes})

    def _work(self) -> None:
        trial_id = self._assignment.spec.trial_id
        # A process may serve many trials: its log is told apart by these lines.
        print(f"{BEGINS} {trial_id}", flush=True)
        try:
            run_trial(self._assignment, self._report, self._gang)
        except Stopped:
            pass
        except Exception as error:  # a thread's exception is lost otherwise; the next step raises it
            self._error = error
        finally:
            print(f"{LEAVES} {trial_id}", flush=True)
            self._ended.set()

    def _report(self, point: CurvePoint) -> None:
        self._point = time.monotonic(), point
        if self._stopping.is_set():
            raise Stopped


def _peak_flops(placement: Placement) -> float | None:
    """FLOPs a second that the trial's GPUs could do at most, by the name that Ray knows them by; ``None`` on CPUs."""
    if placement.device == "cpu":
        return None
    node_id = ray.get_runtime_context().get_node_id()
    [has] = [node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id]
    kinds = [kind.removeprefix("accelerator_type:") for kind in has if kind.startswith("accelerator_type:")]
    device = find_device(kinds[0]) if kinds else None
    peak = device.peak_flops(placement.dtype, tf32=placement.tf32) if device else None
    return peak * placement.num_workers if peak else None


def run_trial(assignment: Assignment, report: Callable[[CurvePoint], None], gang: Gang) -> None:
    """Run the trial to its row.

    Raises ``AttemptFailedError`` while attempts are left, ``MachineLostError`` where a machine of it goes, and what
    ``train`` raised where nothing can be written.

    Nothing is trained where the row exists already: a process that Ray had given up may have finished the trial.
    """
    store = Store.open(assignment.store)
    trial_id = assignment.spec.trial_id
    if not store.has(trial_id):
        with tracking(store, assignment.spec, assignment.tracking) as tracked:
            # Several workers fetch their checkpoints where they are; the attempts are noted here.
            with carried(assignment.files, name=trial_id, steps=assignment.placement.num_workers == 1) as files:
                result = _train(replace(assignment, files=files), tracked.before(report), gang)
            store.record(result)
            tracked.ends(result)
    store.remove_checkpoints(trial_id)
    if assignment.keep_weights == "best":
        drop_worse_weights(store)


def _train(assignment: Assignment, report: Callable[[CurvePoint], None], gang: Gang) -> TrialResult:
    last: CurvePoint | None = None

    def keep(point: CurvePoint) -> None:
        nonlocal last
        last = point
        report(point)

    train = resolve(assignment.train)
    if assignment.placement.num_workers > 1:
        train = partial(train, together=gang.train)
    try:
        return train(assignment.spec, assignment.placement, assignment.files, keep)
    except MachineLostError:
        raise
    except Exception as error:  # whatever the code raises is an ending of the trial: the one place that says so
        if reason_to_halt(error, assignment.store):
            raise
        attempts = _note_attempt(Path(assignment.files.checkpoints), error, last)
        if len(attempts) < assignment.max_attempts:
            raise AttemptFailedError(attempts[-1]["error"]) from None
        message = f"failed {len(attempts)} times, the last time with\n{attempts[-1]['error']}"
        return failed(assignment, message, max((attempt["spending"] for attempt in attempts), key=_booked))


def failed(
    assignment: Assignment, error: str, spending: Mapping[str, int] | None = None, *, here: bool = True
) -> TrialResult:
    """The row of a trial that cannot be finished, with what it had spent at the last point it reported.

    ``here`` says whether it ran on this machine: a driver has no device to ask for.
    """
    from trainer.environment import environment  # loads torch, which a driver needs for this row alone

    return TrialResult(
        spec=assignment.spec,
        state=TrialState.FAILED,
        metrics=None,
        spending=Spending(**(spending or {})),
        counts=parameter_counts(assignment.shape, assignment.spec.method),
        environment=environment(assignment.placement if here else None),
        placement=assignment.placement,
        epochs=0.0,
        train_loss=None,
        mfu=None,
        num_resumes=0,
        num_out_of_memory=0,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
        curve=(),
    )


def resolve(path: str) -> Train:
    """The function behind ``module:function``."""
    module, _, name = path.partition(":")
    train: Train = getattr(importlib.import_module(module), name)
    return train


def reason_to_halt(error: Exception, store: Root) -> str:
    """A sentence where every trial would fail as this one did, because nothing can be written; else nothing.

    Libraries turn ``ENOSPC`` into errors of their own, so the disk itself is asked too.
    """
    if isinstance(error, StoreError):
        return str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # What is on its way to object storage is on this machine's disk first.
    disk = store if isinstance(store, Path) else tempfile.gettempdir()
    if full or shutil.disk_usage(disk).free < FULL_DISK_BYTES:
        return (
            f"store {str(store)!r} has no room left on its disk: make room and launch again, what was recorded is kept "
            "and unfinished trials go on"
        )
    return ""


def _note_attempt(folder: Path, error: Exception, last: CurvePoint | None) -> list[dict[str, Any]]:
    """Note a failed attempt beside the trial's checkpoints, where it outlives this process; all attempts so far."""
    path = folder / "attempts.json"
    attempts: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    spending = {} if last is None else {"booked_flops": last.spent_flops, "tokens": last.tokens, "steps": last.step}
    attempts.append({"error": _last_lines(error), "spending": spending})
    folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".attempts.{os.getpid()}")
    fresh.write_text(json.dumps(attempts))
    fresh.replace(path)
    return attempts


def _booked(spending: Mapping[str, int]) -> int:
    return spending.get("booked_flops", 0)


def _last_lines(error: Exception) -> str:
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(lines[-ERROR_LINES:])
