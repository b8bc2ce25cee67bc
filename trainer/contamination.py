"""How much of the evaluation tasks' texts stands in the pairs that are trained on.

Knows texts of tasks and the train split. Never knows where a task's texts come from (``trainer/task_texts.py``) or how
a task is scored. Two measures, both of normalised words:

- exact: a task's text is, whole, a query or a positive of train;
- word 8-grams: a text counts as contaminated where at least 70 % of its 8-grams stand in train (Chowdhery et al. 2022,
  PaLM, section 8); and, beside it, where it shares one 13-gram with train (Brown et al. 2020, GPT-3, appendix C).

Texts of fewer than eight words have no 8-gram: for them there is the exact measure alone. The 13-gram is the stricter
sign, but most texts of clustering, classification and similarity tasks are shorter than that, so 8 decides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.data import SIDES, DataManifest, Report
from trainer.processes import in_processes, num_usable_cores, tick
from trainer.shards import batches_of, processes_for
from trainer.splits import normalised, spans_of, word_hashes

SIZES = (8, 13)
SHARE = 0.7
"""Of a text's 8-grams that stand in train, from which the text counts as contaminated."""
MOST_TEXTS = 20_000
"""Of one task: of more, an even sample is looked for."""
BOUND = 0.01
"""Share of a task's texts that may be contaminated before a person is told to do something about it."""
_MOST_EVIDENCE, _EXCERPT = 3, 400
NO_ROW = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A text of a task and what train has of it."""

    text: str
    train: str
    """The train text that shares most with it, from the first shared 8-gram on."""
    share: float
    """Of the text's 8-grams that stand in train; 1 where the text is there whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskContamination:
    """What train has of one task's texts. Shares are of all texts that were looked for."""

    task: str
    num_texts: int
    """Different texts of the task, after normalising."""
    num_looked_for: int
    short: float
    """Texts of fewer than eight words, for which only the exact measure speaks."""
    exact: float
    eight_grams: float
    """At least 70 % of the text's 8-grams are in train."""
    thirteen_grams: float
    """At least one 13-gram of the text is in train."""
    contaminated: float
    """Exact, or by 8-grams: what the bound is held against."""
    evidence: tuple[Hit, ...]


def problems(found: Sequence[TaskContamination], bound: float) -> tuple[str, ...]:
    """A sentence for each task with more than a share of ``bound`` of contaminated texts."""
    return tuple(
        f"{one.contaminated:.2%} of the texts of {one.task} stand in train, and {bound:.2%} may"
        for one in found
        if one.contaminated > bound
    )


class _Grams:
    """The n-grams of many texts, of one size, and which of them have been seen in which row of train."""

    def __init__(self, words: NDArray[np.uint64], ends: NDArray[np.int64], size: int) -> None:
        self.size = size
        grams, self.owners = ngrams(words, ends, size)
        self.table, self.places = np.unique(grams, return_inverse=True)
        self.rows = np.full(len(self.table), NO_ROW)

    def look(self, words: NDArray[np.uint64], ends: NDArray[np.int64], first_row: int) -> None:
        """Note the n-grams of the next texts of train, the first of which is of ``first_row``."""
        grams, owners = ngrams(words, ends, self.size)
        places = np.searchsorted(self.table, grams)
        places[places == len(self.table)] = 0
        hits = np.flatnonzero(self.table[places] == grams) if len(self.table) else np.empty(0, np.int64)
        np.minimum.at(self.rows, places[hits], first_row + owners[hits])

    def shares(self, num_texts: int) -> NDArray[np.float64]:
        """Of each text's n-grams, how many have been seen, ``(num_texts,)``; 0 for a text that has none."""
        seen = (self.rows != NO_ROW)[self.places]
        counts = np.bincount(self.owners, minlength=num_texts)
        return np.asarray(np.bincount(self.owners, seen, num_texts) / np.maximum(1, counts))

    def row_of(self, text: int) -> int:
        """The row of train that most of the seen n-grams of a text were first seen in."""
        rows = self.rows[self.places[self.owners == text]]
        values, counts = np.unique(rows[rows != NO_ROW], return_counts=True)
        return int(values[np.argmax(counts)])


def ngrams(
    words: NDArray[np.uint64], ends: NDArray[np.int64], size: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the word n-grams inside each text, in their order, and the text that each belongs to."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    counts = np.maximum(0, ends - starts - size + 1)
    owners = np.repeat(np.arange(len(ends)), counts)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = starts[owners] + within
    factors = np.random.default_rng(size).integers(0, 2**64, size, dtype=np.uint64) | np.uint64(1)
    grams = np.zeros(len(places), np.uint64)
    for offset, factor in enumerate(factors):
        grams += words[places + offset] * factor
    return grams ^ (grams >> np.uint64(32)), owners


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    pairs: Path
    wanted: Path
    shards: tuple[int, ...]
    start: int
    """How many pairs of train lie before them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    exact: NDArray[np.int64]
    """The first row of train that has the whole text, by text; a large number where none has."""
    rows: dict[int, NDArray[np.int64]]
    """By size: the same by n-gram."""


def measure_contamination(
    pairs: Path,
    manifest: DataManifest,
    tasks: Iterable[tuple[str, Iterable[str]]],
    *,
    report: Report,
    num_processes: int | None = None,
) -> tuple[TaskContamination, ...]:
    """How much of each task's texts stands in the train split under ``pairs``.

    ``tasks`` are names and texts; texts with the same words count once. Memory grows with the texts of the tasks, at
    most ``MOST_TEXTS`` of each, and not with train, which is read once.
    """
    names, numbers, texts, owners = [], [], list[str](), list[int]()
    for number, (name, given) in enumerate(tasks):
        report(f"reading the texts of {name}", 0, 0)
        distinct = list({words: text for text in given if (words := normalised(text))}.values())
        chosen = np.unique(np.linspace(0, len(distinct) - 1, min(MOST_TEXTS, len(distinct))).astype(np.int64))
        names.append(name)
        numbers.append(len(distinct))
        texts += [distinct[place] for place in chosen]
        owners += [number] * len(chosen)
    seen = _look_everywhere(pairs, manifest, texts, report, num_processes)
    exact = np.min([part.exact for part in seen], axis=0)
    grams = {size: _Grams(*word_hashes(texts), size) for size in SIZES}
    for size, one in grams.items():
        one.rows = np.min([part.rows[size] for part in seen], axis=0)
    mine = np.array(owners, np.int64)
    return tuple(
        _of_task(name, number, np.flatnonzero(mine == place).tolist(), texts, exact, grams, pairs)
        for place, (name, number) in enumerate(zip(names, numbers, strict=True))
    )


def _look_everywhere(
    pairs: Path, manifest: DataManifest, texts: Sequence[str], report: Report, num_processes: int | None
) -> list[_Seen]:
    metadata = pq.read_metadata(pairs / "train.parquet")
    starts = np.cumsum([0, *(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))])
    parts = np.array_split(np.arange(len(starts) - 1), min(len(starts) - 1, 2 * num_usable_cores()))
    with tempfile.TemporaryDirectory(prefix="isoflop-contamination-") as folder:
        wanted = Path(folder) / "texts.parquet"
        pq.write_table(pa.table({"text": list(texts)}), wanted)
        return in_processes(
            _look,
            [
                _Task(pairs=pairs, wanted=wanted, shards=tuple(part.tolist()), start=int(starts[part[0]]))
                for part in parts
            ],
            num_processes=processes_for(len(parts), num_processes),
            progress=lambda done: report("looking for the tasks' texts in train", done, manifest.num_pairs["train"]),
        )


def _look(task: _Task) -> _Seen:
    texts = pq.read_table(task.wanted)["text"].to_pylist()
    places = {normalised(text): place for place, text in enumerate(texts)}
    exact = np.full(len(texts), NO_ROW)
    grams = {size: _Grams(*word_hashes(texts), size) for size in SIZES}
    row = task.start
    with pq.ParquetFile(task.pairs / "train.parquet") as train:
        for batch in batches_of(train, task.shards, list(SIDES)):
            for side in SIDES:
                passing = batch[side].to_pylist()
                words, ends = word_hashes(passing)
                for one in grams.values():
                    one.look(words, ends, row)
                for offset, text in enumerate(passing):
                    place = places.get(normalised(text))
                    if place is not None:
                        exact[place] = min(exact[place], row + offset)
            row += len(batch)
            tick(len(batch))
    return _Seen(exact=exact, rows={size: one.rows for size, one in grams.items()})


def _of_task(
    name: str,
    num_texts: int,
    own: Sequence[int],
    texts: Sequence[str],
    exact: NDArray[np.int64],
    grams: Mapping[int, _Grams],
    pairs: Path,
) -> TaskContamination:
    is_exact = exact[list(own)] != NO_ROW
    eight, thirteen = (grams[size].shares(len(texts))[list(own)] for size in SIZES)
    is_short = np.array([len(normalised(texts[place]).split()) < SIZES[0] for place in own], bool)
    # The most suspicious first, longer texts before shorter ones that say less.
    suspicion = np.where(is_exact, 1.0, eight)
    order = sorted(range(len(own)), key=lambda i: (-suspicion[i], -len(texts[own[i]]), i))[:_MOST_EVIDENCE]
    evidence = [
        _hit(texts[own[i]], int(exact[own[i]]) if is_exact[i] else grams[SIZES[0]].row_of(own[i]), pairs)
        for i in order
        if suspicion[i] > 0
    ]
    return TaskContamination(
        task=name,
        num_texts=num_texts,
        num_looked_for=len(own),
        short=_share(is_short),
        exact=_share(is_exact),
        eight_grams=_share(eight >= SHARE),
        thirteen_grams=_share(thirteen > 0),
        contaminated=_share(is_exact | (eight >= SHARE)),
        evidence=tuple(evidence),
    )


def _hit(text: str, row: int, pairs: Path) -> Hit:
    """The text of this row of train that shares more with ``text``, and how much."""
    with pq.ParquetFile(pairs / "train.parquet") as train:
        shard = 0
        while row >= train.metadata.row_group(shard).num_rows:
            row -= train.metadata.row_group(shard).num_rows
            shard += 1
        pair = train.read_row_group(shard, columns=list(SIDES)).slice(row, 1).to_pylist()[0]
    share, found = max(((_shared(text, pair[side]), pair[side]) for side in SIDES), key=lambda one: one[0])
    return Hit(text=text, train=_around(found, text), share=share)


def _around(train: str, text: str) -> str:
    """The part of ``train`` that begins with the first word 8-gram it shares with ``text``."""
    wanted = {tuple(words) for words in _runs([word for word, _ in spans_of(text)])}
    spans = spans_of(train)
    shared = (place for place, words in enumerate(_runs([word for word, _ in spans])) if tuple(words) in wanted)
    start = next(shared, 0)
    head = "... " if start else ""
    return head + train[spans[start][1] if start else 0 :][:_EXCERPT]


def _runs(words: Sequence[str]) -> list[Sequence[str]]:
    return [words[place : place + SIZES[0]] for place in range(len(words) - SIZES[0] + 1)]


def _shared(text: str, train: str) -> float:
    """Share of the 8-grams of ``text`` that ``train`` has; 1 where it is the same text."""
    if normalised(text) == normalised(train):
        return 1.0
    grams, seen = (ngrams(*word_hashes([one]), SIZES[0])[0] for one in (text, train))
    return _share(np.isin(grams, seen))


def _share(found: NDArray[np.bool_]) -> float:
    return float(found.mean()) if len(found) else 0.0
