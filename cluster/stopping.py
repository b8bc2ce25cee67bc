"""A sweep stopped from outside: a job on a cluster, or a driver on this machine.

Knows how each is found and asked to end. Never takes anything away: what runs writes its checkpoints first.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from cluster.driver import driver_of, is_driven
from cluster.reach import reached
from cluster.target import RayAddress
from trainer.prepare import default_cache

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.2


def stop(which: str, on: str | None) -> str:
    """Stop the sweep of this name, store or job id; what a person is told.

    Raises ``ValueError`` where there is not exactly one, and where it does not end.
    """
    if not on:
        return _stop_here(which)
    with reached(on) as address:
        return _stop_job(which, address)


def _stop_job(which: str, address: RayAddress) -> str:
    from cluster.jobs import connect, stop_job, sweep_jobs

    client = connect(address, default_cache())
    live = [job for job in sweep_jobs(client) if job.is_live]
    found = [job for job in live if which in (job.sweep, job.store, job.job_id)]
    if len(found) != 1:
        words = ", ".join(f"{job.job_id} ({job.store})" for job in found or live) or "none"
        problem = "names several jobs" if found else "names no job that runs"
        raise ValueError(f"{which!r} {problem}: give one job's id; those that run are {words}")
    ended = stop_job(client, found[0])
    if ended.is_live:
        raise ValueError(
            f"job {ended.job_id} is still {ended.status.lower()}: look with 'isoflop list', and stop again"
        )
    return f"stopped: job {ended.job_id}; nothing is lost, and a launch with the same store goes on"


def _stop_here(which: str) -> str:
    store = next((path for path in (Path(which), Path("stores") / which) if (path / "sweep.yaml").exists()), None)
    if store is None:
        raise ValueError(
            f"{which!r} is no store, and no sweep in ./stores: give a store's folder, or --on for a cluster"
        )
    driver = driver_of(store)
    if driver is None:
        raise ValueError(
            f"{which!r} is not being filled by a process that this machine can see: give --on for a cluster"
        )
    if driver.host != socket.gethostname():
        raise ValueError(f"{which!r} is being filled on {driver.host}: stop it there, or give --on for a cluster")
    os.kill(driver.pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_driven(store):
        if time.monotonic() > deadline:
            raise ValueError(f"process {driver.pid} still fills {which!r}: wait, and stop it again")
        time.sleep(LOOK_SECONDS)
    return f"stopped: process {driver.pid}; nothing is lost: go on with 'isoflop resume {store}'"
