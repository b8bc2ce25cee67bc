"""The chunked, padding-free step has the loss and gradient of one padded batch, for every method and pooling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.tiny import random_texts, tiny_decoder
from trainer.contrastive import contrastive_loss, embed
from trainer.encoder import GROUPED_CAUSAL, Encoder
from trainer.methods import apply_method
from trainer.trial import Bias, Freeze, Full, Lora, Method, Pooling

METHODS: list[Method] = [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=3, alpha=6.0)]
SCALE = 20.0


def encoder_with(method: Method, pooling: Pooling, dtype: torch.dtype, implementation: str) -> Encoder:
    backbone = tiny_decoder("gpt_neox", attn_implementation=implementation)
    torch.manual_seed(1)
    apply_method(backbone, method)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.normal_(std=0.3)  # adapters start as a product with zero, which would hide half of them
    return Encoder(backbone.to(dtype), pooling).eval()


def padded_embeddings(encoder: Encoder, texts: list[np.ndarray]) -> Tensor:
    """One padded, masked batch through the plain model: what the packed road has to equal."""
    lengths = torch.tensor([len(text) for text in texts])
    rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(text) for text in texts], batch_first=True)
    mask = torch.arange(rows.shape[1]) < lengths[:, None]
    states = encoder.backbone(input_ids=rows, attention_mask=mask.long(), use_cache=False).last_hidden_state
    if encoder.pooling == "last":
        pooled = states[torch.arange(len(texts)), lengths - 1]
    else:
        pooled = (states * mask[:, :, None]).sum(1) / lengths[:, None]
    return pooled / pooled.norm(dim=1, keepdim=True)


def hand_written_loss(queries: Tensor, positives: Tensor) -> Tensor:
    """The symmetric InfoNCE loss, pair by pair."""
    logits = SCALE * queries @ positives.T
    rows = [-logits[i, i] + torch.logsumexp(logits[i, :], 0) for i in range(len(logits))]
    columns = [-logits[j, j] + torch.logsumexp(logits[:, j], 0) for j in range(len(logits))]
    return (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2


def gradients(encoder: Encoder, loss: Tensor) -> Tensor:
    encoder.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_chunking_and_packing_leave_loss_and_gradient_unchanged(
    method: Method, pooling: Pooling, recompute: bool
) -> None:
    texts = random_texts(24)
    reference = encoder_with(method, pooling, torch.float64, "sdpa")
    embeddings = padded_embeddings(reference, texts)
    expected_loss = hand_written_loss(embeddings[:12], embeddings[12:])
    expected = gradients(reference, expected_loss)

    encoder = encoder_with(method, pooling, torch.float64, GROUPED_CAUSAL)
    embedded = embed(encoder, texts, chunk_tokens=50, recompute=recompute)
    assert embedded.tokens > 4 * 50, "the batch must need several chunks for this test to say anything"
    rows, columns = contrastive_loss(embedded.embeddings[:12], embedded.embeddings[12:], SCALE)
    loss = (rows + columns) / 2
    found = gradients(encoder, loss)

    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < 1e-12


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_in_float32_the_gradient_is_the_same_to_rounding(method: Method) -> None:
    texts = random_texts(24)
    found = []
    for chunk_tokens in (30, 10_000):
        encoder = encoder_with(method, "mean", torch.float32, GROUPED_CAUSAL)
        embedded = embed(encoder, texts, chunk_tokens=chunk_tokens, recompute=True)
        found.append(gradients(encoder, sum(contrastive_loss(*embedded.embeddings.split(12), SCALE))))
    assert (found[0] - found[1]).norm() / found[1].norm() < 1e-6


def test_rows_and_columns_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positives = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rows, columns = contrastive_loss(queries, positives, 2.0)
    logits = [[2.0, 1.2], [0.0, 1.6]]
    by_hand = [math.log(sum(math.exp(x) for x in row)) - row[i] for i, row in enumerate(logits)]
    assert rows.item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)
    by_hand = [math.log(sum(math.exp(row[j]) for row in logits)) - logits[j][j] for j in range(2)]
    assert columns.item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)
    assert rows.item() != pytest.approx(columns.item(), rel=1e-3)


def test_equal_embeddings_give_chance_loss() -> None:
    same = torch.ones(64, 4) / 2
    for loss in itertools.chain(contrastive_loss(same, same, 40.0)):
        assert loss.item() == pytest.approx(math.log(64), rel=1e-6)
