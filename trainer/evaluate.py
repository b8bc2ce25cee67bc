"""Held-out metrics: the calibrated contrastive loss that is searched and fitted, and ranking metrics beside it.

Knows which pairs are held out, their embeddings and a training temperature. Never knows how the model was trained.

Shapes: S candidate sets, K pairs in each, D embedding width.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from trainer.data import TokenSplit
from trainer.result import Metrics
from trainer.trial import TrialSpec

HELD_OUT_ORDER_SEED = 0
"""Every trial of every sweep on the same data is evaluated on the same pairs in the same candidate sets."""
SCALE_BOUNDS = (0.5, 1000.0)
"""Logit scales searched. The cap matters where every positive ranks first: the loss then falls without end."""


def held_out_texts(split: TokenSplit, spec: TrialSpec) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Queries and positives, as token ids, of the pairs that give a trial its loss, in whole candidate sets.

    Raises ``ValueError`` where the split holds less than one candidate set.
    """
    num_candidates = spec.evaluation.num_candidates
    num_pairs = min(spec.evaluation.num_pairs, split.num_pairs) // num_candidates * num_candidates
    if num_pairs == 0:
        raise ValueError(
            f"evaluation.num_candidates is {num_candidates}, but there are {split.num_pairs} held-out pairs (of which "
            f"evaluation.num_pairs uses up to {spec.evaluation.num_pairs}): choose fewer candidates or give more data"
        )
    texts = split.texts(split.order(HELD_OUT_ORDER_SEED, np.arange(num_pairs)))
    queries, positives = ([text[: spec.hyperparameters.max_length] for text in side] for side in texts)
    return queries, positives


def held_out_metrics(queries: Tensor, positives: Tensor, *, num_candidates: int, temperature: float) -> Metrics:
    """Metrics of (S*K, D) unit queries and positives; a query's candidates are the K positives of its own set.

    ``loss`` is the symmetric contrastive loss at the logit scale that minimises it. For fixed embeddings the loss is
    convex in the scale (log-sum-exp of linear functions minus a linear one), so that a bounded search finds the one
    minimum; training temperatures then no longer decide which trial looks better. Everything is computed in float64.
    A candidate that ties with the positive ranks before it, so that collapsed embeddings score nothing.
    """
    num_sets = len(queries) // num_candidates
    q, p = (x.detach().double().cpu().reshape(num_sets, num_candidates, -1) for x in (queries, positives))
    cosines = torch.einsum("sqd,spd->sqp", q, p).numpy()
    scale, loss = calibrate(cosines)
    loss_rows, loss_columns = _losses(cosines, scale)
    of_pair = np.diagonal(cosines, axis1=1, axis2=2)[:, :, None]
    ranks = (cosines >= of_pair).sum(axis=2)
    return Metrics(
        loss=loss,
        loss_rows=loss_rows,
        loss_columns=loss_columns,
        calibrated_scale=scale,
        raw_loss=sum(_losses(cosines, 1 / temperature)) / 2,
        accuracy=float((ranks == 1).mean()),
        mrr=float((1 / ranks).mean()),
        ndcg_at_10=float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0).mean()),
    )


def calibrate(cosines: NDArray[np.float64]) -> tuple[float, float]:
    """``(scale, loss)`` that minimise the symmetric loss of (S, K, K) cosines, scale within ``SCALE_BOUNDS``."""
    found = minimize_scalar(
        lambda log_scale: sum(_losses(cosines, math.exp(log_scale))) / 2,
        bounds=(math.log(SCALE_BOUNDS[0]), math.log(SCALE_BOUNDS[1])),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return math.exp(found.x), float(found.fun)


def _losses(cosines: NDArray[np.float64], scale: float) -> tuple[float, float]:
    """``(l_r, l_c)`` at this scale, in nats, averaged over the sets."""
    logits = scale * cosines
    of_pair = np.diagonal(logits, axis1=1, axis2=2)
    rows, columns = (logsumexp(logits, axis=axis) - of_pair for axis in (2, 1))
    return float(rows.mean()), float(columns.mean())
