"""A trial's checkpoints and weights between this machine and object storage.

Knows that a checkpoint is a folder ``step-<n>`` whose ``record.json`` holds the hash of the rest, and notes are single
files beside it. The trainer writes to the disk, as ever, and never waits for the network: what appears there is sent
from a thread. ``record.json`` is sent last and fetched first: where it is, all of its checkpoint is, and its hash says
whether that is so. Never knows what a checkpoint holds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sweeps.remote import RemotePath, is_remote
from sweeps.store import StoreError
from trainer.trial import TrialFiles

LOOK_SECONDS = 0.5
RECORD = "record.json"
"""Vouches for its checkpoint: the last to be sent."""


@contextmanager
def carried(files: TrialFiles, *, name: str, steps: bool = True, send: bool = True) -> Iterator[TrialFiles]:
    """The files of a trial as this process may use them; they themselves where they are no object storage's.

    ``name`` tells processes of one machine apart. What is on object storage is fetched at the start; ``steps`` says
    whether checkpoints are wanted or the notes alone. Unless ``send`` is false, what appears on the disk is sent while
    the trial goes on, and the rest of it at the end, however that comes. Raises ``StoreError`` where that fails.
    """
    if not is_remote(files.checkpoints):
        yield files
        return
    # Of this name alone: what an earlier life of the trial has left here is of no use, and would fill the disk. Sweeps
    # in other stores can have a trial of this name at the same time.
    store = hashlib.sha256(files.checkpoints.encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"isoflop-{os.getuid()}" / f"{name}-{store}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    local = replace(files, checkpoints=str(folder / "checkpoints"), weights=files.weights and str(folder / "weights"))
    carrier = _Carrier(RemotePath(files.checkpoints), folder / "checkpoints")
    try:
        with _told():
            carrier.fetch(steps=steps)
        if not send:
            yield local
            return
        with carrier.sending():
            yield local
        with _told():
            if files.weights and Path(local.weights).is_dir():
                _send_folder(Path(local.weights), RemotePath(files.weights))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetched_weights(weights: Path | RemotePath, into: Path) -> Path:
    """The folder of a trial's weights on this machine: itself, or a copy in ``into``."""
    if isinstance(weights, Path):
        return weights
    with _told():
        for name in weights.files_below():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (weights / name).download(into / name)
    return into


class _Carrier:
    """The checkpoints and notes of one trial, here and there."""

    def __init__(self, remote: RemotePath, local: Path) -> None:
        self._remote, self._local = remote, local
        self._sent_notes: dict[str, int] = {}
        self._sent_steps: set[int] = set()

    def fetch(self, *, steps: bool) -> None:
        """Notes, and the newest checkpoint that is whole."""
        from trainer.checkpoint import is_whole  # loads torch, which nobody needs for a store on a path

        self._local.mkdir(parents=True, exist_ok=True)
        names = self._remote.files_below()
        for name in names:
            if "/" not in name:
                (self._remote / name).download(self._local / name)
                self._sent_notes[name] = (self._local / name).stat().st_mtime_ns
        whole = {name.split("/")[0] for name in names if name.endswith(f"/{RECORD}")}
        for step in sorted((number_of(folder) for folder in whole), reverse=True) if steps else ():
            partial = self._local / f".step-{step}.fetched"
            partial.mkdir()
            for name in names:
                if name.startswith(f"step-{step}/"):
                    (self._remote / name).download(partial / name.partition("/")[2])
            if is_whole(partial):
                partial.rename(self._local / f"step-{step}")
                self._sent_steps.add(step)
                return
            shutil.rmtree(partial)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what appears, until the end and what is there then."""
        ended = threading.Event()

        def send_on() -> None:
            while not ended.wait(LOOK_SECONDS):
                try:
                    self._send()
                except OSError:
                    continue  # at the end nothing may be missing; until then the next look tries again

        thread = threading.Thread(target=send_on, name="carrier", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with _told():
                self._send()

    def _send(self) -> None:
        from trainer.checkpoint import KEPT, steps_of

        for note in self._local.iterdir() if self._local.is_dir() else ():
            if note.is_file() and not note.name.startswith("."):
                written = note.stat().st_mtime_ns
                if self._sent_notes.get(note.name) != written:
                    (self._remote / note.name).write_bytes(note.read_bytes())
                    self._sent_notes[note.name] = written
        new = [(step, folder) for step, folder in steps_of(self._local)[-1:] if step not in self._sent_steps]
        for step, folder in new:
            # It may be dropped for a newer one meanwhile: then that is sent at the next look.
            _send_folder(folder, self._remote / folder.name)
            self._sent_steps.add(step)
            for old in sorted(self._sent_steps)[:-KEPT]:
                (self._remote / f"step-{old}").remove_tree()
                self._sent_steps.discard(old)


def number_of(folder: str) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.removeprefix("step-"))


def _send_folder(folder: Path, remote: RemotePath) -> None:
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == RECORD)
    for path in files:
        (remote / path.relative_to(folder).as_posix()).upload(path)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or 'the store'} cannot be reached ({error.strerror or error}): launch again when it is "
            "there, what was recorded is kept and unfinished trials go on"
        ) from error
