"""What is known of pairs and of their tokens, and how a trial reads them: memory-mapped, by the position in a stream.

Knows sources, splits, token files and what a manifest records of them. Never knows a model, a device or a batch.
Nothing of torch, transformers, datasets or pyarrow is imported here, so that a plan can read what was measured without
waiting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.order import Mixture, pair_order

SIDES = ("query", "positive")
NEGATIVE = "negative"
MANIFEST, TOKENS, MIXTURE = "manifest.json", "tokens.json", "mixture.json"

Report = Callable[[str, int, int], None]
"""Progress for a person: the stage in words, how much is done, and of how much (0 where that is not known)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """One place that pairs come from."""

    source: str
    """``nano`` (the packages installed here), the path of a .jsonl, .jsonl.gz or .parquet file or of a folder of them,
    or a Hub data set."""
    name: str = ""
    """A Hub data set's configuration; for ``nano`` the packages to read, with commas between, all when empty."""
    split: str = "train"
    """The split of a Hub data set that is read (and divided again)."""
    weight: int = 0
    """Its share of a mixture, against the other weights; 0 in all of them draws every pair equally often."""
    columns: tuple[str, ...] = ()
    """The columns of the query and of the positive, where they have other names than those that are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """Where pairs come from, one source or several, and how their texts are used."""

    source: str = ""
    """As in ``Origin``, for one source; empty where there are several."""
    name: str = ""
    split: str = "train"
    columns: tuple[str, ...] = ()
    sources: tuple[Origin, ...] = ()
    """Several sources; either all have weights or none has."""
    query_prefix: str = ""
    """Stands before every query."""
    positive_prefix: str = ""
    """Stands before every positive and every hard negative."""
    num_negatives: int = 0
    """Hard negatives that are kept of each pair for training, at most."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The sources, in the order in which they are read."""
        return self.sources or (Origin(source=self.source, name=self.name, split=self.split, columns=self.columns),)

    @property
    def weights(self) -> tuple[int, ...]:
        """Of the sources, in their order; empty where every pair is drawn equally often."""
        weights = tuple(origin.weight for origin in self.origins)
        return weights if any(weights) else ()

    @property
    def settings(self) -> dict[str, Any]:
        """What is set beside the sources themselves, by name."""
        names = ("weights", "query_prefix", "positive_prefix", "num_negatives")
        return {name: value for name in names if (value := getattr(self, name))}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DataSource:
        """The source whose ``asdict`` this is."""
        sources = tuple(_origin(origin) for origin in fields.get("sources", ()))
        return cls(**{**fields, "sources": sources, "columns": tuple(fields.get("columns", ()))})


def _origin(fields: dict[str, Any]) -> Origin:
    """The origin whose ``asdict`` this is, also from before it could name its columns."""
    return Origin(**{**fields, "columns": tuple(fields.get("columns", ()))})


class Pair(NamedTuple):
    """A query, the text it should find, what decides its split (pairs with one key stay together), and texts it should
    not find.
    """

    query: str
    positive: str
    key: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginFacts:
    """What one source gave."""

    origin: Origin
    num_pairs: dict[str, int]
    """Pairs by split."""
    dropped: dict[str, int]
    """Candidates that were left out, by reason."""
    content: str
    """SHA-256 of the texts of its distinct pairs, in the order in which they were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataManifest:
    """What is known of prepared pairs. The hash covers the content and its use alone: not path, time or versions."""

    source: DataSource
    fingerprint: str
    """Identity of what was read: it decides whether to read again."""
    num_pairs: dict[str, int]
    """Pairs by split."""
    dropped: dict[str, int]
    """Candidates that were left out, by reason, near-duplicates of train among them."""
    split_rule: str
    content: dict[str, str]
    """SHA-256 of each split's texts, and of the hard negatives where they are kept."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages the pairs came from, by version; empty for files and Hub data sets."""
    origins: tuple[OriginFacts, ...] = ()
    """Each source by itself."""
    num_negatives: int = 0
    """Hard negatives of all train pairs together."""

    @property
    def hash(self) -> str:
        """16 hex digits: the identity of the pairs, their splits, and what is set of their use."""
        record: dict[str, Any] = {
            "num_pairs": self.num_pairs,
            "split_rule": self.split_rule,
            "content": self.content,
            **self.source.settings,
        }
        if self.mixture:
            record["mixed_pairs"] = self.mixture.num_pairs
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def mixture(self) -> Mixture | None:
        """How train is drawn from its sources; ``None`` where every pair is drawn equally often."""
        weights = self.source.weights
        return Mixture([facts.num_pairs["train"] for facts in self.origins], weights) if weights else None

    @property
    def pairs_per_epoch(self) -> int:
        """Train pairs until one comes a second time: all, or what the most repeated source of a mixture allows."""
        return int(self.mixture.pairs_per_epoch) if self.mixture else self.num_pairs["train"]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> DataManifest:
        record = json.loads(text)
        source = DataSource.from_dict(record.pop("source"))
        origins = tuple(
            OriginFacts(origin=_origin(facts.pop("origin")), **facts) for facts in record.pop("origins", ())
        )
        return cls(source=source, origins=origins, **record)


@dataclass(frozen=True, kw_only=True, slots=True)
class SideStatistics:
    """Token lengths of the queries, of the positives or of the hard negatives in the train split."""

    mean: float
    """Of whole texts, as the percentiles and the histogram: measured on a sample of the pairs."""
    percentiles: dict[str, float]
    """By percentile: 10, 50, 90, 99."""
    histogram: dict[str, float]
    """Share of texts by length, from the length that is the key up to the next key."""
    mean_at_max_length: float
    """After truncation, over every text; each source by its weight where sources have weights."""
    truncated_share: float
    """Share of texts that lost tokens, over every text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """How long the texts are for one tokenizer, and what a pair costs at one maximal length."""

    max_length: int
    query: SideStatistics
    positive: SideStatistics
    negative: SideStatistics | None = None
    negative_tokens_per_pair: float = 0.0
    """Mean real tokens of all of a pair's hard negatives together, as trained on."""

    @property
    def tokens_per_pair(self) -> float:
        """Mean real tokens of a query, its positive and its hard negatives, as trained on."""
        return self.query.mean_at_max_length + self.positive.mean_at_max_length + self.negative_tokens_per_pair

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TokenStatistics:
        record = json.loads(text)
        sides = {side: SideStatistics(**record.pop(side)) for side in (*SIDES, NEGATIVE) if record.get(side)}
        return cls(**{**record, **sides})


class TokenSplit:
    """The tokens of one split, memory-mapped: opening costs nothing, and only what is read is loaded."""

    def __init__(self, folder: Path, split: str) -> None:
        self._texts = {side: _Texts(folder, f"{split}.{side}") for side in SIDES}
        self.num_pairs = len(self._texts["query"].offsets) - 1
        # Negatives lie one after the other; where each pair's begin stands in a file of its own.
        firsts = folder / f"{split}.{NEGATIVE}.first.npy"
        self._firsts = np.load(firsts, mmap_mode="r") if firsts.exists() else None
        self._negatives = _Texts(folder, f"{split}.{NEGATIVE}") if firsts.exists() else None
        mixture = folder / f"{split}.{MIXTURE}"
        self._mixture = Mixture.from_json(mixture.read_text()) if mixture.exists() else None

    def texts(self, indices: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Token ids of these pairs' queries and positives, one int64 array a text."""
        return self._texts["query"].read(indices), self._texts["positive"].read(indices)

    def negatives(self, indices: NDArray[np.int64]) -> list[list[NDArray[np.int64]]]:
        """Token ids of these pairs' hard negatives, one int64 array a text; empty lists where there are none."""
        if self._negatives is None or self._firsts is None:
            return [[] for _ in indices]
        spans = zip(self._firsts[indices], self._firsts[indices + 1], strict=True)
        return [self._negatives.read(np.arange(first, end)) for first, end in spans]

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these pairs' queries and positives, ``(len(indices), 2)``."""
        return np.stack([self._texts[side].lengths(indices) for side in SIDES], axis=1)

    def order(self, seed: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which pair stands at each position of the endless stream that ``seed`` draws, ``(n,)`` in, ``(n,)`` out.

        Sources without weights are one permutation over all their pairs in each epoch; sources with weights are drawn
        by them, each in epochs of its own.
        """
        if self._mixture:
            return self._mixture.order(seed, positions)
        return pair_order(seed, self.num_pairs, positions)

    def epochs(self, num_pairs: int) -> float:
        """Passes that the first ``num_pairs`` of a stream make over the split: over its most repeated source where
        sources have weights.
        """
        return self._mixture.epochs(num_pairs) if self._mixture else num_pairs / self.num_pairs


class _Texts:
    """Token ids of many texts in one flat file, memory-mapped, and where each begins."""

    def __init__(self, folder: Path, stem: str) -> None:
        (file,) = folder.glob(f"{stem}.uint*")
        # An empty file cannot be mapped. Else a plain array over the map: slicing a memmap costs far more, and it is
        # sliced for each text.
        empty = file.stat().st_size == 0
        dtype = file.suffix[1:]
        self._tokens = np.zeros(0, dtype) if empty else np.memmap(file, dtype, "r").view(np.ndarray)
        self.offsets = np.load(folder / f"{stem}.offsets.npy", mmap_mode="r")

    def read(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        spans = zip(self.offsets[indices], self.offsets[indices + 1], strict=True)
        return [self._tokens[start:end].astype(np.int64) for start, end in spans]

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(self.offsets[indices + 1] - self.offsets[indices])


def open_split(folder: Path, split: str) -> TokenSplit:
    """The tokens of ``split`` (train, validation or test) under a folder that ``trainer/tokens.py`` filled."""
    return TokenSplit(folder, split)
