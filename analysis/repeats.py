"""What repeated data are worth: tokens of several epochs as tokens of fresh data.

Knows tokens, epochs and losses as arrays. Never knows where the data came from, or what else is fitted.

Muennighoff et al. 2023: ``U`` unique tokens seen ``1 + R`` times count as ``U + U R* (1 - exp(-R / R*))``. A law that
is fitted to raw tokens bends where cells have several epochs; one that is fitted to effective tokens need not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.fit import FloatArray
from analysis.forms import SURFACE, Columns
from analysis.varpro import project

PUBLISHED_DECAY = 15.387756
"""``R*`` of language models, Muennighoff et al. 2023."""
DECAYS = np.geomspace(0.25, 256, 61)


def effective_tokens(tokens: FloatArray, epochs: FloatArray, decay: float = PUBLISHED_DECAY) -> FloatArray:
    """Tokens of fresh data that ``tokens`` (n,), seen in ``epochs`` (n,) passes, are worth. Equal up to one pass."""
    repeats = np.maximum(np.asarray(epochs, dtype=np.float64) - 1, 0.0)
    unique = tokens / (1 + repeats)
    return np.asarray(unique * (1 + decay * -np.expm1(-repeats / decay)))


def fit_decay(values: Mapping[str, FloatArray], epochs: FloatArray, loss: FloatArray) -> tuple[float, FloatArray]:
    """``R*`` that fits ``E + A/N^alpha + B/D^beta`` in effective tokens best, and the sum of squares over ``DECAYS``.

    ``values`` holds ``params`` and ``tokens``, each (n,). Where no cell saw its data twice every decay fits alike and
    nothing is learned: the published one is returned.
    """
    if (np.asarray(epochs) <= 1).all():
        return PUBLISHED_DECAY, np.full(DECAYS.size, np.nan)
    squares = []
    for decay in DECAYS:
        moved = {"params": values["params"], "tokens": effective_tokens(values["tokens"], epochs, float(decay))}
        squares.append(project(SURFACE, Columns.of(moved, SURFACE.columns), loss, np.ones((1, loss.size)))[1][0])
    return float(DECAYS[int(np.argmin(squares))]), np.array(squares)
