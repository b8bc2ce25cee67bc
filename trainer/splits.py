"""Which pairs are for training, which for validation and test, and which held-out pairs leak.

Knows texts only: a stable hash decides the split, and MinHash finds held-out texts that training has nearly seen.
Never knows where the texts came from or how they are stored.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
SHARE_HELD_OUT = 5
"""Percent of the keys in validation, and as many in test."""
FINE_PARTS = 2**16
"""Parts that the keys of a held-out split are divided into, to hold out fewer where there are very many."""

SHINGLE_WORDS = 4
NEAR_DUPLICATE = 0.5
"""Estimated Jaccard similarity of word shingles from which a held-out text counts as seen in training."""
_WORDS_READ = 400
_BANDS, _ROWS = 21, 3
# Of texts that share a band (a licence, a common form) so many are compared: more cost time and say the same.
_BUCKET = 256
_TEXTS_PER_BATCH = 1024
_TEXTS_COMPARED = 128
_WORDS_REMEMBERED = 2**18
_BAND_ROWS = [slice(band * _ROWS, (band + 1) * _ROWS) for band in range(_BANDS)]

_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """The words of ``text`` in lower case, one space between: what two texts are compared by."""
    return " ".join(_WORD.findall(text.lower()))


def spans_of(text: str) -> list[tuple[str, int]]:
    """The words of ``text`` in lower case, each with the place where it begins."""
    return [(found.group().lower(), found.start()) for found in _WORD.finditer(text)]


def hash_key(key: str) -> int:
    """What decides the split of all that shares ``key``: 64 bits that never change."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRule:
    """Which split a key falls into: by its hash and the two limits alone, whatever is read in which order."""

    validation: int = FINE_PARTS
    """Of the keys that fall into validation, those in the first so many of ``FINE_PARTS`` equal parts stay there; the
    others are trained on. All parts, unless the data set is so large that fewer are enough.
    """
    test: int = FINE_PARTS

    @classmethod
    def for_counts(cls, counts: NDArray[np.int64], most: int, least: int) -> SplitRule:
        """The rule that holds out at most ``most`` pairs a split, or the fewest parts that give ``least``.

        ``counts``: pairs of validation and of test in each part, ``(2, FINE_PARTS)``.
        """
        sums = counts.cumsum(axis=1)
        limits = (max(np.searchsorted(row, most, "right"), np.searchsorted(row, least) + 1) for row in sums)
        validation, test = (min(int(limit), FINE_PARTS) for limit in limits)
        return cls(validation=validation, test=test)

    def splits(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Indices into ``SPLITS``, ``(n,)``, of keys with these hashes: 90 % train, 5 % validation, 5 % test."""
        percents, parts = hashes % np.uint64(100), parts_of(hashes)
        validation = (percents >= SHARE_HELD_OUT) & (percents < 2 * SHARE_HELD_OUT) & (parts < self.validation)
        test = (percents < SHARE_HELD_OUT) & (parts < self.test)
        return validation * 1 + test * 2


def parts_of(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The part of ``FINE_PARTS`` that each hash falls into, independent of its split."""
    return (hashes // np.uint64(100) % np.uint64(FINE_PARTS)).astype(np.int64)


class NearDuplicates:
    """Texts that are held out, and which of them have a neighbour at estimated similarity ``NEAR_DUPLICATE`` or above
    among the texts that stream past.

    MinHash over word 4-grams (Broder 1997) with 63 permutations. Candidates come from 21 bands of 3 rows: a
    neighbour at similarity 0.5 is looked at with probability ``1 - (1 - 0.5^3)^21 = 0.94``, at 0.7 with 0.9998. What
    is found is a union over the texts that passed, so their order does not matter, nor who saw which.
    """

    def __init__(self, signatures: NDArray[np.uint64]) -> None:
        """``signatures`` of the held-out texts, ``(num, 63)``."""
        self._signatures = signatures
        self.found = np.zeros(len(signatures), bool)
        # Which of many that share a band are kept must not depend on the order they came in.
        tiebreak = _band_keys(signatures)
        self._bands = [_Band(_band_keys(signatures[:, rows]), tiebreak) for rows in _BAND_ROWS]

    def pass_by(self, texts: Sequence[str]) -> None:
        """Mark in ``found`` the held-out texts that one of ``texts`` nearly repeats."""
        passing = signatures_of(texts)
        for texts_met, held_out in self.meetings(passing):
            new = ~self.found[held_out]
            texts_met, held_out = texts_met[new], held_out[new]
            similarity = (passing[texts_met] == self._signatures[held_out]).mean(axis=1)
            self.found[held_out[similarity >= NEAR_DUPLICATE]] = True

    def meetings(self, passing: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Which of the texts with these signatures share a band with which held-out texts, some thousands at a time."""
        for rows, band in zip(_BAND_ROWS, self._bands, strict=True):
            yield from band.meetings(_band_keys(passing[:, rows]))


class _Band:
    """The held-out texts by the key of one band."""

    def __init__(self, keys: NDArray[np.uint64], tiebreak: NDArray[np.uint64]) -> None:
        order = np.lexsort((tiebreak, keys))
        rank = np.arange(len(keys)) - np.searchsorted(keys[order], keys[order])
        self._owners = order[rank < _BUCKET]
        self._keys = keys[self._owners]

    def meetings(self, keys: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Which of ``keys`` meet which held-out texts, some thousands at a time."""
        first = np.searchsorted(self._keys, keys, side="left")
        counts = np.searchsorted(self._keys, keys, side="right") - first
        rows = np.flatnonzero(counts)
        for some in np.split(rows, np.arange(_TEXTS_COMPARED, len(rows), _TEXTS_COMPARED)):
            ends = np.cumsum(counts[some])
            inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts[some], counts[some])
            yield np.repeat(some, counts[some]), self._owners[np.repeat(first[some], counts[some]) + inside]


def signatures_of(texts: Sequence[str]) -> NDArray[np.uint64]:
    """MinHash signatures, ``(len(texts), 63)``: a function of each text alone, the same in every process."""
    signatures = np.empty((len(texts), _BANDS * _ROWS), np.uint64)
    for start in range(0, len(texts), _TEXTS_PER_BATCH):
        batch = slice(start, min(start + _TEXTS_PER_BATCH, len(texts)))
        signatures[batch] = min_hashes(*shingles_of(texts[batch]))
    return signatures


def shingles_of(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the word 4-grams of the first 400 words of each text, one text after the other, and where each begins.

    A text of fewer words than four is one shingle.
    """
    mixers, _ = _factors(0)
    return _shingles(*word_hashes(texts, least=SHINGLE_WORDS, most=_WORDS_READ), mixers)


def min_hashes(shingles: NDArray[np.uint64], starts: NDArray[np.int64], seed: int = 0) -> NDArray[np.uint64]:
    """Signatures of texts with these shingles, ``(len(starts), 63)``; each seed has permutations of its own."""
    _, permutations = _factors(seed)
    return np.stack([np.minimum.reduceat(shingles * factor, starts) for factor in permutations], axis=1)


def _factors(seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What mixes the words of a shingle, and what makes the permutations."""
    rng = np.random.default_rng(seed)
    return _odd(rng, SHINGLE_WORDS), _odd(rng, _BANDS * _ROWS)


class _WordHashes(dict[str, int]):
    """64 bits of each word, remembered: Python's own hash changes with each process."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_REMEMBERED:
            self.clear()
        self[word] = value = hash_key(word)
        return value


_word_hashes = _WordHashes()


def word_hashes(
    texts: Sequence[str], *, least: int = 0, most: int | None = None
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hash of each of the first ``most`` words of every text, one text after the other, and where each text ends.

    A text of fewer than ``least`` words is filled up with a word that no text has.
    """
    words = array("Q")
    ends = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = _WORD.findall(text.lower())[:most]
        found += [""] * (least - len(found))
        words.extend(map(_word_hashes.__getitem__, found))
        ends[row] = len(words)
    return np.frombuffer(words, np.uint64), ends


def _shingles(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64], factors: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of the word 4-grams that lie inside one text, and where each text's begin."""
    reach = SHINGLE_WORDS - 1
    mixed = np.zeros(max(0, len(hashes) - reach), np.uint64)
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
