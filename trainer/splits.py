"""Which pairs are for training, which for validation and test, and which held-out pairs leak.

Knows texts only: a stable hash decides the split, and MinHash finds held-out texts that training has nearly seen.
Never knows where the texts came from or how they are stored.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
SHARE_HELD_OUT = 5
"""Percent of the keys in validation, and as many in test."""

SHINGLE_WORDS = 4
NEAR_DUPLICATE = 0.5
"""Estimated Jaccard similarity of word shingles from which a held-out text counts as seen in training."""
_WORDS_READ = 400
_BANDS, _ROWS = 21, 3
# Of texts that share a band (a licence, a common form) so many are compared: more cost time and say the same.
_BUCKET = 256
_TEXTS_PER_BATCH = 4096

_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """The words of ``text`` in lower case, one space between: what two texts are compared by."""
    return " ".join(_WORD.findall(text.lower()))


def split_of(key: str) -> str:
    """The split of all that shares ``key``: 90 % train, 5 % validation, 5 % test, by a hash that never changes."""
    percent = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100
    if percent < SHARE_HELD_OUT:
        return "test"
    return "validation" if percent < 2 * SHARE_HELD_OUT else "train"


def near_duplicates(
    seen: Sequence[str], texts: Sequence[str], progress: Callable[[int, int], None]
) -> NDArray[np.bool_]:
    """Which of ``texts`` has a neighbour among ``seen`` at estimated similarity ``NEAR_DUPLICATE`` or above.

    MinHash over word 4-grams (Broder 1997) with 63 permutations. Candidates come from 21 bands of 3 rows: a
    neighbour at similarity 0.5 is looked at with probability ``1 - (1 - 0.5^3)^21 = 0.94``, at 0.7 with 0.9998.
    Returns ``(len(texts),)``. ``progress`` gets the texts hashed and all texts.
    """
    if not seen or not texts:
        return np.zeros(len(texts), bool)
    signatures = _signatures([*seen, *texts], progress)
    known, asked = signatures[: len(seen)], signatures[len(seen) :]
    best = np.zeros(len(texts))
    for band in range(_BANDS):
        rows = slice(band * _ROWS, (band + 1) * _ROWS)
        known_keys, asked_keys = _band_keys(known[:, rows]), _band_keys(asked[:, rows])
        order = np.argsort(known_keys, kind="stable")
        first = np.searchsorted(known_keys, asked_keys, side="left", sorter=order)
        last = np.searchsorted(known_keys, asked_keys, side="right", sorter=order)
        for index in np.flatnonzero(last > first):
            bucket = order[first[index] : min(last[index], first[index] + _BUCKET)]
            best[index] = max(best[index], (known[bucket] == asked[index]).mean(axis=1).max())
    return best >= NEAR_DUPLICATE


def _signatures(texts: Sequence[str], progress: Callable[[int, int], None]) -> NDArray[np.uint64]:
    """MinHash signatures, ``(len(texts), bands * rows)``, made batch by batch so that memory follows the result."""
    rng = np.random.default_rng(0)
    mixers, permutations = _odd(rng, SHINGLE_WORDS), _odd(rng, _BANDS * _ROWS)
    # Words are numbered as they are met and hashed by a table: Python's own hash changes with each process.
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))
    table = np.zeros(0, np.uint64)
    signatures = np.empty((len(texts), len(permutations)), np.uint64)
    for start in range(0, len(texts), _TEXTS_PER_BATCH):
        progress(start, len(texts))
        batch = slice(start, min(start + _TEXTS_PER_BATCH, len(texts)))
        words, ends = _words(texts[batch], numbers)
        table = np.concatenate([table, rng.integers(0, 2**64, len(numbers) - len(table), dtype=np.uint64)])
        shingles, starts = _shingles(table[words], ends, mixers)
        for column, factor in enumerate(permutations):
            signatures[batch, column] = np.minimum.reduceat(shingles * factor, starts)
    return signatures


def _words(texts: Sequence[str], numbers: defaultdict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The number of every word of every text, one text after the other, and where each text ends."""
    words = array("q")
    ends = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = _WORD.findall(text.lower())[:_WORDS_READ]
        # A text of fewer words than a shingle is one shingle, filled up with a word that no text has.
        found += [""] * (SHINGLE_WORDS - len(found))
        words.extend(map(numbers.__getitem__, found))
        ends[row] = len(words)
    return np.frombuffer(words, np.int64), ends


def _shingles(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64], factors: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the word 4-grams that lie inside one text, and where each text's begin."""
    reach = SHINGLE_WORDS - 1
    mixed = np.zeros(len(hashes) - reach, np.uint64)
    for offset, factor in enumerate(factors):
        mixed += hashes[offset : len(hashes) - reach + offset] * factor
    mixed ^= mixed >> np.uint64(32)
    inside = np.ones(len(mixed), bool)
    for back in range(1, SHINGLE_WORDS):
        inside[ends[:-1] - back] = False
    counts = np.diff(ends, prepend=0) - reach
    return mixed[inside], np.cumsum(counts) - counts


def _band_keys(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
    return keys


def _odd(rng: np.random.Generator, count: int) -> NDArray[np.uint64]:
    return rng.integers(0, 2**64, count, dtype=np.uint64) | np.uint64(1)
