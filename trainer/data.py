"""Pairs on disk: splits as Parquet, tokens as flat memory-mapped files, and the order in which a seed visits them.

Knows texts, splits, token files and what a manifest records of them. Never knows a model, a device or a batch. Nothing
of torch, transformers or datasets is imported here, so that a plan can read what was measured without waiting.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.splits import NEAR_DUPLICATE, SHARE_HELD_OUT, SPLITS, near_duplicates, normalised, split_of

MIN_HELD_OUT_PAIRS = 32
"""Fewest pairs in validation and in test: a loss over less says little."""
SIDES = ("query", "positive")
MANIFEST, TOKENS = "manifest.json", "tokens.json"

Report = Callable[[str, int, int], None]
"""Progress for a person: the stage in words, how much is done, and of how much (0 where that is not known)."""

_PAIRS_PER_REPORT = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """Where pairs come from."""

    source: str
    """``nano`` (the packages installed here), the path of a .jsonl, .jsonl.gz or .parquet file, or a Hub data set."""
    name: str = ""
    """A Hub data set's configuration; for ``nano`` the packages to read, with commas between, all when empty."""
    split: str = "train"
    """The split of a Hub data set that is read (and divided again)."""


class Pair(NamedTuple):
    """A query, the text it should find, and what decides its split: pairs with one key stay together."""

    query: str
    positive: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataManifest:
    """What is known of prepared pairs. The hash covers the content alone: not the path, the time or the versions."""

    source: DataSource
    fingerprint: str
    """Identity of what was read: it decides whether to read again."""
    num_pairs: dict[str, int]
    """Pairs by split."""
    dropped: dict[str, int]
    """Candidates that were left out, by reason, near-duplicates of train among them."""
    split_rule: str
    content: dict[str, str]
    """SHA-256 of each split's texts."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages the pairs came from, by version; empty for files and Hub data sets."""

    @property
    def hash(self) -> str:
        """16 hex digits: the identity of the pairs and their splits."""
        record = {"num_pairs": self.num_pairs, "split_rule": self.split_rule, "content": self.content}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> DataManifest:
        record = json.loads(text)
        return cls(source=DataSource(**record.pop("source")), **record)


@dataclass(frozen=True, kw_only=True, slots=True)
class SideStatistics:
    """Token lengths of the queries or of the positives in the train split."""

    mean: float
    """Of whole texts, as the percentiles and the histogram: measured on a sample of the pairs."""
    percentiles: dict[str, float]
    """By percentile: 10, 50, 90, 99."""
    histogram: dict[str, float]
    """Share of texts by length, from the length that is the key up to the next key."""
    mean_at_max_length: float
    """After truncation, over every pair."""
    truncated_share: float
    """Share of texts that lost tokens, over every pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """How long the texts are for one tokenizer, and what a pair costs at one maximal length."""

    max_length: int
    query: SideStatistics
    positive: SideStatistics

    @property
    def tokens_per_pair(self) -> float:
        """Mean real tokens of a query and its positive, as trained on."""
        return self.query.mean_at_max_length + self.positive.mean_at_max_length

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TokenStatistics:
        record = json.loads(text)
        sides = {side: SideStatistics(**record[side]) for side in SIDES}
        return cls(max_length=record["max_length"], **sides)


def write_pairs(
    pairs: Iterable[Pair],
    folder: Path,
    *,
    source: DataSource,
    fingerprint: str,
    dropped: Mapping[str, int],
    split_rule: str,
    versions: Mapping[str, str],
    report: Report,
) -> DataManifest:
    """Divide pairs, take leaks out of the held-out splits, write one Parquet file a split and the manifest.

    Blank texts and repeated pairs are dropped and counted. Raises ``ValueError`` where too few pairs are left.
    """
    counts = Counter(dropped)
    splits: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for number, pair in enumerate(_distinct(pairs, counts)):
        splits[split_of(pair.key)].append(pair)
        if number % _PAIRS_PER_REPORT == 0:
            report("reading pairs", number, 0)
    _remove_leaks(splits, counts, report)
    _check_sizes(splits, source)
    for split, rows in splits.items():
        _write_split(folder, split, rows)
    manifest = DataManifest(
        source=source,
        fingerprint=fingerprint,
        num_pairs={split: len(rows) for split, rows in splits.items()},
        dropped={reason: count for reason, count in sorted(counts.items()) if count},
        split_rule=f"{split_rule}, {100 - 2 * SHARE_HELD_OUT}/{SHARE_HELD_OUT}/{SHARE_HELD_OUT} by blake2b, "
        f"held-out positives below MinHash similarity {NEAR_DUPLICATE} to train",
        content={split: _content(rows) for split, rows in splits.items()},
        versions=dict(versions),
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def read_texts(folder: Path, split: str) -> tuple[list[str], list[str]]:
    """Queries and positives of a split, in its order."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / f"{split}.parquet", columns=list(SIDES))
    return table["query"].to_pylist(), table["positive"].to_pylist()


class TokenSplit:
    """The tokens of one split, memory-mapped: opening costs nothing, and only what is read is loaded."""

    def __init__(self, folder: Path, split: str) -> None:
        self._tokens = {}
        self._offsets = {}
        for side in SIDES:
            (file,) = folder.glob(f"{split}.{side}.uint*")
            # As a plain array over the map: slicing a memmap costs far more, and it is sliced for each text.
            self._tokens[side] = np.memmap(file, file.suffix[1:], "r").view(np.ndarray)
            self._offsets[side] = np.load(folder / f"{split}.{side}.offsets.npy", mmap_mode="r")
        self.num_pairs = len(self._offsets["query"]) - 1

    def texts(self, indices: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Token ids of these pairs' queries and positives, one int64 array a text."""
        queries, positives = (self._side(side, indices) for side in SIDES)
        return queries, positives

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these pairs' queries and positives, ``(len(indices), 2)``."""
        return np.stack([self._offsets[side][indices + 1] - self._offsets[side][indices] for side in SIDES], axis=1)

    def _side(self, side: str, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        tokens, offsets = self._tokens[side], self._offsets[side]
        spans = zip(offsets[indices], offsets[indices + 1], strict=True)
        return [tokens[start:end].astype(np.int64) for start, end in spans]


def open_split(folder: Path, split: str) -> TokenSplit:
    """The tokens of ``split`` (train, validation or test) under a folder that ``trainer/tokens.py`` filled."""
    return TokenSplit(folder, split)


def pair_order(seed: int, num_pairs: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which pair stands at each position of an endless stream that visits every pair once in each epoch.

    Position ``p`` belongs to epoch ``p // num_pairs``; inside it the order is a keyed permutation: a Feistel network
    over the next power of four, walked until it falls inside (Black and Rogaway 2002). Constant memory, and the state
    to resume from is the position alone. ``(n,)`` in, ``(n,)`` out, each in ``[0, num_pairs)``.
    """
    epochs, inside = np.divmod(positions.astype(np.uint64), np.uint64(num_pairs))
    half = np.uint64(max(1, ((num_pairs - 1).bit_length() + 1) // 2))
    keys = _mix(_mix(np.full(len(epochs), seed % 2**64, np.uint64)) ^ epochs)
    order = _feistel(inside, half, keys)
    while len(outside := np.flatnonzero(order >= num_pairs)):
        order[outside] = _feistel(order[outside], half, keys[outside])
    return order.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for turn in range(6):
        left, right = right, left ^ (_mix(right ^ (keys + np.uint64(turn))) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the output depends on every bit of the input."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _distinct(pairs: Iterable[Pair], counts: Counter[str]) -> Iterator[Pair]:
    seen: set[bytes] = set()
    for pair in pairs:
        query, positive = normalised(pair.query), normalised(pair.positive)
        if not query or not positive:
            counts["blank text"] += 1
            continue
        digest = hashlib.blake2b(f"{query}\n{positive}".encode(), digest_size=12).digest()
        if digest in seen:
            counts["pair repeated"] += 1
            continue
        seen.add(digest)
        yield pair


def _remove_leaks(splits: dict[str, list[Pair]], counts: Counter[str], report: Report) -> None:
    leaks = iter(
        near_duplicates(
            [pair.positive for pair in splits["train"]],
            [pair.positive for split in SPLITS[1:] for pair in splits[split]],
            lambda done, total: report("looking for leaks from train into validation and test", done, total),
        )
    )
    for split in SPLITS[1:]:
        kept = [pair for pair in splits[split] if not next(leaks)]
        counts[f"near-duplicate of train in {split}"] += len(splits[split]) - len(kept)
        splits[split] = kept


def _check_sizes(splits: Mapping[str, Sequence[Pair]], source: DataSource) -> None:
    num_pairs = sum(map(len, splits.values()))
    if num_pairs == 0:
        raise ValueError(f"data source {source.source!r} holds no pairs: give a file or data set with pairs in it")
    smallest = min(len(rows) for rows in splits.values())
    if smallest < MIN_HELD_OUT_PAIRS:
        sizes = ", ".join(f"{len(rows)} for {split}" for split, rows in splits.items())
        needed = 1.25 * MIN_HELD_OUT_PAIRS * 100 / SHARE_HELD_OUT
        if num_pairs > needed:
            needed = num_pairs * MIN_HELD_OUT_PAIRS / max(1, smallest)
        raise ValueError(
            f"data source {source.source!r} has {num_pairs} different pairs, {sizes}, but each part needs "
            f"{MIN_HELD_OUT_PAIRS}: give about {ceil(needed / 100) * 100} pairs or more"
        )


def _write_split(folder: Path, split: str, rows: Sequence[Pair]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = zip(Pair._fields, zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), folder / f"{split}.parquet")


def _content(rows: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in rows:
        for text in pair[:2]:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()
