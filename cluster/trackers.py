"""A trial's curve for those who look at it elsewhere: TensorBoard always, Weights & Biases and MLflow where asked for.

Knows these tools' files and clients, each imported only where it is used, and what of a trial they get: at most
``MOST_POINTS`` points, the hyperparameters, and how it ended. The store's own curve has every step. The trainer knows
none of this, and a tool that fails never costs a trial: it is told in the process's log and left out from there.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sweeps.spec import TrackerName
from sweeps.store import Root, Store
from trainer.result import CurvePoint, TrialResult
from trainer.trial import TrialSpec

MOST_POINTS = 500
INSTALL: Mapping[TrackerName, str] = {"wandb": "pip install wandb", "mlflow": "pip install mlflow"}
log = logging.getLogger(__name__)


class Tracker(Protocol):
    """One tool's view of one trial. ``first_step`` is that of the first point since this process took up the trial."""

    def begins(self, first_step: int) -> None: ...
    def reaches(self, step: int, values: Mapping[str, float]) -> None: ...
    def ends(self, step: int, result: TrialResult) -> None: ...
    def closes(self) -> None: ...


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise ``ValueError`` for a tool that the spec asks for and this Python does not have."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"resources.tracking has {name!r}, which is not installed here: {INSTALL[name]} on every machine, or "
                "leave it out"
            )


@contextmanager
def tracking(store: Store, spec: TrialSpec, names: Sequence[TrackerName]) -> Iterator[Tracking]:
    """The trial's trackers, closed at the end in whatever way the trial ends."""
    makers: list[Callable[[], Tracker]] = [partial(_TensorBoard, store.events(spec.trial_id), spec)]
    kinds: dict[TrackerName, type[_WandB] | type[_MLflow]] = {"wandb": _WandB, "mlflow": _MLflow}
    makers += [partial(kinds[name], store.spec.name, spec) for name in names]
    tracked = Tracking(spec, makers)
    try:
        yield tracked
    finally:
        tracked.closes()


class Tracking:
    """Hands a trial's points and its end to all trackers."""

    def __init__(self, spec: TrialSpec, makers: Sequence[Callable[[], Tracker]]) -> None:
        self._spec, self._id = spec, spec.trial_id
        # Before the first step: what takes a second to import is no time of the training.
        self._trackers = [maker() for maker in makers]
        self._is_open = False
        self._last: CurvePoint | None = None
        self._next_share = 0.0

    def before(self, report: Callable[[CurvePoint], None]) -> Callable[[CurvePoint], None]:
        """``report`` with the trackers told first: it may raise to stop the trial."""

        def tell(point: CurvePoint) -> None:
            self._point(point)
            report(point)

        return tell

    def ends(self, result: TrialResult) -> None:
        if last := self._last:
            self._each("is told the end", lambda tracker: tracker.ends(last.step, result))

    def closes(self) -> None:
        if self._is_open:
            self._each("is closed", lambda tracker: tracker.closes())

    def _point(self, point: CurvePoint) -> None:
        self._last = point
        if not self._is_open:
            self._is_open = True
            self._each("was opened", lambda tracker: tracker.begins(point.step))
        share = point.spent_flops / self._spec.budget_flops
        if share >= self._next_share:
            self._next_share = share + 1 / MOST_POINTS
            values = {f"train/{name}": value for name, value in _values(point).items()} | {"train/share": share}
            self._each("was told a point", lambda tracker: tracker.reaches(point.step, values))

    def _each(self, what: str, tell: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                tell(tracker)
            except Exception as error:  # a tool beside the road: its outage is told, and costs no training
                log.warning("trial %s goes on without a tracker that failed as it %s: %s", self._id, what, error)
                self._trackers.remove(tracker)


class _TensorBoard:
    """Event files in the store; a process that takes up a trial begins a new one, which replaces what it repeats.

    An object cannot be added to: on object storage they appear when the process leaves the trial.
    """

    def __init__(self, folder: Root, spec: TrialSpec) -> None:
        import tensorboardX

        self._folder, self._spec, self._library = folder, spec, tensorboardX

    def begins(self, first_step: int) -> None:
        again = {"purge_step": first_step} if first_step > 1 else {}
        # Its own file names differ by the second and the host alone.
        own = f".{uuid.uuid4().hex[:8]}"
        here = self._folder if isinstance(self._folder, Path) else tempfile.mkdtemp(prefix="isoflop-events-")
        self._writer = self._library.SummaryWriter(str(here), flush_secs=10, filename_suffix=own, **again)

    def reaches(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def ends(self, step: int, result: TrialResult) -> None:
        final = _final(result)
        self.reaches(step, final)
        for summary in self._library.summary.hparams(hyperparameters(self._spec), final):
            self._writer.file_writer.add_summary(summary)

    def closes(self) -> None:
        self._writer.close()
        if not isinstance(self._folder, Path):
            written = Path(self._writer.logdir)
            for file in written.iterdir():
                (self._folder / file.name).upload(file)
            shutil.rmtree(written)


class _WandB:
    """A run in the project of the sweep's name, with the trial's id: taken up again by whoever goes on with it."""

    def __init__(self, sweep: str, spec: TrialSpec) -> None:
        import wandb

        self._sweep, self._spec, self._library = sweep, spec, wandb

    def begins(self, first_step: int) -> None:
        """Points that are repeated are passed over by the server, which knows their step."""
        self._run = self._library.init(
            project=self._sweep,
            id=self._spec.trial_id,
            name=self._spec.trial_id,
            group=self._spec.method.label,
            config=hyperparameters(self._spec),
            resume="allow",
            reinit="create_new",
            settings=self._library.Settings(silent=True),
        )

    def reaches(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def ends(self, step: int, result: TrialResult) -> None:
        self._run.summary.update({**_final(result), "state": result.state.value, "error": result.error})

    def closes(self) -> None:
        self._run.finish()


class _MLflow:
    """A run in the experiment of the sweep's name, found again by its tag ``trial_id``."""

    def __init__(self, sweep: str, spec: TrialSpec) -> None:
        from mlflow import MlflowClient

        self._sweep, self._spec, self._client = sweep, spec, MlflowClient()

    def begins(self, first_step: int) -> None:
        """Points that are repeated stand beside the first ones, with the same step."""
        trial_id = self._spec.trial_id
        found = self._client.get_experiment_by_name(self._sweep)
        experiment = found.experiment_id if found else self._client.create_experiment(self._sweep)
        runs = self._client.search_runs([experiment], f"tags.trial_id = '{trial_id}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            return
        self._run = self._client.create_run(experiment, run_name=trial_id, tags={"trial_id": trial_id}).info.run_id
        for name, value in hyperparameters(self._spec).items():
            self._client.log_param(self._run, name, value)

    def reaches(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def ends(self, step: int, result: TrialResult) -> None:
        self.reaches(step, _final(result))
        self._client.set_tag(self._run, "state", result.state.value)
        self._client.set_terminated(self._run, "FINISHED" if result.metrics else "FAILED")

    def closes(self) -> None:
        """Nothing is held open."""


def hyperparameters(spec: TrialSpec) -> dict[str, Any]:
    """What tells trials apart, as plain values."""
    own = {
        "model": spec.model,
        "method": spec.method.label,
        "budget_flops": float(spec.budget_flops),
        "seed": spec.seed,
    }
    return {**own, "number": spec.number, **asdict(spec.hyperparameters)}


def _values(point: CurvePoint) -> dict[str, float]:
    return {"loss": point.train_loss, "learning_rate": point.learning_rate, "gradient_norm": point.gradient_norm}


def _final(result: TrialResult) -> dict[str, float]:
    held_out = {f"heldout/{name}": value for name, value in asdict(result.metrics).items()} if result.metrics else {}
    return {**held_out, **({} if result.mfu is None else {"train/mfu": result.mfu})}
