"""Packing changes nothing: a text's embedding is the one it has alone, in every family and pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.trainer.tiny import random_texts, tiny_decoder
from trainer.contrastive import embed
from trainer.encoder import GROUPED_CAUSAL, PACKED_FAMILIES, Encoder, pack, plan_chunks

FAMILIES = ("gpt_neox", "llama", "qwen2", "qwen3", "gpt2", "opt")


def encoder_of(family: str, pooling: str = "mean") -> Encoder:
    """The family's encoder in the layout that ``load_backbone`` gives it, in float64."""
    backbone = tiny_decoder(family).double()
    backbone.set_attn_implementation(GROUPED_CAUSAL if family in PACKED_FAMILIES else "sdpa")
    return Encoder(backbone, pooling)


def alone(encoder: Encoder, text: np.ndarray, pooling: str) -> torch.Tensor:
    """The embedding of one text by the plain model call, without any packing."""
    encoder.backbone.set_attn_implementation("sdpa")
    states = encoder.backbone(input_ids=torch.from_numpy(text)[None], use_cache=False).last_hidden_state[0]
    return torch.nn.functional.normalize(states.mean(0) if pooling == "mean" else states[-1], dim=0)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_the_embedding_it_has_alone(family: str, pooling: str) -> None:
    encoder = encoder_of(family, pooling)
    texts = random_texts(23)
    with torch.no_grad():
        together = embed(encoder, texts, chunk_tokens=60, recompute=False).embeddings
        expected = torch.stack([alone(encoder, text, pooling) for text in texts])
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-6)


def test_changing_one_text_leaves_its_neighbours_as_they_were() -> None:
    encoder = encoder_of("gpt_neox")
    texts = random_texts(12)
    changed = [*texts[:5], texts[5][::-1] + 1, *texts[6:]]
    changed[5] %= 97
    with torch.no_grad():
        before, after = (embed(encoder, t, chunk_tokens=10_000, recompute=False).embeddings for t in (texts, changed))
    others = [i for i in range(12) if i != 5]
    torch.testing.assert_close(before[others], after[others], rtol=0, atol=1e-12)
    assert (before[5] - after[5]).abs().max() > 1e-3


def test_chunks_hold_every_text_once_within_their_room() -> None:
    lengths = [len(text) for text in random_texts(50)]
    chunks = plan_chunks(lengths, 40)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(50))
    assert all(sum(lengths[i] for i in chunk) <= 40 for chunk in chunks)
    assert plan_chunks([50, 3], 40) == [[0], [1]], "a text longer than the room gets a chunk of its own"


def test_groups_count_the_tokens_that_attention_computes() -> None:
    chunk = pack([np.arange(n) + 2 for n in (8, 6, 4, 3, 1)], torch.device("cpu"))
    assert [tuple(group.gather.shape) for group in chunk.groups] == [(3, 8), (1, 3), (1, 1)]
    assert chunk.attended_tokens == 24 + 3 + 1
    assert chunk.squared_lengths == 3 * 64 + 9 + 1


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        pack([np.array([3]), np.array([], dtype=np.int64)], torch.device("cpu"))
