"""How near each of some texts comes to any text that streams past: the same words, or most of the same word 4-grams.

Knows texts, their normal form and their shingles. Never knows splits, sources or what nearness means for a sweep.
Memory grows with the texts that are asked about, not with those that pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.splits import NearDuplicates, min_hashes, normalised, shingles_of

SEED = 1
"""The preparation removes neighbours with permutations of seed 0: others see what those missed."""
LOOKED_AT = 0.3
"""Estimated similarity from which the exact one is computed. The estimate of a true 0.5 is below in 0.1 % of cases."""
_TEXTS_PER_BATCH = 1024


class Neighbours:
    """Some texts, and the nearest to each among the texts that ``pass_by``.

    ``similarity`` ``(n,)`` is the Jaccard similarity of the sets of word 4-grams in the first 400 words with the
    nearest, exactly, where it is 0.5 or above; ``is_exact`` ``(n,)`` says that one has the same words in the same order
    after ``normalised``. Candidates come from the 21 bands of ``NearDuplicates``: a neighbour at 0.5 is met with
    probability 0.94, one at 0.7 with 0.9998, an equal one always.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.num = len(texts)
        # Equal texts are looked for once: a band holds a limited number of texts.
        normal = [normalised(text) for text in texts]
        self._groups = {words: group for group, words in enumerate(dict.fromkeys(normal))}
        self._group = np.array([self._groups[words] for words in normal], np.int64)
        self._sizes = np.bincount(self._group, minlength=len(self._groups))
        self._similarity = np.zeros(len(self._groups))
        self._is_exact = np.zeros(len(self._groups), bool)
        self._nearest: dict[int, str] = {}
        first = dict(zip(reversed(self._group.tolist()), reversed(range(self.num)), strict=True))
        shingles, starts = shingles_of([texts[first[group]] for group in range(len(first))])
        self._shingles = [np.unique(some) for some in np.split(shingles, starts[1:])]
        self._signatures = min_hashes(shingles, starts, SEED) if len(starts) else np.empty((0, 63), np.uint64)
        self._bands = NearDuplicates(self._signatures)

    @property
    def similarity(self) -> NDArray[np.float64]:
        return self._similarity[self._group]

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        return self._is_exact[self._group]

    @property
    def nearest(self) -> dict[int, str]:
        """The nearest text, by the place of the text that is asked about; without those that have no near one."""
        return {
            place: self._nearest[group] for place, group in enumerate(self._group.tolist()) if group in self._nearest
        }

    def pass_by(self, texts: Sequence[str], own: NDArray[np.int64] | None = None) -> None:
        """Take in the next texts. ``own`` ``(len(texts),)`` is the place of a text that is itself asked about, -1
        elsewhere: it is no neighbour of its own.
        """
        for start in range(0, len(texts), _TEXTS_PER_BATCH):
            batch = texts[start : start + _TEXTS_PER_BATCH]
            places = np.full(len(batch), -1) if own is None else own[start : start + len(batch)]
            itself = np.where(places >= 0, self._group[places], -1) if self.num else places
            self._find_equal(batch, itself)
            self._find_near(batch, itself)

    def _find_equal(self, texts: Sequence[str], itself: NDArray[np.int64]) -> None:
        for text, own in zip(texts, itself.tolist(), strict=True):
            group = self._groups.get(normalised(text))
            # One of several equal texts that are asked about is a neighbour of the others.
            if group is not None and not self._is_exact[group] and (group != own or self._sizes[group] > 1):
                self._is_exact[group] = True
                self._note(group, 1.0, text)

    def _find_near(self, texts: Sequence[str], itself: NDArray[np.int64]) -> None:
        shingles, starts = shingles_of(texts)
        ends = np.append(starts[1:], len(shingles))
        passing = min_hashes(shingles, starts, SEED)
        for met, groups in self._bands.meetings(passing):
            new = (self._similarity[groups] < 1) & (itself[met] != groups)
            met, groups = met[new], groups[new]
            estimate = (passing[met] == self._signatures[groups]).mean(axis=1)
            close = estimate >= LOOKED_AT
            for text, group in zip(met[close].tolist(), groups[close].tolist(), strict=True):
                similarity = _jaccard(np.unique(shingles[starts[text] : ends[text]]), self._shingles[group])
                if similarity >= 0.5 and similarity > self._similarity[group]:
                    self._note(group, similarity, texts[text])

    def _note(self, group: int, similarity: float, text: str) -> None:
        self._similarity[group] = similarity
        self._nearest[group] = text


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
