"""A Ray on this machine: started for one sweep, gone with the process that started it.

Knows how many processors this process may use, where the access token lies, and how Ray is kept quiet and on
loopback. Never knows a sweep or a trial.

Ray 2.60 reads its access mode once, when it is first imported: ``RAY_AUTH_MODE`` has to be set before. Its servers
are children that the kernel kills with the thread that started them (``PR_SET_PDEATHSIG``), so a driver that dies by
SIGKILL leaves no Ray behind; call ``local_ray`` from the main thread.
"""

from __future__ import annotations

import math
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Trials pass no large objects through Ray; its default takes 30 % of the memory.
OBJECT_STORE_BYTES = 128 * 2**20

HEALTH = {
    # For the head of several machines: one that answers no more is given up after three times (period + timeout), about
    # ten seconds; Ray's own settings take a minute. Where a head is so busy that it loses machines which live, give
    # 2000, 5000 and 4.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray prints the deaths of workers into the driver's standard output, whatever log_to_driver says: skip every line.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # Ray hides GPUs from workers that asked for none, and warns that it will stop doing so.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers keep the folder they were started in: a relative path means the same everywhere.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's own snapshots are never read: none before the end.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    # Trials run beside each other, a thread each.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRay:
    """A running local Ray."""

    dashboard: str
    """Web address on loopback; empty where the dashboard did not start."""
    token_file: Path
    """The dashboard asks for this file's content."""
    num_cpus: int


@contextmanager
def local_ray(cache: Path) -> Iterator[LocalRay]:
    """Start Ray on this machine, with the dashboard on loopback and token access; shut it down at the end.

    ``cache`` keeps the token (mode 0600), made at the first start. Worker processes inherit this process's
    environment and module path. Call before anything else imports ray.
    """
    assert "ray" not in sys.modules or os.environ.get("RAY_AUTH_MODE") == "token", (
        "ray was imported before its settings"
    )
    token_file = access_token(cache)
    os.environ.update(ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(token_file))
    import ray

    num_cpus = available_cpus()
    context = ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        yield LocalRay(dashboard=dashboard, token_file=token_file, num_cpus=num_cpus)
    finally:
        ray.shutdown()


def access_token(cache: Path) -> Path:
    """The file with this person's Ray token, readable by them alone; made when missing."""
    path = cache / "ray-token"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".ray-token.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        # A link fails where another process was first: both then read the same token.
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path


def available_cpus() -> int:
    """Processors this process may use: its affinity, cut to the control group's quota; at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, _quota(Path("/sys/fs/cgroup")))))


def _quota(groups: Path) -> float:
    """Processors that the control group's quota is worth (version 2, then 1); infinity where there is none."""
    unified = groups / "cpu.max"
    if unified.exists():
        quota, period = unified.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    quota_file, period_file = groups / "cpu/cpu.cfs_quota_us", groups / "cpu/cpu.cfs_period_us"
    if quota_file.exists() and period_file.exists() and (limit := int(quota_file.read_text())) > 0:
        return limit / int(period_file.read_text())
    return math.inf
