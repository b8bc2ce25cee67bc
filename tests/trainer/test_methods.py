"""Which parameters each method trains, in families with different names for the same parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.tiny import FAMILIES, random_texts, tiny_decoder
from trainer.anatomy import anatomy, measure_shape
from trainer.contrastive import embed
from trainer.encoder import Encoder
from trainer.ladder import parameter_counts
from trainer.methods import apply_method, decay_groups
from trainer.trial import Bias, Freeze, Full, Lora

# Biases of a block of width 16; the others have none.
BLOCK_BIASES = {
    "gpt_neox": 3 * 16 + 16 + 64 + 16 + 2 * 16,
    "qwen2": 16 + 8 + 8,
    "phi": 4 * 16 + 32 + 16 + 16,
    "opt": 4 * 16 + 32 + 16 + 2 * 16,
    "gpt2": 3 * 16 + 16 + 64 + 16 + 2 * 16,
    "gptj": 64 + 16 + 16,
    "falcon": 16,
}
BIASED = tuple(family for family in FAMILIES if family in BLOCK_BIASES)


def trained(backbone: nn.Module) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_full_trains_everything(family: str) -> None:
    backbone = tiny_decoder(family)
    apply_method(backbone, Full())
    assert trained(backbone) == {name for name, _ in backbone.named_parameters()}


def test_freeze_trains_the_last_blocks_and_the_final_norm() -> None:
    backbone = tiny_decoder("gpt_neox")
    apply_method(backbone, Freeze(active_fraction=0.5))
    names = trained(backbone)
    assert {name.split(".")[1] for name in names if name.startswith("layers")} == {"1"}
    assert {"final_layer_norm.weight", "final_layer_norm.bias"} <= names
    assert not any("embed" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_leaves_the_first_blocks_as_they_were(family: str) -> None:
    backbone = tiny_decoder(family)
    apply_method(backbone, Freeze(active_fraction=0.5))
    parts = anatomy(backbone)
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith((*parts.embeddings, f"{parts.blocks[0]}.")) for name in frozen)
    count = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert count == parameter_counts(measure_shape(family, backbone, 0), Freeze(active_fraction=0.5)).trainable


@pytest.mark.parametrize("family", BIASED)
def test_bias_trains_every_bias_and_nothing_else(family: str) -> None:
    backbone = tiny_decoder(family)
    shape = measure_shape(family, backbone, 0)
    assert shape.num_biases_block == BLOCK_BIASES[family]
    apply_method(backbone, Bias())
    assert trained(backbone) == {name for name, _ in backbone.named_parameters() if name.endswith("bias")}
    count = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert count == parameter_counts(shape, Bias()).trainable


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(BIASED)))
def test_bias_is_refused_where_there_is_none(family: str) -> None:
    backbone = tiny_decoder(family)
    with pytest.raises(ValueError, match="trains nothing"):
        apply_method(backbone, Bias())
    with pytest.raises(ValueError, match="has no biases"):
        parameter_counts(measure_shape(family, backbone, 0), Bias())


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_every_linear_and_the_token_embedding(family: str) -> None:
    backbone = tiny_decoder(family)
    shape = measure_shape(family, backbone, 0)
    method = Lora(rank=2, alpha=4.0)
    apply_method(backbone, method)
    names = trained(backbone)
    assert all("lora_" in name for name in names)
    adapted = {name.split(".lora_")[0] for name in names}
    expected_linears = len(shape.linears) * shape.num_layers
    assert len(adapted) == expected_linears + 1
    count = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert count == parameter_counts(shape, method).trainable


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_change_nothing(family: str) -> None:
    texts = random_texts(5)
    plain, adapted = tiny_decoder(family), tiny_decoder(family)
    apply_method(adapted, Lora(rank=2, alpha=4.0))
    with torch.no_grad():
        before, after = (
            embed(Encoder(model, "mean"), texts, chunk_tokens=100, recompute=False).embeddings
            for model in (plain, adapted)
        )
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_counts_every_parameter_once(family: str) -> None:
    backbone = tiny_decoder(family)
    shape = measure_shape(family, backbone, 0)
    assert shape.num_params_embedding + shape.num_params_non_embedding == sum(p.numel() for p in backbone.parameters())


def test_biases_and_norms_are_not_decayed() -> None:
    backbone = tiny_decoder("gpt_neox")
    decayed, spared = decay_groups(backbone.parameters(), 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert all(names[id(p)].endswith("bias") or "norm" in names[id(p)] for p in spared["params"])
