"""Who drives a store: at most one process at a time, known by a lock that the system takes back when it dies.

Knows a store's folder and this process. Imports no Ray, so that the status of a sweep stays instant. Never knows what
the driver does.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.lease import is_leased, leased
from sweeps.store import Root

# Longer than a look at the status holds the lock, short for a person who waits.
PATIENCE_SECONDS = 2.0
LOCK = ".driver.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that drives a store."""

    host: str
    pid: int
    started_at: str
    """UTC, ISO 8601."""
    dashboard: str
    """Web address of its Ray dashboard, on its host's loopback."""


@contextmanager
def driving(store: Root) -> Iterator[None]:
    """Hold the store as its only driver. Raises ``ValueError`` where another process holds it.

    The lock is the system's (``flock``): a driver that dies in whatever way has let it go. Object storage has none,
    and a lease in its place (``cluster/lease.py``).
    """
    if not isinstance(store, Path):
        with leased(store):
            yield
        return
    descriptor = os.open(store / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _acquire(descriptor):
            holder = _read(store)
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            raise ValueError(
                f"store {store} is being filled by {who}: watch it with 'isoflop status {store}', or stop that first"
            )
        _record(store).unlink(missing_ok=True)
        yield
        _record(store).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def announce(store: Root, dashboard: str) -> None:
    """Write down who drives the store, for those who ask. Call while ``driving``."""
    if not isinstance(store, Path):
        return  # an address on this machine's loopback is of no use elsewhere
    driver = Driver(
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dashboard=dashboard,
    )
    fresh = _record(store).with_suffix(".fresh")
    fresh.write_text(json.dumps(asdict(driver)))
    fresh.replace(_record(store))


def is_driven(store: Root) -> bool:
    """Whether a process holds the store, as far as this machine's view of the file system can tell."""
    if not isinstance(store, Path):
        return is_leased(store)
    try:
        descriptor = os.open(store / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def driver_of(store: Root) -> Driver | None:
    """The process that drives the store now; ``None`` where nobody does or it has not said who it is yet."""
    return _read(store) if isinstance(store, Path) and is_driven(store) else None


def _record(store: Path) -> Path:
    return store / ".driver.json"


def _read(store: Path) -> Driver | None:
    try:
        return Driver(**json.loads(_record(store).read_text()))
    except FileNotFoundError:
        return None
