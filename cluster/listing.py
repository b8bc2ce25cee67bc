"""Which sweeps there are: the jobs of a cluster, and the stores in a folder.

Knows how both are found and shown. Never changes anything, and loads no Ray unless a cluster is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.answers import asked_plan
from cluster.bounds import CAPPED_STATUS
from cluster.driver import is_driven
from cluster.reach import reached
from sweeps.store import Store, StoreError
from trainer.prepare import default_cache

if TYPE_CHECKING:
    from cluster.jobs import SweepJob


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedStore:
    """A store in a folder of stores."""

    sweep: str
    store: str
    num_rows: int
    num_trials: int
    state: str
    """``running``, ``done``, ``unfinished``, or what is wrong with it."""


def jobs_on(on: str) -> list[SweepJob]:
    """The jobs of the cluster that drive or drove sweeps, the oldest first.

    Raises ``ValueError`` where the target is no cluster that is up.
    """
    from cluster.jobs import connect, sweep_jobs

    with reached(on) as address:
        return sweep_jobs(connect(address, default_cache()))


def stores_in(root: Path) -> list[ListedStore]:
    """The stores right below ``root``, by name. Raises ``ValueError`` where there is no such folder."""
    if not root.is_dir():
        raise ValueError(f"--root is {str(root)!r}, which is no folder: give one that holds stores")
    return [_listed(path.parent) for path in sorted(root.glob("*/sweep.yaml"))]


def record(jobs: Sequence[SweepJob] | None, stores: Sequence[ListedStore] | None) -> dict[str, Any]:
    """For JSON; what was not asked for is absent."""
    asked = {"jobs": jobs, "stores": stores}
    return {name: [asdict(entry) for entry in found] for name, found in asked.items() if found is not None}


def view(jobs: Sequence[SweepJob] | None, stores: Sequence[ListedStore] | None) -> RenderableType:
    """Tables for a terminal."""
    parts: list[RenderableType] = []
    if jobs is not None:
        table = _table("job", "sweep", "trials", "state", "since", "store")
        for job in jobs:
            trials = job.progress.partition(" trials")[0]
            table.add_row(job.job_id, job.sweep, trials, state_of(job), _time(job.started_at), job.store)
        parts.append(table if jobs else Text("no sweep has been launched on this cluster"))
    if stores is not None:
        table = _table("sweep", "trials", "state", "store")
        for listed in stores:
            table.add_row(listed.sweep, f"{listed.num_rows} of {listed.num_trials}", listed.state, listed.store)
        parts.append(table if stores else Text("no stores here"))
    return Group(*parts)


def state_of(job: SweepJob) -> str:
    """What a job came to, in a word for a person."""
    if job.status == "FAILED":
        endings = {1: "done, with failed trials", 2: "refused", CAPPED_STATUS: "ended at its cap"}
        return endings.get(job.exit_status if job.exit_status is not None else -1, "died")
    return {"PENDING": "starting", "RUNNING": "running", "SUCCEEDED": "done", "STOPPED": "stopped"}[job.status]


def _listed(root: Path) -> ListedStore:
    try:
        store = Store.open(root)
        spec, num_rows = store.spec, len(store.trial_ids())
        num_trials = asked_plan(store).total.num_trials
    except StoreError as error:
        return ListedStore(sweep=root.name, store=str(root), num_rows=0, num_trials=0, state=str(error))
    state = "running" if is_driven(root) else "done" if num_rows >= num_trials else "unfinished"
    return ListedStore(sweep=spec.name, store=str(root), num_rows=num_rows, num_trials=num_trials, state=state)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else ""


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table
