"""A sweep from its spec to its report: prepare, run what has no row, say what it means.

Knows the order of these, and how a person or a cap stops it. Never knows how trials are scheduled, or whose Ray it is.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rich.console import Console

from cluster import plan_tables
from cluster.answers import asked_plan, plan_of, prepare_for, prepared_of, recommendations, say, tell, write_report_of
from cluster.bounds import CAPPED_STATUS, Bounds
from cluster.driver import announce, driving
from cluster.evaluation import score_kept
from cluster.share import Share
from cluster.status import SweepStatus, read_status
from cluster.target import tunnel
from cluster.view import watching
from sweeps.plan import studies
from sweeps.spec import SweepSpec
from sweeps.store import Root, Store
from trainer.prepare import Prepared, default_cache, is_there
from trainer.tasks import task_names


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """A Ray that is up, for one sweep or several."""

    dashboard: str
    """Web address; empty where there is none."""
    share: Share
    """What other sweeps on it leave to this one."""


GroundOf = Callable[[SweepSpec, Console], AbstractContextManager[Ground]]
Prepare = Callable[[SweepSpec, Console], Prepared]
TRAIN = "trainer.loop:train"


@contextmanager
def own_ground(spec: SweepSpec, console: Console) -> Iterator[Ground]:
    """A Ray on this machine, gone at the end."""
    # Ray takes seconds to load, and a sweep that is done does not need it.
    from cluster.local import local_ray

    with local_ray(default_cache()) as ray:
        say(console, f"dashboard: {ray.dashboard} (its token: {ray.token_file})")
        if ray.dashboard:
            say(console, f"from another machine: {tunnel(ray.dashboard, socket.gethostname())}")
        yield Ground(dashboard=ray.dashboard, share=Share())


def drive(
    spec: SweepSpec,
    root: Root,
    console: Console,
    *,
    bounds: Bounds | None = None,
    ground_of: GroundOf = own_ground,
    prepare: Prepare = prepare_for,
    train: str = TRAIN,
) -> None:
    """Prepare, run what has no row, report.

    Ends the process with status 1 where a trial failed, 3 where a cap of ``bounds`` is reached, and 128 and the signal
    where a person stopped it. ``prepare`` and ``train`` are what a sweep is prepared and trained with.
    """
    task_names(spec.tasks)  # what is misspelled comes before what takes minutes
    if (root / "sweep.yaml").exists() and Store.open(root).spec.hash != spec.hash:
        Store.open(root).refuse_another(spec)  # before minutes of preparation
    prepared = _begun(root, spec) or prepare(spec, console)
    planned = plan_of(spec, prepared)
    shapes = {name: model.shape for name, model in prepared.models.items()}
    revisions = {name: model.revision for name, model in prepared.models.items()}
    all_studies = studies(spec, planned, data=prepared.manifest.hash, revisions=revisions, shapes=shapes)
    store = Store.create(root.resolve(), spec, prepared.to_json())
    console.print(plan_tables.plan_summary(spec.name, planned))
    with driving(store.root), _stoppable(store, console):
        if len(store.trial_ids()) < asked_plan(store).total.num_trials:
            with ground_of(spec, console) as ground:
                from cluster.tune import run  # imports Ray, which reads its settings then

                announce(store.root, ground.dashboard)
                with watching(console) as show:
                    outcome = run(
                        all_studies,
                        prepared,
                        store,
                        spec.resources,
                        show,
                        bounds=bounds or Bounds(),
                        share=ground.share,
                        train=train,
                    )
            if outcome.capped:
                say(console, f"ended: {outcome.capped}; every row is kept, and a launch with a higher cap goes on")
                sys.exit(CAPPED_STATUS)
            if outcome.stopped_by:
                name = outcome.stopped_by.name
                say(console, f"stopped by {name}, and nothing is lost: go on with 'isoflop resume {store.root}'")
                sys.exit(128 + outcome.stopped_by)
        has_scores = not spec.tasks or score_kept(store, spec.tasks, console, lambda: ground_of(spec, console))
        _conclude(store, read_status(store, asked_plan(store)), console)
        if not has_scores:
            sys.exit(1)


@contextmanager
def _stoppable(store: Store, console: Console) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process cleanly here too, before and after trials run, and say how to go on."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    except KeyboardInterrupt:
        say(console, f"stopped, and nothing is lost: go on with 'isoflop resume {store.root}'")
        sys.exit(128 + signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(store: Store, found: SweepStatus, console: Console) -> None:
    """Say what the sweep found and write its report. Ends the process with status 1 where a trial failed."""
    if found.failures:
        say(console, f"{len(found.failures)} of {found.num_trials} trials failed: isoflop status {store.root}")
    measured = [group.budget_flops for group in found.groups if group.best_loss is not None]
    for answer in recommendations(store, [max(measured), 2 * max(measured)]) if measured else ():
        console.print()
        tell(console, answer.sentences())
    if not measured:
        say(console, "no trial is complete, so nothing can be recommended")
    say(console, f"\nreport: {write_report_of(store, None)}")
    if found.failures or not measured:
        sys.exit(1)


def _begun(root: Root, spec: SweepSpec) -> Prepared | None:
    """What a sweep with rows was begun with, where that is still there and has all models of ``spec``."""
    if not (root / "sweep.yaml").exists() or not Store.open(root).trial_ids():
        return None
    prepared = prepared_of(Store.open(root))
    return prepared if is_there(prepared) and prepared.models.keys() >= set(spec.models) else None
