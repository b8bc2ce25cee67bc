"""Held-out metrics against brute force and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contrastive import contrastive_loss
from trainer.evaluate import calibrate, held_out_metrics


def noisy_pairs(num_pairs: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    positives = F.normalize(torch.randn(num_pairs, 8, generator=random), dim=1)
    return F.normalize(positives + noise * torch.randn(num_pairs, 8, generator=random), dim=1), positives


def test_the_calibrated_loss_is_the_lowest_over_a_fine_grid_of_scales() -> None:
    queries, positives = noisy_pairs(128, noise=0.5)
    metrics = held_out_metrics(queries, positives, num_candidates=64, temperature=0.05)

    def loss_at(scale: float) -> float:
        sets = zip(queries.double().split(64), positives.double().split(64), strict=True)
        return float(np.mean([sum(x.item() for x in contrastive_loss(q, p, scale)) / 2 for q, p in sets]))

    grid = min(loss_at(scale) for scale in np.geomspace(0.5, 1000, 400))
    assert metrics.loss <= grid + 1e-7
    assert metrics.loss == pytest.approx(grid, abs=1e-4)
    assert metrics.loss == pytest.approx((metrics.loss_rows + metrics.loss_columns) / 2, rel=1e-12)
    assert metrics.raw_loss == pytest.approx(loss_at(20.0), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(noise=st.floats(0.05, 3.0), stretch=st.floats(0.2, 5.0))
def test_the_training_temperature_does_not_move_the_calibrated_loss(noise: float, stretch: float) -> None:
    queries, positives = noisy_pairs(64, noise)
    cosines = (queries @ positives.T).double().numpy()[None]
    scale, loss = calibrate(cosines)
    rescaled_scale, rescaled_loss = calibrate(cosines / stretch)
    if 1 < scale < 150 and 1 < scale * stretch < 900:
        assert rescaled_loss == pytest.approx(loss, abs=1e-5)
        assert rescaled_scale == pytest.approx(scale * stretch, rel=0.05)


def test_perfect_embeddings_rank_first_and_the_scale_is_capped() -> None:
    same = torch.eye(32)
    metrics = held_out_metrics(same, same, num_candidates=32, temperature=0.05)
    assert (metrics.accuracy, metrics.mrr, metrics.ndcg_at_10) == (1.0, 1.0, 1.0)
    assert metrics.calibrated_scale <= 1000
    assert metrics.loss < 1e-6


def test_collapsed_embeddings_score_nothing() -> None:
    same = torch.ones(64, 4) / 2
    metrics = held_out_metrics(same, same, num_candidates=32, temperature=0.05)
    assert metrics.accuracy == 0.0
    assert metrics.mrr == pytest.approx(1 / 32)
    assert metrics.ndcg_at_10 == 0.0
    assert metrics.loss == pytest.approx(math.log(32), rel=1e-9)


def test_candidates_come_from_the_pair_s_own_set() -> None:
    # Both sets hold the same two pairs: across sets each query would tie with its twin's positive.
    pairs = torch.eye(2).repeat(2, 1)
    assert held_out_metrics(pairs, pairs, num_candidates=2, temperature=0.05).accuracy == 1.0
    assert held_out_metrics(pairs, pairs, num_candidates=4, temperature=0.05).accuracy == 0.0


def test_ranks_by_hand() -> None:
    queries = torch.eye(3)
    positives = F.normalize(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.9, 0.0], [0.9, 0.0, 0.1]]), dim=1)
    metrics = held_out_metrics(queries, positives, num_candidates=3, temperature=0.05)
    # Cosines of query 1 are .89 .74 .99: rank 2. Query 2: .45 .67 0: rank 1. Query 3: 0 0 .11: rank 1.
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.mrr == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert metrics.ndcg_at_10 == pytest.approx((1 / math.log2(3) + 1 + 1) / 3)
