"""The parts of a decoder, from its architecture and not from one family's names: embeddings, blocks, linears, shape.

Knows transformers' modules, on a real device or the meta device. Never knows a method or a weight's value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
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
    """The parts of any dense decoder that ``AutoModel`` builds.

    A block is an element of the one module list that has as many elements as the configuration has layers; embeddings
    are those outside it; what is left is the norm after the last block. Raises ``ValueError`` for what is no such
    decoder: its parameters or FLOPs could not be counted.
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
    parts = Anatomy(
        embeddings=tuple(n for n, m in modules.items() if isinstance(m, nn.Embedding) and not inside(n, blocks)),
        blocks=blocks,
        linears=tuple(n for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and inside(n, blocks)),
    )
    _refuse_other_parts(backbone, parts)
    return parts


def _refuse_other_parts(backbone: PreTrainedModel, parts: Anatomy) -> None:
    matrices = {n.rpartition(".")[0]: n for n, p in backbone.named_parameters() if p.ndim > 1}
    strange = [n for owner, n in matrices.items() if inside(n, parts.blocks) and not inside(owner, parts.linears)]
    if strange:
        raise ValueError(
            f"model {_name(backbone)!r} has weights in its blocks that belong to no linear layer ({strange[0]}): "
            "choose a dense decoder"
        )
    known = parts.blocks + parts.embeddings
    others = {n.rpartition(".")[0] for n, _ in backbone.named_parameters() if not inside(n, known)}
    if len(others) > 1:
        raise ValueError(
            f"model {_name(backbone)!r} has more outside its blocks than embeddings and a final norm "
            f"({', '.join(sorted(others))}): choose another decoder"
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
        head_width=_head_width(config),
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


def _head_width(config: PreTrainedConfig) -> int | None:
    """Width of a head where the configuration gives one that is not its share of the decoder's width."""
    given: int | None = getattr(config, "head_dim", None)
    return None if given == config.hidden_size / config.num_attention_heads else given


def _in_and_out(linear: nn.Module) -> tuple[int, int]:
    """(inputs, outputs): GPT-2's Conv1D keeps its weight transposed."""
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features


def _name(backbone: PreTrainedModel) -> str:
    return str(backbone.config.name_or_path or type(backbone).__name__)
