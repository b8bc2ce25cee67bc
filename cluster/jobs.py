"""Sweeps as Ray jobs: found, submitted, followed, stopped and listed.

Knows Ray's job API, the metadata by which a sweep's jobs are known, and how a cluster that cannot be reached is told
to a person. Never knows what a driver does (``cluster/inside.py``).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.local import access_token
from cluster.order import PACKAGES, Order, job_environment, packed
from cluster.share import PROGRESS, SWEEP
from cluster.target import DASHBOARD, LOOPBACK, RayAddress, tunnel
from sweeps.spec import SweepSpec

STORE, SPEC, ATTEMPT = "isoflop_store", "isoflop_spec", "isoflop_attempt"
KEEPER, ENTRY = "cluster.keep", "cluster.inside"
"""Modules that a job runs: the driver, and what starts it again where it dies."""
LIVE = frozenset({"PENDING", "RUNNING"})
LOST_SECONDS = 60.0
"""How long a follower tries to reach a cluster that does not answer."""
RETRY_SECONDS = 1.0
READY_SECONDS = 60.0
"""How long a head that was just started may refuse jobs."""
STOP_PATIENCE_SECONDS = 45.0

Client = Any
"""``ray.job_submission.JobSubmissionClient``; Ray ships no types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepJob:
    """A job that drives, or drove, a sweep."""

    job_id: str
    sweep: str
    store: str
    spec: str
    """Hash of the spec."""
    attempt: int
    status: str
    """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
    exit_status: int | None
    """Of the driver, where it ended by itself."""
    message: str
    progress: str
    """How far the sweep was at its driver's last note, in words; empty before the first."""
    started_at: float
    """Seconds since 1970; 0 where it has not started."""
    ended_at: float | None

    @property
    def is_live(self) -> bool:
        return self.status in LIVE


def connect(target: RayAddress, cache: Path, *, patience_seconds: float = 0.0) -> Client:
    """A client of the cluster's jobs. Call before anything else imports ray.

    A head that was just started does not answer yet: ``patience_seconds`` is how long it is waited for. The token is
    the one of ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH``, else this person's own in ``cache``. Raises ``ValueError``
    where no Ray answers, and where it refuses the token.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(access_token(cache))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not target.is_here:
        # Ray prefers these to an address that it is given.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
    import logging

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for module in (
        "client_builder",
        "dashboard.modules.dashboard_sdk",
        "dashboard.modules.job.sdk",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return JobSubmissionClient(_dashboard_behind(target) if target.is_client else target.address)
        except AuthenticationError as error:
            raise ValueError(
                f"--on is {target.address!r}, which refuses this token: name the cluster's own token file (mode 0600) "
                "in RAY_AUTH_TOKEN_PATH"
            ) from error
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise _nobody_answers(target) from error
        time.sleep(RETRY_SECONDS)


def _nobody_answers(target: RayAddress) -> ValueError:
    mend = f"check that it is up, or open a tunnel with '{tunnel(DASHBOARD, 'HEAD')}' and give --on {DASHBOARD}"
    if target.is_client:
        mend = f"check the token (its file in RAY_AUTH_TOKEN_PATH), which it refuses without a word; {mend}"
    if target.is_here:
        mend = "start one with 'ray start --head', or leave --on out"
    return ValueError(f"--on is {target.address!r}, and no Ray answers there: {mend}")


def _dashboard_behind(target: RayAddress) -> str:
    """The web address of the dashboard of a Ray Client server's cluster, which takes the jobs.

    Raises ``ValueError`` where it is on the loopback of another machine, and ``OSError`` where no Ray answers: also
    where it refuses the token, which it does without a word.
    """
    with suppress(ConnectionAbortedError):
        # The head starts a process for each client, which has been seen to fail: the next one has another port.
        return _asked_for_dashboard(target)
    return _asked_for_dashboard(target)


def _asked_for_dashboard(target: RayAddress) -> str:
    import warnings

    import ray

    with warnings.catch_warnings():
        # That nobody answers is said in our own words.
        warnings.simplefilter("ignore")
        with ray.init(address=target.address, log_to_driver=False, logging_level="error") as context:
            dashboard = f"http://{context.dashboard_url}"
    if target.crosses_a_network and urlsplit(dashboard).hostname in LOOPBACK:
        raise ValueError(
            f"--on is {target.address!r}, whose dashboard takes the jobs and is on that machine's loopback: open a "
            f"tunnel with '{tunnel(dashboard, target.host)}' and give --on {dashboard}"
        )
    return dashboard


def sweep_jobs(client: Client) -> list[SweepJob]:
    """Every job of the cluster that drives or drove a sweep, the oldest first."""
    jobs = [_sweep_job(job) for job in client.list_jobs() if SWEEP in (job.metadata or {}) and job.submission_id]
    return sorted(jobs, key=lambda job: (job.started_at, job.attempt))


def live_job(client: Client, store: str) -> SweepJob | None:
    """The job that fills this store now."""
    return next((job for job in sweep_jobs(client) if job.store == store and job.is_live), None)


def submit(
    client: Client,
    spec: SweepSpec,
    order: Order,
    *,
    names: Sequence[str] = (),
    python: str = "python",
    entry: str = ENTRY,
    packages: Sequence[str] = PACKAGES,
) -> SweepJob:
    """Start a driver for the order as the next attempt of its store; its job, or the one that was faster.

    ``names`` are the variables of this environment that go along, ``python`` the interpreter on the head. The driver
    asks for no resources, so that Ray runs it on the head, which is no spot machine.
    """
    deadline = time.monotonic() + READY_SECONDS
    with packed(order, packages) as folder:
        runtime_env = {"working_dir": str(folder), "env_vars": job_environment(order, names)}
        while True:
            try:
                return job_of(
                    client, _submit(client, spec, order, runtime_env, shlex.join([python, "-m", KEEPER, entry]))
                )
            except RuntimeError:
                # Two launchers at once ask for the same id, and Ray gives it to one. A head that has just started
                # takes no jobs for a while.
                if faster := live_job(client, order.store):
                    return faster
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)


def job_of(client: Client, job_id: str) -> SweepJob:
    """The job as it is now."""
    return _sweep_job(client.get_job_info(job_id))


def follow(client: Client, job_id: str, write: Callable[[str], object], *, skip: int = 0) -> SweepJob | None:
    """Give ``write`` the job's log as it grows, without its first ``skip`` characters, until the job ends.

    ``None`` where the cluster does not know the job any more: a head that was started again remembers nothing. A
    connection that breaks is made again. Raises ``ValueError`` where the cluster stays away.
    """
    from aiohttp import ClientError

    seen, lost_since = 0, None

    def take(text: str) -> None:
        nonlocal seen
        new = text[max(0, skip - seen) :]
        seen += len(text)
        if new:
            write(new)

    async def tail() -> None:
        nonlocal skip, seen
        skip, seen = max(skip, seen), 0
        async for text in client.tail_job_logs(job_id):
            take(text)

    while True:
        try:
            asyncio.run(tail())
            job = job_of(client, job_id)
            if not job.is_live:
                return job
            lost_since = None
        except (OSError, RuntimeError, ClientError) as error:
            if _is_forgotten(client, job_id):
                return None
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_SECONDS:
                raise ValueError(
                    f"job {job_id} cannot be followed, the cluster does not answer: give the same command again to "
                    "follow it, it may well go on"
                ) from error
        time.sleep(RETRY_SECONDS)


def _is_forgotten(client: Client, job_id: str) -> bool:
    """Whether the cluster answers, and has no such job."""
    try:
        return all(job.submission_id != job_id for job in client.list_jobs())
    except (OSError, RuntimeError):
        return False


def stop_job(client: Client, job: SweepJob) -> SweepJob:
    """Stop the job's driver, which has time for checkpoints; the job as it ended."""
    client.stop_job(job.job_id)
    deadline = time.monotonic() + STOP_PATIENCE_SECONDS
    while (now := job_of(client, job.job_id)).is_live and time.monotonic() < deadline:
        time.sleep(RETRY_SECONDS / 2)
    return now


def _submit(client: Client, spec: SweepSpec, order: Order, runtime_env: dict[str, Any], entrypoint: str) -> str:
    """Ask for the next attempt of the store; its job's id."""
    attempt = 1 + max((job.attempt for job in sweep_jobs(client) if job.store == order.store), default=0)
    job_id = f"{spec.name}-{hashlib.sha256(order.store.encode()).hexdigest()[:6]}-{attempt}"
    metadata = {"job_name": spec.name, SWEEP: spec.name, STORE: order.store, SPEC: spec.hash, ATTEMPT: str(attempt)}
    client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata)
    return job_id


def _sweep_job(job: Any) -> SweepJob:
    metadata = job.metadata or {}
    return SweepJob(
        job_id=job.submission_id,
        sweep=metadata.get(SWEEP, ""),
        store=metadata.get(STORE, ""),
        spec=metadata.get(SPEC, ""),
        attempt=int(metadata.get(ATTEMPT, 1)),
        status=str(job.status.value),
        exit_status=job.driver_exit_code,
        message=job.message or "",
        progress=metadata.get(PROGRESS, ""),
        started_at=(job.start_time or 0) / 1000,
        ended_at=job.end_time / 1000 if job.end_time else None,
    )
