"""Folders that are there whole or not at all, whenever a process dies or a disk is full.

Knows files, tensors as safetensors, and how a disk is told to keep them. Never knows what a folder is for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, flushed and renamed to ``folder`` at the end; where filling it fails, nothing is left.

    What stood under the name is replaced. Raises ``OSError`` with its number where the disk is full, whoever wrote.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    drop_partial(folder.parent, folder.name)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _flush(folder.parent)
    except BaseException as error:  # a stop, too, must leave no half-written folder
        shutil.rmtree(partial, ignore_errors=True)
        for number in _FULL:
            # safetensors tells the number of the system's error in its sentence alone.
            if isinstance(error, SafetensorError) and f"os error {number}" in str(error):
                raise OSError(number, os.strerror(number), str(folder)) from error
        raise


def drop_partial(parent: Path, name: str = "*") -> None:
    """Remove what killed processes have left half-written under ``parent``, of folders of this name."""
    for partial in parent.glob(f".{name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
