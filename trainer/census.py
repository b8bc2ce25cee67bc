"""One pass over the train split, in several processes: what is counted of all pairs, and of a sample against all.

Knows the shards of the train split, where each source's begin, and how to compare texts. Never knows tokens, languages
or a page. In memory are the sampled texts and some thousand pairs; hashes of all texts lie in files for a while.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.data import SIDES, Report
from trainer.neighbours import Neighbours
from trainer.processes import in_processes, num_usable_cores, tick
from trainer.shards import batches_of, processes_for
from trainer.splits import NEAR_DUPLICATE, hash_key, normalised

_NUM_FILES = 64
_HASHES_BUFFERED = 2**16
_PIECES_PER_CORE = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SourceCensus:
    """What was found of one source's train pairs."""

    num_identical: int
    """Pairs whose two texts have the same words."""
    num_words: dict[str, int]
    """By side."""
    num_repeated: dict[str, int]
    """By side: texts with the same words as an earlier one."""
    near: dict[str, NDArray[np.bool_]]
    """By side: which of its sampled texts have a near-duplicate in each source, ``(sources, sampled)``."""
    sample: dict[str, list[str]]
    """By side: its sampled texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """Shards of one source that are read as one piece."""

    pairs: Path
    scratch: Path
    number: int
    origin: int
    shards: tuple[int, ...]
    start: int
    """How many pairs of train lie before them."""


@dataclass(kw_only=True, slots=True)
class _Counts:
    num_identical: int = 0
    num_words: Counter[str] = field(default_factory=Counter)
    near: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """By side: which of all sampled texts have a neighbour here."""


def take_census(
    pairs: Path,
    num_train: Sequence[int],
    places: Sequence[NDArray[np.int64]],
    *,
    report: Report,
    num_processes: int | None = None,
) -> list[SourceCensus]:
    """What is in the train split under ``pairs``, by source.

    ``num_train`` are the train pairs of each source, in their order; ``places`` where the sampled ones of each stand in
    train, ascending. The result is the same whatever ``num_processes`` (all usable cores by default).
    """
    with tempfile.TemporaryDirectory(prefix="isoflop-census-") as name:
        scratch = Path(name)
        wanted = np.concatenate(places)
        np.save(scratch / "places.npy", wanted)
        sample = _read_sample(pairs, wanted, scratch, report)
        tasks = _tasks(pairs, scratch, num_train)
        counts = in_processes(
            _count,
            tasks,
            num_processes=processes_for(len(tasks), num_processes),
            progress=lambda done: report("measuring pairs", done, sum(num_train)),
        )
        repeated = {side: _repeated(side, tasks, len(num_train)) for side in SIDES}
    found = []
    ends = np.cumsum([len(some) for some in places])
    for origin, end in enumerate(ends.tolist()):
        own = slice(end - len(places[origin]), end)
        mine = [one for one, task in zip(counts, tasks, strict=True) if task.origin == origin]
        found.append(
            SourceCensus(
                num_identical=sum(one.num_identical for one in mine),
                num_words={side: sum(one.num_words[side] for one in mine) for side in SIDES},
                num_repeated={side: int(repeated[side][origin]) for side in SIDES},
                near={side: _near(counts, tasks, side, len(num_train))[:, own] for side in SIDES},
                sample={side: sample[side][own] for side in SIDES},
            )
        )
    return found


def _near(counts: Sequence[_Counts], tasks: Sequence[_Task], side: str, num_sources: int) -> NDArray[np.bool_]:
    """Which sampled texts have a neighbour in which source, ``(sources, all sampled)``."""
    found = np.zeros((num_sources, len(counts[0].near[side])), bool)
    for one, task in zip(counts, tasks, strict=True):
        found[task.origin] |= one.near[side]
    return found


def _read_sample(pairs: Path, places: NDArray[np.int64], scratch: Path, report: Report) -> dict[str, list[str]]:
    """The texts at these places, by side; they also go to files, for the processes that compare with them."""
    texts: dict[str, list[str]] = {side: [] for side in SIDES}
    for start, batch in _batches(pairs, range(pq.read_metadata(pairs / "train.parquet").num_row_groups), 0):
        report("taking a sample", start, 0)
        rows = places[slice(*np.searchsorted(places, [start, start + len(batch["query"])]))] - start
        for side in SIDES:
            texts[side] += [batch[side][row] for row in rows]
    pq.write_table(pa.table(texts), scratch / "sample.parquet")
    return texts


def _batches(pairs: Path, shards: Sequence[int], start: int) -> Iterator[tuple[int, dict[str, list[str]]]]:
    with pq.ParquetFile(pairs / "train.parquet") as train:
        for batch in batches_of(train, shards, list(SIDES)):
            yield start, batch.to_pydict()
            start += len(batch)


def _tasks(pairs: Path, scratch: Path, num_train: Sequence[int]) -> list[_Task]:
    """Pieces of about equal size; a shard never spans two sources."""
    metadata = pq.read_metadata(pairs / "train.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    starts = np.cumsum([0, *sizes])[:-1]
    owners = np.searchsorted(np.cumsum(num_train), starts, "right")
    num_pieces = _PIECES_PER_CORE * num_usable_cores()
    tasks: list[_Task] = []
    for origin, num in enumerate(num_train):
        shards = np.flatnonzero(owners == origin)
        pieces = min(len(shards), max(1, round(num_pieces * num / max(1, sum(num_train)))))
        for part in np.array_split(shards, pieces) if pieces else ():
            tasks.append(
                _Task(
                    pairs=pairs,
                    scratch=scratch,
                    number=len(tasks),
                    origin=origin,
                    shards=tuple(part.tolist()),
                    start=int(starts[part[0]]),
                )
            )
    return tasks


def _count(task: _Task) -> _Counts:
    places = np.load(task.scratch / "places.npy")
    sample = pq.read_table(task.scratch / "sample.parquet")
    sampled = {side: Neighbours(sample[side].to_pylist()) for side in SIDES}
    counts = _Counts()
    buffers: dict[str, list[int]] = {side: [] for side in SIDES}
    for start, batch in _batches(task.pairs, task.shards, task.start):
        own = np.full(len(batch["query"]), -1)
        first, last = np.searchsorted(places, [start, start + len(own)])
        own[places[first:last] - start] = np.arange(first, last)
        normal = {side: [normalised(text) for text in batch[side]] for side in SIDES}
        counts.num_identical += sum(q == p for q, p in zip(*normal.values(), strict=True))
        for side, texts in normal.items():
            counts.num_words[side] += sum(text.count(" ") + 1 for text in texts)
            buffers[side] += map(hash_key, texts)
            sampled[side].pass_by(batch[side], own)
            if len(buffers[side]) >= _HASHES_BUFFERED:
                _flush(task, side, buffers[side])
        tick(len(own))
    for side in SIDES:
        _flush(task, side, buffers[side])
        counts.near[side] = sampled[side].similarity >= NEAR_DUPLICATE
    return counts


def _flush(task: _Task, side: str, buffer: list[int]) -> None:
    """Append the hashes to the files of their parts, so that equal ones meet in one part."""
    hashes = np.array(buffer, np.uint64)
    buffer.clear()
    parts = hashes % np.uint64(_NUM_FILES)
    order = np.argsort(parts, kind="stable")
    for part, rows in enumerate(np.split(order, np.searchsorted(parts[order], np.arange(1, _NUM_FILES)))):
        if len(rows):
            with _hashes_file(task, side, part).open("ab") as file:
                file.write(hashes[rows].tobytes())


def _hashes_file(task: _Task, side: str, part: int) -> Path:
    return task.scratch / f"{side}-{part}-{task.number}"


def _repeated(side: str, tasks: Sequence[_Task], num_sources: int) -> NDArray[np.int64]:
    """How many texts of each source repeat an earlier one, ``(sources,)``."""
    counts = np.zeros(num_sources, np.int64)
    for part in range(_NUM_FILES):
        files = [(task.origin, _hashes_file(task, side, part)) for task in tasks]
        read = [(origin, np.fromfile(path, np.uint64)) for origin, path in files if path.exists()]
        if not read:
            continue
        hashes = np.concatenate([some for _, some in read])
        origins = np.concatenate([np.full(len(some), origin) for origin, some in read])
        # Stable: the first of equal ones is the one that was read first.
        order = np.argsort(hashes, kind="stable")
        repeats = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        counts += np.bincount(origins[repeats], minlength=num_sources)
    return counts
