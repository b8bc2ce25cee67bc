"""How much of each held-out split has been seen in another split: the same texts, and nearly the same.

Knows the splits on disk and how texts are compared. Never knows how they were divided: what is found here was measured
with other permutations than the preparation used, and every near-duplicate was compared word by word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.data import SIDES, DataManifest, Report
from trainer.neighbours import Neighbours
from trainer.processes import in_processes, num_usable_cores, tick
from trainer.shards import batches_of, processes_for, read_texts
from trainer.splits import NEAR_DUPLICATE, hash_key, normalised

WAYS = (("train", "validation"), ("train", "test"), ("validation", "test"))
"""What has been seen, and what must not have been."""
LEVELS = (NEAR_DUPLICATE, 0.7, 0.9)
BOUND = 0.01
"""Share of the held-out texts that may have been seen before a person is told to do something about it."""
_MOST_EVIDENCE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A held-out text and what it resembles."""

    held_out: str
    seen: str
    similarity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What one split has seen of one side of another."""

    seen_in: str
    held_out: str
    """The split that is asked about."""
    side: str
    num: int
    """Texts of that split."""
    exact: float
    """Share of them that the other split has word for word."""
    near: dict[str, float]
    """Share of them with a text in the other split at this Jaccard similarity of word 4-grams or above."""
    evidence: tuple[Evidence, ...]
    """The nearest."""

    @property
    def share(self) -> float:
        """What the bound is held against: queries word for word, positives also nearly."""
        return self.exact if self.side == "query" else self.near[str(NEAR_DUPLICATE)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leakage:
    """What the splits of prepared pairs have seen of each other."""

    leaks: tuple[Leak, ...]
    num_equal_pairs: dict[str, int]
    """Held-out pairs that another split has whole, by ``seen in, held out``."""

    def problems(self, bound: float) -> tuple[str, ...]:
        """A sentence for each thing that is over the bound: any equal pair, and a share of texts above ``bound``."""
        found = [
            f"{number} pairs of {held_out} are also in {seen_in}: the preparation should have left them out"
            for (seen_in, held_out), number in self._equal_pairs()
            if number
        ]
        for leak in self.leaks:
            if leak.share > bound:
                how = "word for word" if leak.side == "query" else f"at similarity {NEAR_DUPLICATE} or above"
                found.append(
                    f"{leak.share:.2%} of the {'queries' if leak.side == 'query' else 'positives'} of {leak.held_out} "
                    f"are in {leak.seen_in} {how}, and {bound:.2%} may be"
                )
        return tuple(found)

    def _equal_pairs(self) -> Iterator[tuple[tuple[str, str], int]]:
        for way in WAYS:
            yield way, self.num_equal_pairs[", ".join(way)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    pairs: Path
    seen_in: str
    held_out: tuple[str, ...]
    shards: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """What some shards have of the held-out splits' texts, which stand one split after the other."""

    similarity: dict[str, NDArray[np.float64]]
    is_exact: dict[str, NDArray[np.bool_]]
    is_equal_pair: NDArray[np.bool_]
    nearest: dict[str, dict[int, str]]


def measure_leakage(
    pairs: Path, manifest: DataManifest, *, report: Report, num_processes: int | None = None
) -> Leakage:
    """Compare the splits under ``pairs`` in the three ``WAYS``; memory grows with the held-out splits alone."""
    leaks: list[Leak] = []
    equal: dict[str, int] = {}
    for seen_in, held_out in (("train", ("validation", "test")), ("validation", ("test",))):
        found = _look_everywhere(pairs, manifest, seen_in, held_out, report, num_processes)
        is_equal = np.any([one.is_equal_pair for one in found], axis=0)
        start = 0
        for split in held_out:
            texts = dict(zip(SIDES, read_texts(pairs, split), strict=True))
            part = slice(start, start + len(texts["query"]))
            leaks += [_leak(seen_in, split, side, texts[side], found, part) for side in SIDES]
            equal[f"{seen_in}, {split}"] = int(is_equal[part].sum())
            start = part.stop
    return Leakage(leaks=tuple(leaks), num_equal_pairs=equal)


def _look_everywhere(
    pairs: Path,
    manifest: DataManifest,
    seen_in: str,
    held_out: tuple[str, ...],
    report: Report,
    num_processes: int | None,
) -> list[_Found]:
    num_shards = pq.read_metadata(pairs / f"{seen_in}.parquet").num_row_groups
    parts = np.array_split(np.arange(num_shards), min(num_shards, 2 * num_usable_cores()))
    tasks = [_Task(pairs=pairs, seen_in=seen_in, held_out=held_out, shards=tuple(part.tolist())) for part in parts]
    words, total = f"looking for {' and '.join(held_out)} in {seen_in}", manifest.num_pairs[seen_in]
    return in_processes(
        _look,
        tasks,
        num_processes=processes_for(len(tasks), num_processes),
        progress=lambda done: report(words, done, total),
    )


def _look(task: _Task) -> _Found:
    splits = [read_texts(task.pairs, split) for split in task.held_out]
    held_out = {side: [text for split in splits for text in split[number]] for number, side in enumerate(SIDES)}
    neighbours = {side: Neighbours(held_out[side]) for side in SIDES}
    wanted = _pair_hashes(*held_out.values())
    is_equal = np.zeros(len(wanted), bool)
    with pq.ParquetFile(task.pairs / f"{task.seen_in}.parquet") as file:
        for batch in batches_of(file, task.shards, list(SIDES)):
            texts = batch.to_pydict()
            for side in SIDES:
                neighbours[side].pass_by(texts[side])
            is_equal |= np.isin(wanted, _pair_hashes(*(texts[side] for side in SIDES)))
            tick(len(batch))
    return _Found(
        similarity={side: one.similarity for side, one in neighbours.items()},
        is_exact={side: one.is_exact for side, one in neighbours.items()},
        is_equal_pair=is_equal,
        nearest={side: one.nearest for side, one in neighbours.items()},
    )


def _pair_hashes(queries: Sequence[str], positives: Sequence[str]) -> NDArray[np.uint64]:
    pairs = zip(queries, positives, strict=True)
    return np.array([hash_key(f"{normalised(query)}\n{normalised(positive)}") for query, positive in pairs], np.uint64)


def _leak(seen_in: str, held_out: str, side: str, texts: Sequence[str], found: Sequence[_Found], part: slice) -> Leak:
    each = np.stack([one.similarity[side][part] for one in found])
    similarity = each.max(axis=0)
    order = sorted(np.flatnonzero(similarity).tolist(), key=lambda place: (-similarity[place], place))
    evidence = [
        Evidence(
            held_out=texts[place],
            seen=found[int(each[:, place].argmax())].nearest[side][place + part.start],
            similarity=float(similarity[place]),
        )
        for place in order[:_MOST_EVIDENCE]
    ]
    return Leak(
        seen_in=seen_in,
        held_out=held_out,
        side=side,
        num=len(texts),
        exact=float(np.any([one.is_exact[side][part] for one in found], axis=0).mean()),
        near={str(level): float((similarity >= level).mean()) for level in LEVELS},
        evidence=tuple(evidence),
    )
