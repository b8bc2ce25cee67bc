"""The texts of a split on disk: one Parquet file whose row groups are shards, the pieces that work is divided into.

Knows rows, shards and how many processes share them. Never knows what the texts are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data import SIDES
from trainer.processes import num_usable_cores

NEGATIVES = "negatives"
"""The column of hard negatives, a list of texts each, where they are kept."""
SHARD_PAIRS = 2**15
_SHARD_BYTES = 2**26
BATCH_PAIRS = 2048


def read_texts(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """Queries and positives of a split, in its order, all in memory."""
    table = pq.read_table(folder / f"{split}.parquet", columns=list(SIDES))
    return table["query"].to_pylist(), table["positive"].to_pylist()


def processes_for(num_shards: int, num_processes: int | None) -> int:
    """How many processes share so many shards: none beside this one where there is nothing to share."""
    if num_processes is None:
        num_processes = num_usable_cores()
    return num_processes if min(num_shards, num_processes) > 1 else 0


def batches_of(
    file: pq.ParquetFile, shards: Iterable[int] | None = None, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of these shards, or of all, some thousand at a time; no batch reaches over the end of a shard."""
    for shard in range(file.num_row_groups) if shards is None else shards:
        yield from file.iter_batches(BATCH_PAIRS, row_groups=[shard], columns=columns)


class ShardWriter:
    """A Parquet file whose row groups are shards: some ten thousand pairs, fewer where texts are long."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema)
        self._pending: list[pa.Table] = []
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        self.num_rows += len(table)
        if sum(map(len, self._pending)) >= SHARD_PAIRS or sum(table.nbytes for table in self._pending) >= _SHARD_BYTES:
            self.end_shard()

    def end_shard(self) -> None:
        """Begin another shard, however small this one is."""
        if sum(map(len, self._pending)):
            table = pa.concat_tables(self._pending)
            self._writer.write_table(table, row_group_size=len(table))
        self._pending.clear()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end_shard()
        self._writer.close()
