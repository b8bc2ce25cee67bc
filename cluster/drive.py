"""A sweep from its spec to its report, on this machine: prepare, run what has no row, say what it means.

Knows the order of these, and how a person stops it. Never knows how trials are scheduled.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cluster import tables
from cluster.answers import asked_plan, plan_of, prepare_for, prepared_of, recommendations, say, tell, write_report_of
from cluster.driver import announce, driving
from cluster.status import SweepStatus, read_status
from cluster.view import watching
from sweeps.plan import studies
from sweeps.spec import SweepSpec
from sweeps.store import Store
from trainer.prepare import Prepared, default_cache, is_there


def drive(spec: SweepSpec, root: Path, console: Console) -> None:
    """Prepare, run what has no row, report. Ends the process with status 1 where a trial failed."""
    if (root / "sweep.yaml").exists() and Store.open(root).spec.hash != spec.hash:
        Store.open(root).refuse_another(spec)  # before minutes of preparation
    prepared = _begun(root, spec) or prepare_for(spec, console)
    planned = plan_of(spec, prepared)
    shapes = {name: model.shape for name, model in prepared.models.items()}
    revisions = {name: model.revision for name, model in prepared.models.items()}
    all_studies = studies(spec, planned, data=prepared.manifest.hash, revisions=revisions, shapes=shapes)
    store = Store.create(root.resolve(), spec, prepared.to_json())
    console.print(tables.plan_summary(spec.name, planned))
    with driving(store.root), _stoppable(store, console):
        if len(store.trial_ids()) < asked_plan(store).total.num_trials:
            # Ray takes seconds to load, and a sweep that is done does not need it.
            from cluster.local import local_ray
            from cluster.tune import run

            with local_ray(default_cache()) as ray:
                announce(store.root, ray.dashboard)
                say(console, f"dashboard: {ray.dashboard} (its token: {ray.token_file})")
                with watching(console) as show:
                    outcome = run(all_studies, prepared, store, spec.resources, show)
            if outcome.stopped_by:
                name = outcome.stopped_by.name
                say(console, f"stopped by {name}, and nothing is lost: go on with 'isoflop resume {store.root}'")
                sys.exit(128 + outcome.stopped_by)
        _conclude(store, read_status(store, asked_plan(store)), console)


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


def _begun(root: Path, spec: SweepSpec) -> Prepared | None:
    """What a sweep with rows was begun with, where that is still there and has all models of ``spec``."""
    if not (root / "sweep.yaml").exists() or not Store.open(root).trial_ids():
        return None
    prepared = prepared_of(Store.open(root))
    return prepared if is_there(prepared) and prepared.models.keys() >= set(spec.models) else None
