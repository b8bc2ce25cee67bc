"""Texts into tokens: the flat files that trials read, and what was measured on the way.

Knows a ``tokenizers.Tokenizer``, the shards of ``trainer/shards.py`` and the files of ``trainer/data.py``. Never knows
a model. Shards are encoded by several processes, each shard whole or not at all, and what is finished is never done
again; then they are put together in their order, so the files are the same bytes whoever made which shard, and when.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.cache import build_once, write_atomically
from trainer.data import MANIFEST, MIXTURE, NEGATIVE, SIDES, TOKENS, DataManifest, SideStatistics, TokenStatistics
from trainer.processes import in_processes, tick
from trainer.shards import NEGATIVES, processes_for
from trainer.splits import SPLITS

_TEXTS_PER_BATCH = 2048
_SAMPLED_PAIRS = 1000
_HISTOGRAM_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
# Few texts need more than this many characters for a token; those that do are encoded whole.
_CHARACTERS_PER_TOKEN = 8
_SHARDS, _TOKENIZER, _FACTS = "shards", "tokenizer.json", "facts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """A part of a split that is encoded as one piece."""

    pairs: Path
    tokens: Path
    """The folder of all tokens."""
    split: str
    number: int
    start: int
    """How many pairs of the split lie before it."""
    num_pairs: int
    sample_step: int
    """Every so many pairs of the split, one is measured without truncation."""
    max_length: int
    prefixes: dict[str, str]
    """What stands before each text, by side."""
    dtype: str

    @property
    def folder(self) -> Path:
        return self.tokens / _SHARDS / f"{self.split}-{self.number}"

    @property
    def sides(self) -> tuple[str, ...]:
        return tuple(self.prefixes)


def write_tokens(
    pairs: Path,
    folder: Path,
    *,
    tokenizer: Any,
    max_length: int,
    progress: Callable[[int, int], None],
    num_processes: int | None = None,
) -> TokenStatistics:
    """Encode every split of ``pairs`` with a ``tokenizers.Tokenizer`` into flat files under ``folder``.

    Each side of a split is one file of token ids (uint16, or uint32 where the vocabulary needs it) and one of int64
    offsets, ``(num_pairs + 1,)``; hard negatives have offsets of their own and a file of each pair's first. Texts are
    cut to ``max_length`` tokens as the tokenizer cuts them, special tokens and prefix included. An interrupted call
    goes on in the same ``folder`` where it stopped. ``progress`` gets pairs done and in all.
    """
    manifest = DataManifest.from_json((pairs / MANIFEST).read_text())
    shards = _shards(pairs, folder, manifest, tokenizer, max_length)
    if not (folder / TOKENS).exists():
        (folder / _SHARDS).mkdir(exist_ok=True)
        write_atomically(folder / _TOKENIZER, tokenizer.to_str())
        _encode_shards(shards, progress, num_processes)
        for split in SPLITS:
            _merge(folder, split, [shard for shard in shards if shard.split == split])
        if manifest.mixture:
            (folder / f"train.{MIXTURE}").write_text(manifest.mixture.to_json())
        train = [shard for shard in shards if shard.split == "train"]
        write_atomically(folder / TOKENS, _statistics(train, manifest, max_length).to_json())
    shutil.rmtree(folder / _SHARDS)
    (folder / _TOKENIZER).unlink(missing_ok=True)
    return TokenStatistics.from_json((folder / TOKENS).read_text())


def _shards(pairs: Path, folder: Path, manifest: DataManifest, tokenizer: Any, max_length: int) -> list[_Shard]:
    source = manifest.source
    prefixes = {"query": source.query_prefix, "positive": source.positive_prefix}
    shards = []
    for split in SPLITS:
        negatives = {NEGATIVE: source.positive_prefix} if split == "train" and source.num_negatives else {}
        start = 0
        metadata = pq.read_metadata(pairs / f"{split}.parquet")
        for number in range(metadata.num_row_groups):
            shards.append(
                _Shard(
                    pairs=pairs,
                    tokens=folder,
                    split=split,
                    number=number,
                    start=start,
                    num_pairs=metadata.row_group(number).num_rows,
                    sample_step=max(1, metadata.num_rows // _SAMPLED_PAIRS),
                    max_length=max_length,
                    prefixes=prefixes | negatives,
                    dtype="uint16" if tokenizer.get_vocab_size() <= 65536 else "uint32",
                )
            )
            start += shards[-1].num_pairs
    return shards


def _encode_shards(shards: Sequence[_Shard], progress: Callable[[int, int], None], num_processes: int | None) -> None:
    total = sum(shard.num_pairs for shard in shards)
    missing = [shard for shard in shards if not shard.folder.exists()]
    before = total - sum(shard.num_pairs for shard in missing)
    in_processes(
        _encode_shard,
        missing,
        num_processes=processes_for(len(missing) if len(shards) > len(SPLITS) else 1, num_processes),
        progress=lambda done: progress(before + done, total),
    )


def _encode_shard(shard: _Shard) -> None:
    build_once(shard.folder, lambda partial: _write_shard(shard, partial))


def _write_shard(shard: _Shard, folder: Path) -> None:
    tokenizer = _tokenizer(shard.tokens / _TOKENIZER)
    counts = {side: {"texts": 0, "tokens": 0, "truncated": 0} for side in shard.sides}
    whole: dict[str, list[int]] = {side: [] for side in shard.sides}
    for position, texts in _texts(shard):
        sampled = range(-position % shard.sample_step, len(texts["query"]), shard.sample_step)
        for side, lists in texts.items():
            flat = [shard.prefixes[side] + text for found in lists for text in found]
            ids, truncated = _encode(tokenizer, flat, shard.max_length)
            lengths = np.array([len(row) for row in ids], np.int64)
            _append(folder / f"{side}.tokens", np.array([i for row in ids for i in row], shard.dtype))
            _append(folder / f"{side}.lengths", lengths)
            _append(folder / f"{side}.counts", np.array([len(found) for found in lists], np.int64))
            counts[side]["texts"] += len(flat)
            counts[side]["tokens"] += int(lengths.sum())
            counts[side]["truncated"] += truncated
            sample = [shard.prefixes[side] + text for row in sampled for text in lists[row]]
            whole[side] += _whole_lengths(tokenizer, sample)
        tick(len(texts["query"]))
    (folder / _FACTS).write_text(json.dumps({"counts": counts, "whole": whole}))


def _texts(shard: _Shard) -> Iterator[tuple[int, dict[str, list[list[str]]]]]:
    """The texts of each pair by side, some thousand pairs at a time, and how many pairs of the split lie before."""
    position = shard.start
    columns = [NEGATIVES if side == NEGATIVE else side for side in shard.sides]
    with pq.ParquetFile(shard.pairs / f"{shard.split}.parquet") as file:
        for batch in file.iter_batches(_TEXTS_PER_BATCH, row_groups=[shard.number], columns=columns):
            texts = {side: [[text] for text in batch[side].to_pylist()] for side in SIDES}
            if NEGATIVE in shard.sides:
                texts[NEGATIVE] = batch[NEGATIVES].to_pylist()
            yield position, texts
            position += len(batch)


@lru_cache(maxsize=1)
def _tokenizer(file: Path) -> Any:
    if multiprocessing.parent_process():
        # One of several workers must not take all cores; a process alone may.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[list[list[int]], int]:
    """Token ids of each text at most ``max_length`` long, and how many texts were cut."""
    tokenizer.enable_truncation(max_length)
    limit = _CHARACTERS_PER_TOKEN * max_length
    heads = [_head(text, limit) for text in texts]
    encodings = tokenizer.encode_batch_fast(heads)
    # A head that has not filled its tokens is not all there is to see of its text.
    short = [i for i, e in enumerate(encodings) if len(heads[i]) < len(texts[i]) and not e.overflowing]
    for i, encoding in zip(short, tokenizer.encode_batch_fast([texts[i] for i in short]), strict=True):
        encodings[i] = encoding
    return [e.ids for e in encodings], sum(bool(e.overflowing) for e in encodings)


def _head(text: str, limit: int) -> str:
    """The start of a text up to the first white space after ``limit``: tokens do not reach over it."""
    if len(text) <= limit:
        return text
    if text[limit].isspace():
        return text[:limit].rstrip()
    return text[:limit] + text[limit:].split(maxsplit=1)[0]


def _whole_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    tokenizer.no_truncation()
    return [len(encoding) for encoding in tokenizer.encode_batch_fast(texts)]


def _append(path: Path, values: NDArray[Any]) -> None:
    with path.open("ab") as file:
        file.write(values.tobytes())


def _merge(folder: Path, split: str, shards: Sequence[_Shard]) -> None:
    """Put the shards of a split together, in their order, with no more than one shard's lengths in memory."""
    for side in shards[0].sides:
        with (folder / f"{split}.{side}.{shards[0].dtype}").open("wb") as file:
            for shard in shards:
                with (shard.folder / f"{side}.tokens").open("rb") as part:
                    shutil.copyfileobj(part, file)
        _write_ends(folder / f"{split}.{side}.offsets.npy", [shard.folder / f"{side}.lengths" for shard in shards])
        if side == NEGATIVE:
            _write_ends(folder / f"{split}.{side}.first.npy", [shard.folder / f"{side}.counts" for shard in shards])


def _write_ends(path: Path, parts: Sequence[Path]) -> None:
    """Zero and the running sum of the int64 values in ``parts``, as ``np.save`` would write it."""
    num_values = sum(part.stat().st_size for part in parts) // 8
    with path.open("wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (num_values + 1,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.zeros(1, np.int64).tobytes())
        end = 0
        for part in parts:
            ends = end + np.cumsum(np.fromfile(part, np.int64))
            file.write(ends.tobytes())
            end = int(ends[-1]) if len(ends) else end


def _statistics(shards: Sequence[_Shard], manifest: DataManifest, max_length: int) -> TokenStatistics:
    """Of the train split, from what each of its shards has measured."""
    facts = [json.loads((shard.folder / _FACTS).read_text()) for shard in shards]
    mixture = manifest.mixture
    # Without weights all sources are one.
    weights = mixture.slots if mixture else (1,)
    ends = np.cumsum(mixture.num_pairs) if mixture else np.array([manifest.num_pairs["train"]])
    owners = np.searchsorted(ends, [shard.start for shard in shards], side="right")
    num_pairs = np.bincount(owners, [shard.num_pairs for shard in shards], len(weights))
    shares = np.array(weights) / sum(weights)

    def a_pair(side: str, what: str) -> float:
        """The mean over pairs of each source, by the source's weight."""
        sums = np.bincount(owners, [fact["counts"][side][what] for fact in facts], len(weights))
        return float((shares * (sums / num_pairs)).sum())

    def of(side: str) -> SideStatistics:
        texts, truncated = (sum(fact["counts"][side][what] for fact in facts) for what in ("texts", "truncated"))
        whole = np.array([length for fact in facts for length in fact["whole"][side]] or [0])
        return side_statistics(
            whole,
            mean_at_max_length=a_pair(side, "tokens") / (a_pair(side, "texts") or 1),
            truncated_share=truncated / max(1, texts),
        )

    sides: Mapping[str, SideStatistics] = {side: of(side) for side in shards[0].sides}
    in_negatives = a_pair(NEGATIVE, "tokens") if NEGATIVE in sides else 0.0
    return TokenStatistics(max_length=max_length, negative_tokens_per_pair=in_negatives, **sides)


def side_statistics(
    whole: NDArray[np.int64],
    *,
    mean_at_max_length: float,
    truncated_share: float,
    edges: Sequence[int] = _HISTOGRAM_EDGES,
) -> SideStatistics:
    """What lengths of whole texts, in tokens, come to. ``whole`` has at least one; ``edges`` are the histogram's."""
    shares, _ = np.histogram(whole, bins=[*edges, np.inf])
    return SideStatistics(
        mean=float(whole.mean()),
        percentiles={str(p): float(np.percentile(whole, p)) for p in (10, 50, 90, 99)},
        histogram={str(edge): float(share / len(whole)) for edge, share in zip(edges, shares, strict=True)},
        mean_at_max_length=mean_at_max_length,
        truncated_share=truncated_share,
    )
