"""The four methods on a loaded decoder: which parameters train, and where adapters go.

Knows a decoder by its anatomy. Never knows a budget, a loss or a training loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer.anatomy import anatomy, inside, is_bias
from trainer.trial import Bias, Freeze, Full, Lora, Method


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
                parameter.requires_grad_(not inside(name, frozen))
        case Bias():
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(is_bias(name))
        case Lora():
            with quiet_peft():
                inject_adapter_in_model(lora_config(backbone, method), backbone)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ValueError(f"method {method.label} trains nothing on model {backbone.config.name_or_path}: leave it out")


def lora_config(backbone: PreTrainedModel, method: Lora) -> LoraConfig:
    """peft's settings for adapters on every linear layer of the blocks and on the token embedding."""
    token_embedding = next(n for n, m in backbone.named_modules() if m is backbone.get_input_embeddings())
    return LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=[*anatomy(backbone).linears, token_embedding],
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.modules()),
    )


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without two of peft's warnings: of an unembedding that a backbone does not have, and of its own use of a word
    that transformers will drop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model with `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: matrices are decayed; biases and norms (one dimension) are not."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
