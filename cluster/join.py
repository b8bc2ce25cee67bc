"""The Ray cluster that this process is a job of: joined, not started, and not stopped at the end.

Knows how a driver finds its cluster, what runs on it beside this sweep, and how machines are asked for that an
autoscaler has yet to start. Never knows a trial.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cluster.local import ENVIRONMENT
from cluster.share import SWEEP, Look, Sight, free_slots

LOOK_SECONDS = 2.0


@contextmanager
def joined_ray() -> Iterator[str]:
    """Connect to the cluster whose job this process is; the web address of its dashboard, as the head sees it.

    Call before anything else imports ray.
    """
    # The token is the node's own: Ray has handed it down.
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")})
    import ray

    context = ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level="error")
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def wait_for_machines(wanted: Mapping[str, float], wait_seconds: float, say: Callable[[str], None]) -> None:
    """Ask an autoscaler for a machine with room for what one trial wants, and wait for it.

    Returns when there is one, or when the time is over: what is missing then is said by the placement. Where no
    autoscaler listens the request has no effect.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    bundle = {kind: amount for kind, amount in wanted.items() if amount}
    if not wait_seconds or free_slots(ray.cluster_resources(), bundle):
        return
    words = " and ".join(f"{amount:g} {kind}s" for kind, amount in bundle.items())
    say(f"waiting for a machine with {words}, {wait_seconds / 60:g} minutes at most")
    request_resources(bundles=[bundle])
    deadline = time.monotonic() + wait_seconds
    while not free_slots(ray.cluster_resources(), bundle) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    # Trials ask for themselves from here on, and the machine may go when it is idle.
    request_resources(bundles=[])


def sweeps_beside(wanted: Mapping[str, float]) -> Look:
    """A look at how many sweeps run on this cluster, this one among them, and how many of its trials have room."""
    import ray
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient()

    def look() -> Sight:
        num_sweeps = sum(
            job.status is JobStatus.RUNNING and SWEEP in (job.metadata or {}) for job in client.list_jobs()
        )
        return Sight(num_sweeps=max(1, num_sweeps), num_free=free_slots(ray.available_resources(), wanted))

    return look
