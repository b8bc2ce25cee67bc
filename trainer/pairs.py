"""Pairs from their sources into splits on disk, in memory that does not grow with their number.

Knows that a pair counts once, how large the held-out splits may be, and that a held-out pair must not be nearly in
train. Never knows where pairs come from (``trainer/sources.py``), nor tokens or models. The pairs of one source lie
together, in the order in which they were read; that order decides nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.data import MANIFEST, SIDES, DataManifest, DataSource, Origin, OriginFacts, Pair, Report
from trainer.processes import in_processes, tick
from trainer.repeats import DIGEST_BYTES, Repeats
from trainer.shards import BATCH_PAIRS, NEGATIVES, ShardWriter, batches_of, processes_for
from trainer.splits import (
    NEAR_DUPLICATE,
    SHARE_HELD_OUT,
    SPLITS,
    NearDuplicates,
    SplitRule,
    hash_key,
    normalised,
    signatures_of,
)

MIN_HELD_OUT_PAIRS = 32
"""Fewest pairs in validation and in test: a loss over less says little."""
MAX_HELD_OUT_PAIRS = 20_000
"""Most pairs in validation and in test: more would cost time in the search for leaks, and measure nothing better."""
_LEAK_TASKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A source that is open: its pairs, and what is known of them before they are read."""

    origin: Origin
    pairs: Iterable[Pair]
    split_rule: str
    """What makes a pair's key, in words."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class _Tally:
    """What is counted of one source on the way."""

    reading: Reading
    dropped: Counter[str]
    num_rows: int = 0
    num_pairs: Counter[str] = field(default_factory=Counter)
    digest: Any = field(default_factory=hashlib.sha256)


def write_pairs(
    readings: Iterable[Reading],
    folder: Path,
    *,
    source: DataSource,
    fingerprint: str,
    report: Report,
    num_processes: int | None = None,
) -> DataManifest:
    """Divide pairs, take leaks out of the held-out splits, write one Parquet file a split and the manifest.

    Blank texts, repeated pairs and useless negatives are dropped and counted. The result is the same whatever
    ``num_processes`` (all usable cores by default). Raises ``ValueError`` where too few pairs are left.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    repeats = Repeats(scratch)
    tallies = _take_in(readings, scratch, repeats, source.num_negatives, report)
    _check_sources(tallies)
    rule = SplitRule.for_counts(repeats.find(), MAX_HELD_OUT_PAIRS, MIN_HELD_OUT_PAIRS)
    held_out, content, num_negatives = _divide(scratch, folder, tallies, repeats, rule, report)
    shutil.rmtree(scratch)
    held_out = _without_leaks(held_out, tallies, folder, num_processes, report)
    num_pairs = {split: sum(tally.num_pairs[split] for tally in tallies) for split in SPLITS}
    _check_sizes(num_pairs, tallies, source)
    for number, split in enumerate(SPLITS[1:], start=1):
        content[split] = hashlib.sha256()
        with ShardWriter(folder / f"{split}.parquet", held_out.schema.remove(2).remove(2)) as writer:
            rows = held_out.filter(pc.equal(held_out["split"], number)).select(SIDES)
            content[split].update(_encoded(rows))
            writer.add(rows)
    manifest = DataManifest(
        source=source,
        fingerprint=fingerprint,
        num_pairs=num_pairs,
        dropped=_counts(sum((tally.dropped for tally in tallies), Counter())),
        split_rule=_rule_in_words(tallies, rule),
        content={name: digest.hexdigest() for name, digest in content.items()},
        versions={name: version for tally in tallies for name, version in tally.reading.versions.items()},
        origins=tuple(_facts(tally) for tally in tallies),
        num_negatives=num_negatives,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return manifest


def _take_in(
    readings: Iterable[Reading], scratch: Path, repeats: Repeats, num_negatives: int, report: Report
) -> list[_Tally]:
    """Write every row that is a pair to one file."""
    columns = {**dict.fromkeys(SIDES, pa.string()), "key": pa.uint64()}
    schema = pa.schema(columns | ({NEGATIVES: pa.list_(pa.string())} if num_negatives else {}))
    tallies: list[_Tally] = []
    with ShardWriter(scratch / "rows.parquet", schema) as writer:
        for reading in readings:
            tally = _Tally(reading=reading, dropped=Counter(reading.dropped))
            tallies.append(tally)
            pairs = _pairs_with_text(reading.pairs, tally.dropped, num_negatives)
            while batch := list(itertools.islice(pairs, BATCH_PAIRS)):
                report("reading pairs", writer.num_rows, 0)
                queries, positives, keys, negatives, digests = zip(*batch, strict=True)
                repeats.add(digests, keys)
                arrays = [list(queries), list(positives), np.array(keys, np.uint64), list(negatives)]
                writer.add(pa.table(arrays[: len(schema)], schema=schema))
                tally.num_rows += len(batch)
            writer.end_shard()
    return tallies


def _pairs_with_text(
    pairs: Iterable[Pair], dropped: Counter[str], num_negatives: int
) -> Iterator[tuple[str, str, int, list[str], bytes]]:
    """Query, positive, hash of the key, negatives to keep, and the digest that equal pairs share."""
    for pair in pairs:
        query, positive = normalised(pair.query), normalised(pair.positive)
        if not query or not positive:
            dropped["blank text"] += 1
            continue
        digest = hashlib.blake2b(f"{query}\n{positive}".encode(), digest_size=DIGEST_BYTES).digest()
        negatives = _negatives(pair.negatives, positive, dropped)[:num_negatives] if num_negatives else []
        yield pair.query, pair.positive, hash_key(pair.key), negatives, digest


def _negatives(negatives: Iterable[str], positive: str, dropped: Counter[str]) -> list[str]:
    kept: dict[str, str] = {}
    for negative in negatives:
        words = normalised(negative)
        if not words:
            dropped["blank negative"] += 1
        elif words == positive:
            dropped["negative equal to its positive"] += 1
        elif words in kept:
            dropped["negative repeated"] += 1
        else:
            kept[words] = negative
    return list(kept.values())


def _divide(
    scratch: Path, folder: Path, tallies: Sequence[_Tally], repeats: Repeats, rule: SplitRule, report: Report
) -> tuple[pa.Table, dict[str, Any], int]:
    """Write train; return the held-out pairs with their split and source, digests of train, and train's negatives."""
    content: dict[str, Any] = {"train": hashlib.sha256()}
    schema = pa.schema({**dict.fromkeys(SIDES, pa.string()), "split": pa.int64(), "origin": pa.int64()})
    held_out = [schema.empty_table()]
    ends = np.cumsum([tally.num_rows for tally in tallies])
    num_negatives = start = 0
    with pq.ParquetFile(scratch / "rows.parquet") as rows:
        schema = rows.schema_arrow.remove(2)
        with_negatives = NEGATIVES in schema.names
        if with_negatives:
            content[NEGATIVES] = hashlib.sha256()
        with ShardWriter(folder / "train.parquet", schema) as train:
            origin = 0
            for batch in batches_of(rows):
                report("dividing pairs", start, int(ends[-1]))
                # A row group never spans two sources.
                if start >= ends[origin]:
                    origin = int(np.searchsorted(ends, start, "right"))
                    train.end_shard()
                distinct = ~repeats.among(start, start + len(batch))
                start += len(batch)
                tally = tallies[origin]
                tally.dropped["pair repeated"] += len(batch) - int(distinct.sum())
                batch = pa.Table.from_batches([batch]).filter(pa.array(distinct))
                tally.digest.update(_encoded(batch))
                splits = rule.splits(batch["key"].to_numpy())
                ours = batch.drop_columns("key").filter(pa.array(splits == 0))
                train.add(ours)
                tally.num_pairs["train"] += len(ours)
                content["train"].update(_encoded(ours))
                if with_negatives:
                    content[NEGATIVES].update(_encoded_lists(ours[NEGATIVES].to_pylist()))
                    num_negatives += pc.sum(pc.list_value_length(ours[NEGATIVES])).as_py() or 0
                others = batch.select(SIDES)
                others = others.append_column("split", pa.array(splits)).append_column(
                    "origin", pa.array(np.full(len(splits), origin))
                )
                held_out.append(others.filter(pa.array(splits > 0)))
    return pa.concat_tables(held_out), content, num_negatives


def _without_leaks(
    held_out: pa.Table, tallies: Sequence[_Tally], folder: Path, num_processes: int | None, report: Report
) -> pa.Table:
    """Those of which train has no near-duplicate; all are counted."""
    leaks = np.zeros(len(held_out), bool)
    signatures = folder / "held-out.npy"
    np.save(signatures, signatures_of(held_out["positive"].to_pylist()))
    with pq.ParquetFile(folder / "train.parquet") as train:
        num_shards, num_train = train.num_row_groups, train.metadata.num_rows
    parts = np.array_split(np.arange(num_shards), max(1, min(num_shards, _LEAK_TASKS)))
    found = in_processes(
        _leaks,
        [_LeakTask(folder=folder, shards=part.tolist()) for part in parts],
        num_processes=processes_for(num_shards, num_processes),
        progress=lambda done: report("looking for leaks from train into validation and test", done, num_train),
    )
    signatures.unlink()
    leaks[np.concatenate(found)] = True
    for leak, split, origin in zip(leaks, held_out["split"].to_pylist(), held_out["origin"].to_pylist(), strict=True):
        if leak:
            tallies[origin].dropped[f"near-duplicate of train in {SPLITS[split]}"] += 1
        else:
            tallies[origin].num_pairs[SPLITS[split]] += 1
    return held_out.filter(pa.array(~leaks))


@dataclass(frozen=True, kw_only=True, slots=True)
class _LeakTask:
    folder: Path
    shards: list[int]


def _leaks(task: _LeakTask) -> NDArray[np.int64]:
    """Which held-out texts are nearly among the positives of these shards of train."""
    held_out = NearDuplicates(np.load(task.folder / "held-out.npy"))
    with pq.ParquetFile(task.folder / "train.parquet") as train:
        for batch in batches_of(train, task.shards, ["positive"]):
            held_out.pass_by(batch["positive"].to_pylist())
            tick(len(batch))
    return np.flatnonzero(held_out.found)


def _check_sources(tallies: Sequence[_Tally]) -> None:
    for tally in tallies:
        if not tally.num_rows:
            raise ValueError(
                f"data source {tally.reading.origin.source!r} holds no pairs: give a file or data set with pairs in it"
            )


def _check_sizes(num_pairs: Mapping[str, int], tallies: Sequence[_Tally], source: DataSource) -> None:
    total, smallest = sum(num_pairs.values()), min(num_pairs.values())
    names = " + ".join(repr(tally.reading.origin.source) for tally in tallies)
    if smallest < MIN_HELD_OUT_PAIRS:
        sizes = ", ".join(f"{number} for {split}" for split, number in num_pairs.items())
        needed = 1.25 * MIN_HELD_OUT_PAIRS * 100 / SHARE_HELD_OUT
        if total > needed:
            needed = total * MIN_HELD_OUT_PAIRS / max(1, smallest)
        raise ValueError(
            f"data source {names} has {total} different pairs, {sizes}, but each part needs "
            f"{MIN_HELD_OUT_PAIRS}: give about {ceil(needed / 100) * 100} pairs or more"
        )
    for tally in tallies:
        if source.weights and not tally.num_pairs["train"]:
            raise ValueError(
                f"data source {tally.reading.origin.source!r} has weight {tally.reading.origin.weight} and no pair of "
                "its own to train on: leave it out, or give it pairs that no earlier source has"
            )


def _rule_in_words(tallies: Sequence[_Tally], rule: SplitRule) -> str:
    by = " or ".join(dict.fromkeys(tally.reading.split_rule for tally in tallies))
    fewer = "" if rule == SplitRule() else f" up to {MAX_HELD_OUT_PAIRS} pairs held out in each"
    return (
        f"{by}, {100 - 2 * SHARE_HELD_OUT}/{SHARE_HELD_OUT}/{SHARE_HELD_OUT} by blake2b{fewer}, "
        f"held-out positives below MinHash similarity {NEAR_DUPLICATE} to train"
    )


def _facts(tally: _Tally) -> OriginFacts:
    return OriginFacts(
        origin=tally.reading.origin,
        num_pairs={split: tally.num_pairs[split] for split in SPLITS},
        dropped=_counts(tally.dropped),
        content=tally.digest.hexdigest(),
    )


def _counts(counter: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counter.items()) if count}


def _encoded(rows: pa.Table) -> bytes:
    """The texts of pairs, each after its length: what a split's digest covers."""
    texts = itertools.chain(*zip(rows["query"].to_pylist(), rows["positive"].to_pylist(), strict=True))
    return _with_lengths(texts)


def _encoded_lists(lists: Iterable[Sequence[str]]) -> bytes:
    return b"".join(len(texts).to_bytes(8, "big") + _with_lengths(texts) for texts in lists)


def _with_lengths(texts: Iterable[str]) -> bytes:
    encoded = (text.encode() for text in texts)
    return b"".join(len(data).to_bytes(8, "big") + data for data in encoded)
