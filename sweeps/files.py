"""The files of a store: written whole, read or refused with a sentence, on a path or on object storage.

Knows Parquet, full disks and broken files. Never knows which files a store has, or what belongs together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import string
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.columns import SCHEMA, with_later_columns
from sweeps.remote import RemotePath
from trainer.trial import TrialSpec

Root = Path | RemotePath
_ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "._-")


class StoreError(ValueError):
    """The store cannot be read or written as asked. The message says which file and what a person can do."""


def write_whole(path: Root, content: bytes) -> None:
    """Write all of a file or nothing. Raises ``StoreError`` where there is no room or no permission."""
    if isinstance(path, RemotePath):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise StoreError(f"{path} cannot be written ({error.strerror}): {_mend(error)}") from error
        return
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StoreError(f"{path} cannot be written ({error.strerror}): {_mend(error)}") from error


def _mend(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room and launch again; what was recorded is kept and unfinished trials go on"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where the store needs a folder, so give another --store"
    if error.errno == errno.EIO:
        return "launch again when the storage is there; what was recorded is kept and unfinished trials go on"
    return "check its permissions, or give another --store"


def remove(folder: Root) -> None:
    """Remove a folder; nothing happens where there is nothing."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            folder.remove_tree()


def _flush_folder(folder: Path) -> None:
    """A rename survives a power cut once its folder is flushed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safe_name(trial_id: str) -> str:
    """The id, once it is sure to be the name of one file in one folder."""
    if not trial_id or trial_id.startswith(".") or not _ID_CHARACTERS.issuperset(trial_id):
        raise StoreError(f"trial id {trial_id!r} is none: give one as `isoflop status` shows it")
    return trial_id


def to_parquet(table: pa.Table) -> bytes:
    """A row is one value in each of 60 columns: with dictionaries, statistics and a second schema, the file would be
    three times as large and slow to read."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, write_statistics=False, compression="none", store_schema=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


_AGAIN = "delete this file and its trial is run again; nothing else is lost"


def read_table_of(path: Root, schema: pa.Schema, again: str = _AGAIN) -> pa.Table:
    """The table of a file, with these columns. Raises ``StoreError`` with ``again`` as its mend."""
    try:
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist: give the id of a trial that has ended") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error}): {again}") from error
    except pa.ArrowException as error:
        raise StoreError(f"{path} is not a whole Parquet file: {again}") from error
    table = with_later_columns(table, schema)
    if not table.schema.equals(schema):
        strange = sorted(set(schema.names) ^ set(table.schema.names)) or ["a type"]
        raise StoreError(f"{path} does not have this version's columns ({', '.join(strange[:3])} differ): {again}")
    return table


def read_row(path: Root) -> pa.Table:
    """The row of a trial's file. Raises ``StoreError`` where it is broken, or of another trial than its name says."""
    table = read_table_of(path, SCHEMA)
    if len(table) != 1:
        raise StoreError(f"{path} has {len(table)} rows instead of one: {_AGAIN}")
    try:
        trial_id = TrialSpec.from_json(table["spec"][0].as_py()).trial_id
    except ValueError as error:
        raise StoreError(f"{path} holds a trial spec that cannot be read: {_AGAIN}") from error
    if not trial_id == table["trial_id"][0].as_py() == path.stem:
        raise StoreError(f"{path} holds another trial, {trial_id}: {_AGAIN}")
    return table


def stamp_of(path: Root) -> str:
    """Changes whenever the file is written, and is not that of another file."""
    if isinstance(path, RemotePath):
        return f"{path.stem}-{path.stamp}"
    try:
        status = path.stat()
    except FileNotFoundError:
        return "gone"
    return f"{path.stem}-{status.st_mtime_ns}-{status.st_size}"


def try_row(path: Root) -> pa.Table | StoreError:
    """``read_row``, its error returned."""
    try:
        return read_row(path)
    except StoreError as error:
        return error
