"""The sweep on Ray: one Tune run in the life of a driver, over all studies.

Knows how Tune is set up, what is told while it runs, and how it ends. The store is the only memory: Tune's own state is
scratch, and launching again is how a sweep is resumed. Never knows how a trial trains, which one is next
(``cluster/searcher.py``), or how progress is shown.
"""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler

from cluster.actor import TRAIN, Trial
from cluster.bounds import Bounds
from cluster.jobnote import JobNote
from cluster.live import Notes
from cluster.meter import Meter
from cluster.metrics import Gauges
from cluster.nodes import remove_leftovers
from cluster.progress import Report, SweepProgress
from cluster.searcher import StoreSearcher
from cluster.share import Share
from cluster.trackers import check_trackers
from sweeps.plan import Study
from sweeps.spec import Resources
from sweeps.store import Root, Store
from sweeps.weights import drop_worse_weights
from trainer.prepare import Prepared

PROGRESS_SECONDS = 0.5
METER_SECONDS = 30.0
"""Device time that a driver's death may leave uncounted."""

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

    search = StoreSearcher(studies, prepared, store, resources, train, Meter(bounds, store.read_unrecorded()), share)
    tell(search.tracker.snapshot())
    if search.agenda.remaining and not search.stopper.looks_at(search.meter):
        with _scratch(store.root) as scratch, search.stopper.on_signals():
            _tune(search, tell, scratch, resources)
        search.look_again()
        store.write_unrecorded(search.meter.to_keep)
    if search.stopper.halted:
        raise ValueError(search.stopper.halted)
    # A trial's process that was killed between its row and its tidying has left its checkpoints, and weights.
    store.remove_finished_checkpoints()
    if resources.keep_weights == "best":
        drop_worse_weights(store)
    progress = search.tracker.snapshot()
    tell(progress)
    stopper, is_done = search.stopper, not search.agenda.remaining
    assert stopper.signal or stopper.capped or is_done, "Tune ended before the sweep did"
    return Outcome(progress=progress, stopped_by=stopper.signal, capped="" if is_done else stopper.capped)


def _tune(search: StoreSearcher, on_progress: Report, scratch: Path, resources: Resources) -> None:
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


class _Watch(tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Tells the search what starts, and the person how far the sweep is."""

    def __init__(self, search: StoreSearcher, on_progress: Report) -> None:
        self._search, self._on_progress = search, on_progress
        self._told = self._noted = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.begins(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _forget_metrics(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _forget_metrics(trial)

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

    def __init__(self, search: StoreSearcher) -> None:
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


def _forget_metrics(trial: Any) -> None:
    """Tune keeps every trial that ended, and with it the means of each metric, which are most of what a trial holds."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()


def _trial_id(trial: Any) -> str:
    return str(trial.config["assignment"].spec.trial_id)
