"""The parts of a decoder, from its architecture and not from one family's names: embeddings, blocks, linears, shape.

Knows transformers' modules, on a real device or the meta device. Never knows a method or a weight's value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.ladder import ModelShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The parts of a decoder, by module name."""

    embeddings: tuple[str, ...]
    """Embedding tables before the blocks (token and, where there are any, position)."""
    blocks: tuple[str, ...]
    """Transformer layers, first to last."""
    linears: tuple[str, ...]
    """Linear layers inside the blocks."""


def anatomy(backbone: PreTrainedModel) -> Anatomy:
    """The parts of any decoder that ``AutoModel`` builds.

    A block is an element of the one module list that has as many elements as the configuration has layers; embeddings
    are those outside it; the rest is after the last block. Raises ``ValueError`` for what is no such decoder.
    """
    num_layers = getattr(backbone.config, "num_hidden_layers", 0)
    modules = dict(backbone.named_modules())
    stacks = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if len(stacks) != 1:
        raise ValueError(
            f"model {_name(backbone)!r} has no single stack of {num_layers} blocks: choose a decoder-only model"
        )
    if len({sum(p.numel() for p in block.parameters()) for block in modules[stacks[0]].children()}) > 1:
        raise ValueError(
            f"model {_name(backbone)!r} has blocks of different sizes: choose a decoder whose blocks are alike"
        )
    blocks = tuple(f"{stacks[0]}.{i}" for i in range(num_layers))
    return Anatomy(
        embeddings=tuple(n for n, m in modules.items() if isinstance(m, nn.Embedding) and not inside(n, blocks)),
        blocks=blocks,
        linears=tuple(n for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and inside(n, blocks)),
    )


def measure_shape(name: str, backbone: PreTrainedModel, pretraining_learning_rate: float) -> ModelShape:
    """The shape of a loaded (or meta-device) decoder, counted parameter by parameter."""
    parts = anatomy(backbone)
    sizes = {n: p.numel() for n, p in backbone.named_parameters()}
    biases = {n: size for n, size in sizes.items() if is_bias(n)}
    first = (parts.blocks[0],)
    modules = dict(backbone.named_modules())
    config = backbone.config

    def final(counted: dict[str, int]) -> int:
        return sum(size for n, size in counted.items() if not inside(n, parts.blocks + parts.embeddings))

    return ModelShape(
        name=name,
        num_layers=len(parts.blocks),
        width=config.hidden_size,
        num_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        num_params_embedding=sum(size for n, size in sizes.items() if inside(n, parts.embeddings)),
        num_params_block=sum(size for n, size in sizes.items() if inside(n, first)),
        num_params_final=final(sizes),
        num_biases_block=sum(size for n, size in biases.items() if inside(n, first)),
        num_biases_final=final(biases),
        linears=tuple(_in_and_out(modules[n]) for n in parts.linears if inside(n, first)),
        pretraining_learning_rate=pretraining_learning_rate,
    )


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a parameter or module belongs to one of the named modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias: every architecture of transformers names them so."""
    return name.rsplit(".", 1)[-1] == "bias"


def _in_and_out(linear: nn.Module) -> tuple[int, int]:
    """(inputs, outputs): GPT-2's Conv1D keeps its weight transposed."""
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features


def _name(backbone: PreTrainedModel) -> str:
    return str(backbone.config.name_or_path or type(backbone).__name__)
