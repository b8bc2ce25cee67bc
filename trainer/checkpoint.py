"""Checkpoints of one trial: whole, checked, and replaced only by a newer whole one.

Knows tensors by name, a JSON record, and a folder. Never knows what they mean to the loop, and never unpickles.

Layout: ``step-<n>/state.safetensors`` and ``step-<n>/record.json``; the record holds the state file's SHA-256. A folder
appears under its name only when complete, so a kill at any moment leaves the one before. ``.life`` names the life of
the trial that may write here: one that was cut off from its cluster, and has been replaced, ends at its next save.
"""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.trial import Stopped
from trainer.whole import drop_partial, save_tensors, sha256, whole

LIFE = ".life"
STATE, RECORD = "state.safetensors", "record.json"
KEPT = 2
"""The newest checkpoint, and the one before it in case the newest cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a trial needs to go on: tensors by name, and a record of plain JSON values."""

    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def claim(folder: Path) -> str:
    """Begin a life of the trial: from now on only what has this name may save here, and an earlier life ends."""
    life = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{LIFE}-{life}").write_text(life)
    (folder / f"{LIFE}-{life}").replace(folder / LIFE)
    return life


def save(folder: Path, checkpoint: Checkpoint, life: str) -> None:
    """Write ``folder/step-<n>`` whole, then drop all but the newest. On a full disk the older ones stay as they are.

    Raises ``Stopped`` where another life has claimed the folder since.
    """
    if (folder / LIFE).read_text() != life:
        raise Stopped(f"another life of the trial has claimed {folder}")
    with whole(folder / f"step-{checkpoint.step}") as partial:
        save_tensors(partial / STATE, checkpoint.tensors)
        record = {"step": checkpoint.step, "sha256": sha256(partial / STATE), **checkpoint.record}
        (partial / RECORD).write_text(json.dumps(record))
    for _, old in steps_of(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or nothing. One that cannot be read is passed over with a warning.

    A trial calls it at the start of each life, so what an earlier one has left half-written is removed.
    """
    drop_partial(folder)
    for step, path in reversed(steps_of(folder)):
        try:
            return load(folder, step)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            warnings.warn(f"checkpoint {path} cannot be used ({error}); going on from an older one", stacklevel=2)
    return None


def load(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of this step. Raises ``ValueError`` or what reading raised where it is not whole."""
    path = folder / f"step-{step}"
    record = json.loads((path / RECORD).read_text())
    if not isinstance(record, dict):
        raise ValueError("its record is not an object")
    state = path / STATE
    if record.pop("sha256") != sha256(state):
        raise ValueError("its state file does not have the recorded SHA-256")
    if record.pop("step") != step:
        raise ValueError("its record is of another step")
    return Checkpoint(step=step, tensors=load_file(state), record=record)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's folder holds a record, and the state that it vouches for."""
    if not ((path / STATE).is_file() and (path / RECORD).is_file()):
        return False
    record = json.loads((path / RECORD).read_text())
    return isinstance(record, dict) and record.get("sha256") == sha256(path / STATE)


def steps_of(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the finished checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [(path.name.removeprefix("step-"), path) for path in folder.glob("step-*")]
    return sorted((int(step), path) for step, path in found if step.isdigit())
