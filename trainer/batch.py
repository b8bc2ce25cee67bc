"""Which pairs a step trains on: a function of the trial and the step, cut to the tokens that the budget has left.

Knows the order of the pairs and what they cost in tokens. Never knows a model, a worker or how far a trial is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainer.data import TokenSplit
from trainer.trial import TrialSpec

STEPS_ORDERED = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The pairs of one step, as token ids, and their hard negatives, all in one list."""

    queries: list[np.ndarray]
    positives: list[np.ndarray]
    negatives: list[np.ndarray]

    @property
    def texts(self) -> list[np.ndarray]:
        return self.queries + self.positives + self.negatives

    @property
    def num_tokens(self) -> int:
        return sum(len(text) for text in self.texts)


def next_batch(split: TokenSplit, spec: TrialSpec, step: int, remaining_tokens: int) -> Batch | None:
    """The pairs of step ``step``, cut to ``remaining_tokens``; nothing when not even one pair can be cut to fit.

    Which pairs is a function of the seed and the step alone. The last batch is the longest prefix of pairs that fits
    with their hard negatives, and the pair after it is shortened to the tokens left over, query first, so that less
    than two tokens of the budget stay unused.
    """
    hyperparameters = spec.hyperparameters
    block, place = divmod(step, STEPS_ORDERED)
    pairs = _order(split, spec.seed, hyperparameters.batch_size, block)[place]
    queries, positives = (_cut(side, hyperparameters.max_length) for side in split.texts(pairs))
    negatives = [_cut(texts, hyperparameters.max_length) for texts in split.negatives(pairs)]
    costs = [sum(map(len, (q, p, *n))) for q, p, n in zip(queries, positives, negatives, strict=True)]
    fitting = int(np.searchsorted(np.cumsum(costs), remaining_tokens, side="right"))
    batch = Batch(
        queries=queries[:fitting],
        positives=positives[:fitting],
        negatives=[text for texts in negatives[:fitting] for text in texts],
    )
    if fitting < len(queries):
        left = remaining_tokens - batch.num_tokens
        query = queries[fitting][: max(left - 1, 0)]
        if len(query) > 0:
            positive, *others = _fill(left - len(query), positives[fitting], *negatives[fitting])
            batch.queries.append(query)
            batch.positives.append(positive)
            batch.negatives.extend(others)
    return batch if batch.queries else None


def _fill(num_tokens: int, *texts: np.ndarray) -> list[np.ndarray]:
    """The longest prefix of the texts that has up to ``num_tokens`` tokens, its last text cut."""
    filled = []
    for text in texts:
        if num_tokens > 0:
            filled.append(text[:num_tokens])
            num_tokens -= len(filled[-1])
    return filled


def _cut(texts: Sequence[np.ndarray], max_length: int) -> list[np.ndarray]:
    return [text[:max_length] for text in texts]


@lru_cache(maxsize=1)
def _order(split: TokenSplit, seed: int, batch_size: int, block: int) -> NDArray[np.int64]:
    """Which pairs ``STEPS_ORDERED`` steps use, (steps, batch_size): one by one would cost nano models a tenth."""
    size = STEPS_ORDERED * batch_size
    return split.order(seed, np.arange(block * size, (block + 1) * size)).reshape(STEPS_ORDERED, batch_size)
