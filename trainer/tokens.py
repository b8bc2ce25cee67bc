"""Texts into tokens: the flat files that trials read, and what was measured on the way.

Knows a ``tokenizers.Tokenizer`` and the files of ``trainer/data.py``. Never knows a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import SIDES, TOKENS, SideStatistics, TokenStatistics, read_texts
from trainer.splits import SPLITS

_TEXTS_PER_BATCH = 2048
_SAMPLED_PAIRS = 1000
_HISTOGRAM_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
# Few texts need more than this many characters for a token; those that do are encoded whole.
_CHARACTERS_PER_TOKEN = 8


def write_tokens(
    pairs: Path, folder: Path, *, tokenizer: Any, max_length: int, progress: Callable[[int, int], None]
) -> TokenStatistics:
    """Encode every split of ``pairs`` with a ``tokenizers.Tokenizer`` into flat files under ``folder``.

    Each side of a split is one file of token ids (uint16, or uint32 where the vocabulary needs it) and one of int64
    offsets, ``(num_pairs + 1,)``. Texts are cut to ``max_length`` tokens as the tokenizer cuts them, special tokens
    included. ``progress`` gets texts done and in all.
    """
    dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 65536 else np.uint32)
    texts = {split: read_texts(pairs, split) for split in SPLITS}
    total = sum(len(side) for sides in texts.values() for side in sides)
    done = 0
    sides = {}
    for split, split_texts in texts.items():
        for side, side_texts in zip(SIDES, split_texts, strict=True):
            lengths = np.zeros(len(side_texts), np.int64)
            num_truncated = 0
            with (folder / f"{split}.{side}.{dtype.name}").open("wb") as file:
                for start in range(0, len(side_texts), _TEXTS_PER_BATCH):
                    batch = side_texts[start : start + _TEXTS_PER_BATCH]
                    ids, truncated = _encode(tokenizer, batch, max_length)
                    lengths[start : start + len(batch)] = [len(row) for row in ids]
                    num_truncated += truncated
                    file.write(np.concatenate([np.array(row, dtype) for row in ids]).tobytes())
                    done += len(batch)
                    progress(done, total)
            np.save(folder / f"{split}.{side}.offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
            if split == "train":
                sides[side] = _side_statistics(tokenizer, side_texts, lengths, num_truncated)
    statistics = TokenStatistics(max_length=max_length, **sides)
    (folder / TOKENS).write_text(statistics.to_json())
    return statistics


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


def _side_statistics(
    tokenizer: Any, texts: Sequence[str], lengths: NDArray[np.int64], num_truncated: int
) -> SideStatistics:
    step = max(1, len(texts) // _SAMPLED_PAIRS)
    tokenizer.no_truncation()
    whole = np.array([len(e) for e in tokenizer.encode_batch_fast(texts[::step])])
    shares, _ = np.histogram(whole, bins=[*_HISTOGRAM_EDGES, np.inf])
    return SideStatistics(
        mean=float(whole.mean()),
        percentiles={str(p): float(np.percentile(whole, p)) for p in (10, 50, 90, 99)},
        histogram={str(edge): float(share / len(whole)) for edge, share in zip(_HISTOGRAM_EDGES, shares, strict=True)},
        mean_at_max_length=float(lengths.mean()),
        truncated_share=num_truncated / len(lengths),
    )
