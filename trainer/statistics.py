"""What is in prepared pairs: lengths, repeats, near-duplicates, languages, licences, for each source by itself.

Knows the train split of ``trainer/pairs.py``, tokenizers and how texts are compared. Never knows a sweep. The train
split is read once, in several processes, some thousand pairs at a time; memory does not grow with it: what concerns all
pairs is summed or kept in files, the rest is measured on a sample of each source that is spread evenly over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.census import take_census
from trainer.data import SIDES, DataManifest, Origin, Report, SideStatistics
from trainer.language import Languages, guess_languages
from trainer.licences import stated_licences
from trainer.splits import NEAR_DUPLICATE
from trainer.tokens import side_statistics

RECIPE = 1
"""Raise it when a change below changes a number: what was measured before is then measured again."""
SAMPLED_PAIRS, MAX_SAMPLED_PAIRS = 4000, 20_000
"""Of one source, and of all sources together."""
LENGTH_EDGES = (0, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 4096)
"""Half powers of two, so that bars are equally wide on a log axis."""
# What is left out of hard negatives is no pair.
_OF_NEGATIVES = frozenset({"blank negative", "negative equal to its positive", "negative repeated"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths(SideStatistics):
    """Tokens of the sampled texts of one side for one tokenizer, whole, prefix and special tokens included."""

    tokenizer: str
    """The models that have it."""
    side: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStatistics:
    """What one source gave. Shares are of its train pairs unless said otherwise."""

    origin: Origin
    num_pairs: dict[str, int]
    """By split."""
    num_read: int
    """Candidates that were read of it."""
    dropped: dict[str, int]
    """Candidates that were left out, by reason."""
    drawn_share: float
    """Its share of the pairs that are trained on: by weights, or by pairs."""
    num_sampled: int
    identical_share: float
    """Pairs whose two texts have the same words."""
    repeated_share: dict[str, float]
    """By side: texts with the same words as an earlier one, of this source or one before it."""
    near_share: dict[str, float]
    """By side, of the sample: texts with another one at similarity 0.5 or above anywhere in train, equal ones too."""
    near_in: dict[str, list[float]]
    """By side, of the sample: the same within each source, in the order of the sources."""
    mean_words: dict[str, float]
    languages: dict[str, Languages]
    """By side, of the sample."""
    lengths: tuple[Lengths, ...]
    licences: dict[str, int]
    content: str
    """SHA-256 of the texts of its distinct pairs."""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.origin.source, self.origin.name)))

    @property
    def empty_share(self) -> float:
        """Candidates without a word on one side, of those that were read."""
        return self.dropped.get("blank text", 0) / max(1, self.num_read)

    @property
    def repeated_pair_share(self) -> float:
        """Candidates that repeat an earlier pair word for word, of those that were read."""
        return self.dropped.get("pair repeated", 0) / max(1, self.num_read)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataStatistics:
    """What is in prepared pairs."""

    data: str
    """Hash of the manifest."""
    max_length: int
    near_duplicate: float
    """Similarity from which a text counts as a near-duplicate."""
    sources: tuple[SourceStatistics, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> DataStatistics:
        record = json.loads(text)
        return cls(**{**record, "sources": tuple(_source_from(fields) for fields in record["sources"])})


def _source_from(fields: dict[str, Any]) -> SourceStatistics:
    origin = {**fields.pop("origin")}
    languages = {side: Languages(**one) for side, one in fields.pop("languages").items()}
    lengths = tuple(Lengths(**one) for one in fields.pop("lengths"))
    origin["columns"] = tuple(origin["columns"])
    return SourceStatistics(origin=Origin(**origin), languages=languages, lengths=lengths, **fields)


def measure(
    pairs: Path,
    manifest: DataManifest,
    tokenizers: Mapping[str, Any],
    *,
    max_length: int,
    report: Report,
    num_processes: int | None = None,
) -> DataStatistics:
    """Measure the train split under ``pairs``. ``tokenizers`` are ``tokenizers.Tokenizer`` by a name for a person.

    The result is the same whatever ``num_processes`` (all usable cores by default).
    """
    num_train = [facts.num_pairs["train"] for facts in manifest.origins]
    places = _sampled_places(num_train)
    census = take_census(pairs, num_train, places, report=report, num_processes=num_processes)
    prefixes = {"query": manifest.source.query_prefix, "positive": manifest.source.positive_prefix}
    sources = []
    for number, facts in enumerate(manifest.origins):
        report("measuring sources", number, len(num_train))
        found = census[number]
        num = max(1, num_train[number])
        sources.append(
            SourceStatistics(
                origin=facts.origin,
                num_pairs=facts.num_pairs,
                num_read=sum(facts.num_pairs.values())
                + sum(count for reason, count in facts.dropped.items() if reason not in _OF_NEGATIVES),
                dropped=facts.dropped,
                drawn_share=_drawn_shares(manifest)[number],
                num_sampled=len(places[number]),
                identical_share=found.num_identical / num,
                repeated_share={side: found.num_repeated[side] / num for side in SIDES},
                near_share={side: _share(np.any(found.near[side], axis=0)) for side in SIDES},
                near_in={side: [_share(row) for row in found.near[side]] for side in SIDES},
                mean_words={side: found.num_words[side] / num for side in SIDES},
                languages={side: guess_languages(found.sample[side]) for side in SIDES},
                lengths=tuple(
                    _lengths(words, side, tokenizer, [prefixes[side] + text for text in found.sample[side]], max_length)
                    for words, tokenizer in tokenizers.items()
                    for side in SIDES
                ),
                licences=stated_licences(facts.origin),
                content=facts.content,
            )
        )
    report("measuring sources", len(num_train), len(num_train))
    return DataStatistics(
        data=manifest.hash, max_length=max_length, near_duplicate=NEAR_DUPLICATE, sources=tuple(sources)
    )


def _sampled_places(num_train: Sequence[int]) -> list[NDArray[np.int64]]:
    """Places in train of the sampled pairs of each source: evenly spread, the first and the last among them."""
    most = min(SAMPLED_PAIRS, MAX_SAMPLED_PAIRS // len(num_train))
    ends = np.cumsum(num_train).tolist()
    return [
        np.unique(np.linspace(end - num, end - 1, min(most, num)).astype(np.int64))
        for end, num in zip(ends, num_train, strict=True)
    ]


def _drawn_shares(manifest: DataManifest) -> list[float]:
    drawn = manifest.source.weights or tuple(facts.num_pairs["train"] for facts in manifest.origins)
    return [one / sum(drawn) for one in drawn]


def _lengths(words: str, side: str, tokenizer: Any, texts: Sequence[str], max_length: int) -> Lengths:
    tokenizer.no_truncation()
    lengths = np.array([len(encoding) for encoding in tokenizer.encode_batch_fast(texts)] or [0])
    measured = side_statistics(
        lengths,
        mean_at_max_length=float(np.minimum(lengths, max_length).mean()),
        truncated_share=_share(lengths > max_length),
        edges=LENGTH_EDGES,
    )
    return Lengths(**asdict(measured), tokenizer=words, side=side)


def _share(found: NDArray[Any]) -> float:
    return float(found.mean()) if len(found) else 0.0
