"""A sweep on a cluster that is up, from one command: attached to or submitted, followed, started again when it dies.

Knows in which order these happen and what a person is told. Never knows how a cluster was brought up, or what a driver
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from cluster.answers import say
from cluster.jobs import ENTRY, Client, SweepJob, follow, live_job, submit
from cluster.keep import DIED, FINAL
from cluster.order import PACKAGES, Order
from sweeps.spec import SweepSpec

STOPPED_STATUS = 143
"""Exit status of a sweep that someone stopped: 128 and SIGTERM."""
MAX_RESTARTS = 3
"""Of a job, in the life of one launcher. A driver that dies alone is started again inside its job (``keep.py``)."""
LINES_OF_THE_PAST = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a job is sent, and what a person types to reach it again."""

    on: str
    """As the command line took it."""
    names: Sequence[str] = ()
    """Variables of this environment that go along."""
    python: str = "python"
    entry: str = ENTRY
    packages: Sequence[str] = PACKAGES


def launch_on(client: Client, spec: SweepSpec, order: Order, way: Way, *, detach: bool, console: Console) -> int | None:
    """See that one job drives the sweep, and follow it unless ``detach``; the exit status for the command line.

    ``None`` where the sweep goes on without a follower. A job that dies is started again, ``MAX_RESTARTS`` times at
    most, each as an attempt of its own. Ctrl-C leaves the job alone. Raises ``ValueError`` where another sweep fills
    the store.
    """
    job, past = live_job(client, order.store), ""
    if job is None:
        job = _submit(client, spec, order, way)
        say(console, f"submitted: job {job.job_id}")
    else:
        _refuse_another(job, spec)
        say(console, f"already at work: job {job.job_id}")
        past = client.get_job_logs(job.job_id)
    say(console, f"dashboard: {client.get_address()}")
    if detach:
        say(console, _ways_back(spec, way))
        return None
    _write(console, "".join(past.splitlines(keepends=True)[-LINES_OF_THE_PAST:]))
    try:
        return _follow(client, spec, order, way, job, len(past), console)
    except KeyboardInterrupt:
        say(console, f"\ndetached, and the sweep goes on; {_ways_back(spec, way)}")
        return None


def _submit(client: Client, spec: SweepSpec, order: Order, way: Way) -> SweepJob:
    return submit(client, spec, order, names=way.names, python=way.python, entry=way.entry, packages=way.packages)


def _follow(client: Client, spec: SweepSpec, order: Order, way: Way, job: SweepJob, skip: int, console: Console) -> int:
    for restart in range(MAX_RESTARTS + 1):
        ended = follow(client, job.job_id, partial(_write, console), skip=skip)
        if ended and ended.status == "STOPPED":
            say(console, f"job {ended.job_id} was stopped; nothing is lost: the same command goes on")
            return STOPPED_STATUS
        if ended and ended.status == "SUCCEEDED":
            return 0
        if ended and ended.exit_status is not None and ended.exit_status in {*FINAL, DIED}:
            return ended.exit_status
        reason = _reason(ended) if ended else "the head was started again and does not know it"
        if restart < MAX_RESTARTS:
            job, skip = live_job(client, order.store) or _submit(client, spec, order, way), 0
            say(console, f"the job died ({reason}); started again: job {job.job_id}")
    say(console, f"{MAX_RESTARTS + 1} jobs died, the last one with: {reason}")
    return DIED


def _refuse_another(job: SweepJob, spec: SweepSpec) -> None:
    if job.spec != spec.hash:
        raise ValueError(
            f"store {job.store} is being filled by job {job.job_id} of another spec: give another --store, or stop "
            "that job first"
        )


def _ways_back(spec: SweepSpec, way: Way) -> str:
    return (
        "follow it with the same command, stop it with "
        f"'isoflop stop {spec.name} --on {way.on}', see it with 'isoflop list --on {way.on}'"
    )


def _reason(job: SweepJob) -> str:
    """In one line: the log has been shown."""
    if job.exit_status is not None:
        return f"exit status {job.exit_status}"
    return next(iter(job.message.splitlines()), "Ray gives no reason")


def _write(console: Console, text: str) -> None:
    console.file.write(text)
    console.file.flush()
