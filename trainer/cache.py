"""Artefacts that are made once and then only read, also when several processes want them or one of them dies.

Knows files, locks and hashes. Never knows what an artefact means.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_WAIT_SECONDS = 0.4


def build_once(folder: Path, build: Callable[[Path], object], *, resume: bool = False) -> None:
    """Have ``build`` fill ``folder``, unless it is there. It gets an empty folder beside it, renamed when it returns.

    So ``folder`` is whole or absent, whatever kills the builder; what a dead one left is thrown away, or with
    ``resume`` given to the next to go on with. Call it under a lock of ``locked``. Raises ``ValueError`` where the disk
    is full.
    """
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=resume)
        build(partial)
        partial.rename(folder)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"the disk of the cache folder {folder.parent} is full: free some space, or set ISOFLOP_CACHE to a folder "
            "on another disk"
        ) from error


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock ``path``; ``waiting`` is called twice a second while another process holds it.

    The system frees the lock when its holder dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=_WAIT_SECONDS)
            break
        except Timeout:
            waiting()
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def hash_files(files: Sequence[Path], memory: Path) -> str:
    """16 hex digits over the names and contents of files. What was hashed before is remembered under ``memory``,
    as long as the file keeps its size and time of change.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\n{_hash_file(path, memory)}\n".encode())
    return digest.hexdigest()[:16]


def _hash_file(path: Path, memory: Path) -> str:
    status = path.stat()
    seen = [status.st_size, status.st_mtime_ns]
    note = memory / f"{slug(str(path.resolve()))}.json"
    if note.exists():
        record = json.loads(note.read_text())
        if record["seen"] == seen:
            return str(record["sha256"])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomically(note, json.dumps({"path": str(path.resolve()), "seen": seen, "sha256": sha256}))
    return sha256


def slug(text: str) -> str:
    """A short name for ``text`` that is safe in a path."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
