"""FLOPs against torch's own counter on the true Pythia shapes, and parameter counts against the paper's."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXModel

from tests.trainer.tiny import tiny_decoder
from trainer.anatomy import measure_shape
from trainer.flops import booked_flops_per_token, measured_flops, num_tokens
from trainer.ladder import LADDERS, SHAPES, ModelShape, parameter_counts
from trainer.methods import apply_method
from trainer.trial import Bias, Freeze, Full, Lora, Method

TEXTS = 2
METHODS: list[Method] = [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=32, alpha=64.0)]
# Booked over counted FLOPs. The gap to 1 is what the booking leaves out: attention's own products (they grow with the
# length and shrink with the width) and, for LoRA, the adapter of the embedding. LoRA's booking also counts the norms.
BOOKED_SHARE = {
    ("14m", 16): (0.988, 0.988, 0.982, 0.982),
    ("14m", 64): (0.931, 0.931, 0.900, 0.925),
    ("14m", 75): (0.919, 0.919, 0.883, 0.913),
    ("31m", 16): (0.994, 0.994, 0.991, 0.989),
    ("31m", 64): (0.964, 0.964, 0.947, 0.954),
    ("31m", 75): (0.958, 0.958, 0.937, 0.946),
    ("70m", 16): (0.997, 0.997, 0.995, 0.994),
    ("70m", 75): (0.978, 0.978, 0.968, 0.969),
    ("160m", 75): (0.985, 0.985, 0.978, 0.979),
}


def backbone_of(shape: ModelShape) -> GPTNeoXModel:
    """The true shape with random weights."""
    config = GPTNeoXConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=4 * shape.width,
        attn_implementation="eager",
    )
    return GPTNeoXModel(config).eval()


def counted_flops(shape: ModelShape, method: Method, length: int) -> int:
    backbone = backbone_of(shape)
    apply_method(backbone, method)
    ids = torch.zeros(TEXTS, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        backbone(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("size", "length"), BOOKED_SHARE)
def test_flops_against_torch_s_counter(size: str, length: int) -> None:
    shape = SHAPES[f"EleutherAI/pythia-{size}"]
    for method, share in zip(METHODS, BOOKED_SHARE[size, length], strict=True):
        counted = counted_flops(shape, method, length)
        tokens = TEXTS * length
        measured = measured_flops(shape, method, tokens=tokens, squared_lengths=TEXTS * length**2)
        assert measured == pytest.approx(counted, rel=1e-9), f"measured, {size} {method.label} {length}"
        booked = booked_flops_per_token(parameter_counts(shape, method), method) * tokens
        # Half of the last printed digit.
        assert booked / counted == pytest.approx(share, abs=6e-4), f"booked, {size} {method.label} {length}"


# Grouped heads, gates, heads wider than their share, tied embeddings, learned positions, transposed layers.
@pytest.mark.parametrize("family", ["llama", "smollm", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "opt", "phi"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_measured_flops_of_other_families(family: str, method: Method) -> None:
    backbone = tiny_decoder(family, attn_implementation="eager")
    shape = measure_shape(family, backbone, 0)
    if isinstance(method, Bias) and shape.num_biases_block == 0:
        pytest.skip("it has no biases")
    apply_method(backbone, method)
    length = 24
    with FlopCounterMode(display=False) as counter:
        ids = torch.zeros(TEXTS, length, dtype=torch.long)
        backbone(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    measured = measured_flops(shape, method, tokens=TEXTS * length, squared_lengths=TEXTS * length**2)
    assert measured == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize("shape", LADDERS["pythia"][:4] + LADDERS["nano"], ids=lambda shape: shape.name)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_counts_from_the_shape_equal_those_of_the_module(shape: ModelShape, method: Method) -> None:
    with torch.device("meta"):
        backbone = backbone_of(shape)
        assert measure_shape(shape.name, backbone, shape.pretraining_learning_rate) == shape
        apply_method(backbone, method)
    counts = parameter_counts(shape, method)
    trained = {name: p.numel() for name, p in backbone.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == counts.trainable
    outside = sum(size for name, size in trained.items() if "embed" not in name)
    assert outside == counts.trainable_non_embedding


# paper.md table 1.1, equal to the model cards where these state them.
PUBLISHED = {
    "14m": 1_189_888,
    "31m": 4_739_072,
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
}


@pytest.mark.parametrize(("size", "non_embedding"), PUBLISHED.items())
def test_non_embedding_parameters_are_the_published_ones(size: str, non_embedding: int) -> None:
    assert SHAPES[f"EleutherAI/pythia-{size}"].num_params_non_embedding == non_embedding


def test_the_paper_s_remarks_on_cost() -> None:
    """LoRA of rank 128 costs twice full fine-tuning at 14m and 0.83 of it at 410m; freezing half of 160m two thirds."""

    def cost(size: str, method: Method) -> float:
        shape = SHAPES[f"EleutherAI/pythia-{size}"]
        full = booked_flops_per_token(parameter_counts(shape, Full()), Full())
        return booked_flops_per_token(parameter_counts(shape, method), method) / full

    assert cost("14m", Lora(rank=128, alpha=8.0)) == pytest.approx(1.99, abs=0.005)
    assert cost("410m", Lora(rank=128, alpha=8.0)) == pytest.approx(0.83, abs=0.005)
    assert cost("160m", Freeze(active_fraction=0.5)) == pytest.approx(0.667, abs=0.001)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_tokens_of_a_budget_are_the_inverse_of_its_booking(method: Method) -> None:
    for shape in SHAPES.values():
        counts = parameter_counts(shape, method)
        per_token = booked_flops_per_token(counts, method)
        tokens = num_tokens(10**15 + 7, counts, method)
        assert tokens * per_token <= 10**15 + 7 < (tokens + 1) * per_token


def test_freezing_never_leaves_no_block() -> None:
    assert Freeze(active_fraction=0.01).num_active_blocks(6) == 1
    assert Freeze(active_fraction=0.5).num_active_blocks(1) == 1
    assert Freeze(active_fraction=1.0).num_active_blocks(6) == 6
