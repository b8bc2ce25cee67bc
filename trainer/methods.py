"""The four methods on a loaded decoder: which parameters train, and where adapters go.

Knows a decoder's parts (input embeddings, blocks, what follows) from its architecture, not from one family's names.
Never knows a budget, a loss or a training loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.ladder import ModelShape
from trainer.trial import Bias, Freeze, Full, Lora, Method


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
    """The parts of any decoder that ``AutoModel`` loads. Raises ``ValueError`` where the layers cannot be found."""
    num_layers = backbone.config.num_hidden_layers
    modules = dict(backbone.named_modules())
    stacks = [n for n, m in modules.items() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if not stacks:
        raise ValueError(
            f"model {backbone.config.name_or_path}: no list of {num_layers} layers was found in "
            f"{type(backbone).__name__}; choose a decoder whose layers are a ModuleList"
        )
    blocks = tuple(f"{stacks[0]}.{i}" for i in range(num_layers))
    return Anatomy(
        embeddings=tuple(n for n, m in modules.items() if isinstance(m, nn.Embedding) and not _inside(n, blocks)),
        blocks=blocks,
        linears=tuple(n for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and _inside(n, blocks)),
    )


def measure_shape(name: str, backbone: PreTrainedModel, pretraining_learning_rate: float) -> ModelShape:
    """The shape of a loaded (or meta-device) decoder, counted parameter by parameter."""
    parts = anatomy(backbone)
    sizes = {n: p.numel() for n, p in backbone.named_parameters()}
    biases = {n: size for n, size in sizes.items() if _is_bias(n)}
    first = (parts.blocks[0],)
    modules = dict(backbone.named_modules())
    config = backbone.config

    def final(counted: dict[str, int]) -> int:
        return sum(size for n, size in counted.items() if not _inside(n, parts.blocks + parts.embeddings))

    return ModelShape(
        name=name,
        num_layers=len(parts.blocks),
        width=config.hidden_size,
        num_heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        num_params_embedding=sum(size for n, size in sizes.items() if _inside(n, parts.embeddings)),
        num_params_block=sum(size for n, size in sizes.items() if _inside(n, first)),
        num_params_final=final(sizes),
        num_biases_block=sum(size for n, size in biases.items() if _inside(n, first)),
        num_biases_final=final(biases),
        linears=tuple(_in_and_out(modules[n]) for n in parts.linears if _inside(n, first)),
        pretraining_learning_rate=pretraining_learning_rate,
    )


def apply_method(backbone: PreTrainedModel, method: Method) -> None:
    """Leaves ``requires_grad`` on exactly the parameters that ``method`` trains; LoRA's adapters are put in place.

    Adapters start from torch's random state (seed it before). Raises ``ValueError`` where nothing would train.
    """
    parts = anatomy(backbone)
    match method:
        case Full():
            backbone.requires_grad_(True)
        case Freeze():
            first_active = len(parts.blocks) - method.num_active_blocks(len(parts.blocks))
            frozen = parts.embeddings + parts.blocks[:first_active]
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(not _inside(name, frozen))
        case Bias():
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(_is_bias(name))
        case Lora():
            token_embedding = next(n for n, m in backbone.named_modules() if m is backbone.get_input_embeddings())
            config = LoraConfig(
                r=method.rank,
                lora_alpha=method.alpha,
                target_modules=[*parts.linears, token_embedding],
                lora_dropout=0.0,
                bias="none",
            )
            inject_adapter_in_model(config, backbone)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ValueError(f"method {method.label} trains nothing on model {backbone.config.name_or_path}: leave it out")


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: matrices are decayed; biases and norms (one dimension) are not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1] == "bias"


def _in_and_out(linear: nn.Module) -> tuple[int, int]:
    """(inputs, outputs): GPT-2's Conv1D keeps its weight transposed."""
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features
