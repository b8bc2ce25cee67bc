"""Copies of many rows in a few Parquet files, so that a hundred thousand rows are read in less than a second.

Knows how such segments are written, merged and read, and that a row of a trial counts once however many hold it. The
rows' own files stay the truth: whatever happens here, at worst they are read one by one again. So no lock is needed.
A segment is written whole under a name of its own before those that it replaces are removed; two processes that
compact at once, or one that is killed between, leave a row twice, and the next merge takes it once. Never knows what
the columns mean.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweeps.columns import with_later_columns
from sweeps.remote import RemotePath

Root = Path | RemotePath
GROWTH = 2
"""A new segment takes in those that are smaller than so many times itself: the number of segments grows like the
logarithm of the rows, and so does how often a row is written again."""


class Compact:
    """The segments in ``folder``. Rows have the columns of ``schema``, among them ``trial_id``."""

    def __init__(self, folder: Root, schema: pa.Schema, write: Callable[[Root, bytes], None]) -> None:
        """``write`` puts a whole file at a path."""
        self._folder, self._schema, self._write = folder, schema, write

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all rows that the segments hold; a row can be there twice (``once``)."""
        empty = pa.Table.from_batches([], pa.schema([self._schema.field(name) for name in columns]))
        return pa.concat_tables([empty, *(self._rows(segment, columns) for _, segment in self._segments())])

    def add(self, rows: pa.Table) -> None:
        """Keep copies of these rows, in a segment with those of smaller ones."""
        smaller: list[Root] = []
        for path, segment in sorted(self._segments(), key=lambda found: found[1].metadata.num_rows):
            if segment.metadata.num_rows < GROWTH * len(rows):
                rows = pa.concat_tables([rows, self._rows(segment, self._schema.names)])
                smaller.append(path)
        self._replace(smaller, once(rows))

    def remove(self, trial_ids: pa.Array) -> None:
        """Forget the copies of these trials' rows."""
        for path, segment in self._segments():
            gone = pc.is_in(segment.read(columns=["trial_id"])["trial_id"], value_set=trial_ids)
            if pc.any(gone).as_py():
                self._replace([path], self._rows(segment, self._schema.names).filter(pc.invert(gone)))

    def _replace(self, paths: Collection[Root], rows: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, store_schema=False)
        self._write(self._folder / f"{uuid.uuid4().hex}.parquet", sink.getvalue().to_pybytes())
        for path in paths:
            path.unlink(missing_ok=True)

    def _rows(self, segment: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
        """These columns, in this order; empty where the segment was written before there were such."""
        present = [name for name in columns if name in segment.schema_arrow.names]
        table = segment.read(columns=present, use_threads=False).select(present)
        return with_later_columns(table, pa.schema([self._schema.field(name) for name in columns]))

    def _can_read(self, written: pa.Schema) -> bool:
        """Whether a segment has the columns of today, but for those that may be absent."""
        wanted = [field for field in self._schema if field.name in written.names or not field.nullable]
        return bool(pa.schema(wanted).equals(written))

    def _segments(self) -> Iterator[tuple[Root, pq.ParquetFile]]:
        """What can be read: a segment that was merged away just now, is damaged or of another version is no loss."""
        try:
            paths = [path for path in self._folder.iterdir() if path.suffix == ".parquet" and path.name[0] != "."]
        except OSError:
            return
        for path in paths:
            try:
                segment = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
            except (OSError, pa.ArrowException):
                continue
            if self._can_read(segment.schema_arrow):
                yield path, segment


def strings(values: Sequence[str]) -> pa.Array:
    """``pa.array`` without its look at pandas, whose import alone takes as long as a status may."""
    encoded = [value.encode() for value in values]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def once(rows: pa.Table) -> pa.Table:
    """The rows without repeats of a ``trial_id``: the first of each stays."""
    if not len(rows):
        return rows
    ids = rows["trial_id"].combine_chunks().dictionary_encode()
    if len(ids.dictionary) == len(rows):
        return rows
    # As in ``strings``: what takes a NumPy array, and what groups, imports pandas.
    _, first = np.unique(np.from_dlpack(ids.indices), return_index=True)
    return rows.take(pa.Array.from_buffers(pa.int64(), len(first), [None, pa.py_buffer(first.astype(np.int64))]))
