"""Who drives a store on object storage, which has no locks: a driver says now and then that it is alive.

Knows one object, and how long a driver may be silent. Never knows what the driver does.

Two drivers at once would do no harm but double work: every row is the same whoever writes it. So a lease is enough, and
no clock but the own is trusted by a driver that wants the store.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sweeps.remote import RemotePath

BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A driver that has said nothing for so long is dead."""
SETTLE_SECONDS = 1.0
LEASE = "driver.json"


@contextmanager
def leased(store: RemotePath) -> Iterator[None]:
    """Hold the store as its only driver. Raises ``ValueError`` where another one lives, and waits to see whether."""
    name, ended = secrets.token_hex(8), threading.Event()
    if not _is_silent(store):
        raise ValueError(
            f"store {store} is being filled by another process: watch it with 'isoflop status {store}', or stop that "
            "first"
        )
    _beat(store, name)
    time.sleep(SETTLE_SECONDS)
    if _read(store).get("name") != name:
        raise ValueError(f"store {store} was taken by another process at the same moment: watch it, or launch again")

    def beat_on() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the storage may be away for a while
                _beat(store, name)

    thread = threading.Thread(target=beat_on, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            (store / LEASE).write_bytes(b"{}")


def is_leased(store: RemotePath) -> bool:
    """Whether a driver has been heard of lately, by this machine's clock."""
    return bool(time.time() - _read(store).get("at", 0.0) < SILENT_SECONDS)


def _is_silent(store: RemotePath) -> bool:
    """Whether nobody beats for as long as a driver may be silent."""
    first = _read(store)
    deadline = time.monotonic() + SILENT_SECONDS
    while first and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 5)
        now = _read(store)
        if now != first:
            return not now
    return True


def _beat(store: RemotePath, name: str) -> None:
    (store / LEASE).write_bytes(json.dumps({"name": name, "at": time.time()}).encode())


def _read(store: RemotePath) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((store / LEASE).read_bytes())
    except FileNotFoundError:
        return {}
    return found
