"""Which of very many pairs repeat an earlier one, found in files: only a small part of them is in memory at a time.

Knows digests of pairs and the hashes of their keys. Never knows a text or a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.splits import FINE_PARTS, SplitRule, parts_of

DIGEST_BYTES = 16
_RECORD = np.dtype([("pair", np.uint64, 2), ("key", np.uint64), ("row", np.int64)])
_RECORDS_BUFFERED = 2**17
_NUM_FILES = 256


class Repeats:
    """Rows by the digest of their pair. All are added, then ``find`` is called, then single rows can be asked for.

    The records lie in files by a part of the digest, so equal pairs meet in one file and a file is sorted in memory.
    What stays in memory is one bit a row.
    """

    def __init__(self, folder: Path) -> None:
        self._files = [folder / f"digests-{number}" for number in range(_NUM_FILES)]
        self._buffer: list[NDArray[np.void]] = []
        self._num_rows = 0
        self._bits = np.zeros(0, np.uint8)

    def add(self, digests: Sequence[bytes], keys: Sequence[int]) -> None:
        """The next rows, in the order of reading: ``DIGEST_BYTES`` that equal pairs share, and the key's hash."""
        records = np.empty(len(digests), _RECORD)
        records["pair"] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        records["key"] = keys
        records["row"] = np.arange(self._num_rows, self._num_rows + len(digests))
        self._num_rows += len(digests)
        self._buffer.append(records)
        if sum(map(len, self._buffer)) >= _RECORDS_BUFFERED:
            self._flush()

    def find(self) -> NDArray[np.int64]:
        """Find what repeats. Returns the distinct pairs of validation and of test in each part, ``(2, FINE_PARTS)``."""
        self._flush()
        self._bits = np.zeros(self._num_rows // 8 + 1, np.uint8)
        counts = np.zeros((2, FINE_PARTS), np.int64)
        for path in self._files:
            if not path.exists():
                continue
            records = np.fromfile(path, _RECORD)
            records = records[np.lexsort((records["row"], records["pair"][:, 1], records["pair"][:, 0]))]
            first = np.ones(len(records), bool)
            first[1:] = (records["pair"][1:] != records["pair"][:-1]).any(axis=1)
            rows = records["row"][~first]
            np.bitwise_or.at(self._bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
            keys = records["key"][first]
            splits, parts = SplitRule().splits(keys), parts_of(keys)
            for number in (1, 2):
                np.add.at(counts[number - 1], parts[splits == number], 1)
        return counts

    def among(self, start: int, end: int) -> NDArray[np.bool_]:
        """Which of the rows from ``start`` to ``end`` repeat an earlier row, ``(end - start,)``."""
        bits: NDArray[np.uint8] = np.unpackbits(self._bits[start // 8 : end // 8 + 1], bitorder="little")
        return np.equal(bits[start % 8 : start % 8 + end - start], 1)

    def _flush(self) -> None:
        records = np.concatenate([np.empty(0, _RECORD), *self._buffer])
        self._buffer.clear()
        numbers = (records["pair"][:, 0] % np.uint64(_NUM_FILES)).astype(np.int64)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(_NUM_FILES), "right")
        for path, rows in zip(self._files, np.split(order, ends[:-1]), strict=True):
            if len(rows):
                with path.open("ab") as file:
                    file.write(records[rows].tobytes())
