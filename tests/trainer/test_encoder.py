"""Packing changes nothing: a text's embedding is the one it has alone, in every family, layout and pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel

from tests.trainer.tiny import FAMILIES, random_texts, tiny_decoder
from trainer.contrastive import embed
from trainer.encoder import GROUPED_CAUSAL, Encoder, choose_layout, pack, plan_chunks

# Decoders that keep their attention to themselves: their texts are padded on the right.
PADDED = {"gptj", "falcon"}


def encoder_of(family: str, pooling: str = "mean", dtype: torch.dtype = torch.float64) -> Encoder:
    """The family's encoder in the layout that ``load_backbone`` gives it."""
    backbone = tiny_decoder(family).to(dtype)
    choose_layout(backbone)
    return Encoder(backbone, pooling)


def alone(backbone: PreTrainedModel, text: np.ndarray, pooling: str) -> torch.Tensor:
    """The embedding of one text by the plain model call, without any packing."""
    states = backbone(input_ids=torch.from_numpy(text)[None], use_cache=False).last_hidden_state[0]
    if pooling == "weighted-mean":
        # SGPT's weights, by their formula.
        places = range(1, len(text) + 1)
        pooled = sum(place / sum(places) * state for place, state in zip(places, states, strict=True))
        return torch.nn.functional.normalize(pooled, dim=0)
    return torch.nn.functional.normalize(states.mean(0) if pooling == "mean" else states[-1], dim=0)


def together(encoder: Encoder, texts: list[np.ndarray], chunk_tokens: int = 60) -> torch.Tensor:
    with torch.no_grad():
        return embed(encoder, texts, chunk_tokens=chunk_tokens, recompute=False).embeddings


@pytest.mark.parametrize("pooling", ["mean", "last", "weighted-mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_the_embedding_it_has_alone(family: str, pooling: str) -> None:
    texts = random_texts(23)
    own = tiny_decoder(family).double()
    with torch.no_grad():
        expected = torch.stack([alone(own, text, pooling) for text in texts])
    torch.testing.assert_close(together(encoder_of(family, pooling), texts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_found_out_and_makes_no_difference(family: str) -> None:
    encoder, padded = encoder_of(family, dtype=torch.float32), Encoder(tiny_decoder(family), "mean")
    assert encoder.packed == (family not in PADDED)
    assert not padded.packed
    texts = random_texts(23)
    torch.testing.assert_close(together(encoder, texts), together(padded, texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_text_leaves_its_neighbours_as_they_were(family: str) -> None:
    encoder = encoder_of(family)
    texts = random_texts(12)
    changed = [*texts[:5], texts[5][::-1] + 1, *texts[6:]]
    changed[5] %= 97
    before, after = (together(encoder, t, 10_000) for t in (texts, changed))
    others = [i for i in range(12) if i != 5]
    torch.testing.assert_close(before[others], after[others], rtol=0, atol=1e-12)
    assert (before[5] - after[5]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "gptj"])
def test_embeddings_are_float32_under_bfloat16_and_near_the_exact_ones(family: str) -> None:
    texts = random_texts(12)
    exact = together(encoder_of(family), texts)
    encoder = encoder_of(family, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = together(encoder, texts)
    cast = together(Encoder(encoder.backbone.to(torch.bfloat16), "mean"), texts)
    for rounded in (mixed, cast):
        assert rounded.dtype is torch.float32
        torch.testing.assert_close(rounded.norm(dim=1), torch.ones(len(texts)))
        assert (rounded.double() - exact).norm(dim=1).max() < 0.2
        assert (rounded.double() - exact).norm(dim=1).mean() > 1e-5, "nothing was rounded"


def test_a_decoder_with_unknown_kinds_of_layers_is_not_packed() -> None:
    backbone = tiny_decoder("llama")
    backbone.config.layer_types = ["chunked_attention", "full_attention"]
    choose_layout(backbone)
    assert backbone.config._attn_implementation == "sdpa"


def test_a_decoder_whose_windows_do_not_arrive_is_not_packed() -> None:
    """The two texts of the proof are shorter than any window, so the windows themselves are compared."""
    backbone = tiny_decoder("qwen2", sliding_window=5, use_sliding_window=True, max_window_layers=0)
    assert backbone.config.layer_types == ["sliding_attention"] * 2
    backbone.layers[1].self_attn.sliding_window = None
    choose_layout(backbone)
    assert backbone.config._attn_implementation != GROUPED_CAUSAL


@pytest.mark.parametrize("kind", ["bert", "gemma3"])
def test_what_is_not_causal_is_refused(kind: str) -> None:
    if kind == "gemma3":
        backbone = tiny_decoder("gemma3_text", use_bidirectional_attention=True)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        backbone = BertModel(BertConfig(vocab_size=97, initializer_range=0.5, **sizes)).eval()
    with pytest.raises(ValueError, match="lets a token see what comes after it: choose a causal decoder"):
        choose_layout(backbone)


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
