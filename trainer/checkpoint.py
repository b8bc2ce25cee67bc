"""Checkpoints of one trial: whole, checked, and replaced only by a newer whole one.

Knows tensors by name, a JSON record, and a folder. Never knows what they mean to the loop, and never unpickles.

Layout: ``step-<n>/state.safetensors`` and ``step-<n>/record.json``; the record holds the state file's SHA-256. A folder
appears under its name only when complete, so a kill at any moment leaves the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = 2
"""The newest checkpoint, and the one before it in case the newest cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a trial needs to go on: tensors by name, and a record of plain JSON values."""

    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write ``folder/step-<n>`` whole, then drop all but the newest. On a full disk the older ones stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".step-{checkpoint.step}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        state = partial / "state.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}, state)
        record = {"step": checkpoint.step, "sha256": _sha256(state), **checkpoint.record}
        (partial / "record.json").write_text(json.dumps(record))
        for path in (state, partial / "record.json"):
            _flush(path)
        shutil.rmtree(folder / f"step-{checkpoint.step}", ignore_errors=True)
        partial.rename(folder / f"step-{checkpoint.step}")
        _flush(folder)
    except BaseException:  # a stop, too, must leave no half-written folder
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for _, old in _steps(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or nothing. One that cannot be read is passed over with a warning."""
    for step, path in reversed(_steps(folder)):
        try:
            return _load(step, path)
        except (OSError, ValueError, KeyError) as error:
            warnings.warn(f"checkpoint {path} cannot be used ({error}); going on from an older one", stacklevel=2)
    return None


def _load(step: int, path: Path) -> Checkpoint:
    record = json.loads((path / "record.json").read_text())
    state = path / "state.safetensors"
    if record.pop("sha256") != _sha256(state):
        raise ValueError("its state file does not have the recorded SHA-256")
    if record.pop("step") != step:
        raise ValueError("its record is of another step")
    return Checkpoint(step=step, tensors=load_file(state), record=record)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return sorted((int(step), path) for step, path in found if step.isdigit())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
