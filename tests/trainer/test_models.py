"""Shapes of decoders, measured without their weights, and the language-model loss of the nano ladder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BartConfig,
    BloomConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from trainer.ladder import LADDERS, ModelShape
from trainer.models import read_shape
from trainer.unembedding import unembedding_loss


def measured(config: PreTrainedConfig, folder: Path, name: str = "a/decoder") -> tuple[ModelShape, int]:
    config.save_pretrained(folder)
    return read_shape(name, folder)


@pytest.mark.parametrize("shape", LADDERS["pythia"] + LADDERS["nano"], ids=lambda shape: shape.name)
def test_every_model_of_a_ladder_measures_as_the_ladder_says(shape: ModelShape, tmp_path: Path) -> None:
    config = GPTNeoXConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=4 * shape.width,
    )
    assert measured(config, tmp_path, shape.name) == (shape, 2048)


def test_gpt2_counts_positions_as_embeddings_and_its_transposed_layers_as_linear(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=100, n_positions=64, n_embd=8, n_layer=3, n_head=2)
    shape, longest = measured(config, tmp_path)
    assert longest == 64
    assert shape.linears == ((8, 24), (8, 8), (8, 32), (32, 8))
    assert shape.num_params_embedding == 100 * 8 + 64 * 8
    assert shape.num_params_block == 12 * 64 + 13 * 8
    assert shape.num_params_final == 16
    assert (shape.num_biases_block, shape.num_biases_final) == (11 * 8, 8)
    assert shape.pretraining_learning_rate == 0


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_decoders_without_biases_and_with_fewer_key_heads(kind: type[LlamaConfig], tmp_path: Path) -> None:
    config = kind(
        vocab_size=100,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=32,
    )
    shape, longest = measured(config, tmp_path)
    assert longest == 32
    assert sorted(shape.linears) == sorted([(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)])
    assert (shape.num_biases_block, shape.num_biases_final) == (0, 0)
    assert (shape.num_params_embedding, shape.num_params_final) == (1600, 16)


def test_what_is_no_plain_decoder_is_refused(tmp_path: Path) -> None:
    encoder_decoder = BartConfig(
        vocab_size=50,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
    )
    with pytest.raises(ValueError, match="'a/decoder' has no single stack of 2 blocks: choose a decoder-only model"):
        measured(encoder_decoder, tmp_path)
    uneven = DeepseekV3Config(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        n_routed_experts=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        moe_intermediate_size=8,
    )
    with pytest.raises(ValueError, match="'a/decoder' has blocks of different sizes"):
        measured(uneven, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "someones-own", "auto_map": {"AutoModel": "code.Model"}}')
    with pytest.raises(ValueError, match="'a/decoder' is none that transformers can build"):
        read_shape("a/decoder", tmp_path)


def test_parts_that_cannot_be_counted_are_refused_by_name(tmp_path: Path) -> None:
    """A norm before the blocks, projections around them, experts."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bloom = BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    with pytest.raises(ValueError, match=r"outside its blocks .*\(ln_f, word_embeddings_layernorm\)"):
        measured(bloom, tmp_path / "bloom")
    narrow = OPTConfig(**sizes, ffn_dim=32, word_embed_proj_dim=8)
    with pytest.raises(ValueError, match=r"outside its blocks .*project_in"):
        measured(narrow, tmp_path / "opt")
    experts = MixtralConfig(**sizes, intermediate_size=32, num_key_value_heads=2, num_local_experts=4)
    with pytest.raises(ValueError, match=r"belong to no linear layer .*: choose a dense decoder"):
        measured(experts, tmp_path / "experts")


def test_what_sees_the_whole_text_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        use_bidirectional_attention=True,
    )
    with pytest.raises(ValueError, match="'a/decoder' lets a token see what comes after it: choose a causal decoder"):
        measured(config, tmp_path)


def test_heads_that_are_wider_than_their_share(tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(**sizes, intermediate_size=32, num_key_value_heads=1, head_dim=12)
    shape, _ = measured(config, tmp_path / "wide")
    assert (shape.head_width, shape.attention_width) == (12, 24)
    assert shape.linears[:4] == ((16, 24), (16, 12), (16, 12), (24, 16))
    assert ModelShape.from_json(shape.to_json()) == shape
    even, _ = measured(LlamaConfig(**sizes, intermediate_size=32, num_key_value_heads=1), tmp_path / "even")
    assert (even.head_width, even.attention_width) == (None, 16)


@pytest.mark.parametrize("rows", [1, 64, 131])
def test_the_unembedding_loss_is_the_cross_entropy(rows: int) -> None:
    torch.manual_seed(0)
    states = torch.randn(rows, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (rows,))
    ours, known = unembedding_loss(states, head, targets), F.cross_entropy(states @ head.T, targets)
    torch.testing.assert_close(ours, known)
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, (states, head)), torch.autograd.grad(3 * known, (states, head)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
