"""FLOPs: booked as the paper books them, and measured as the hardware spends them. The only place with a FLOP formula.

Knows parameter counts, methods and token counts; standard library only. Never knows a device or a training loop.
A multiply-add is two FLOPs. Booked FLOPs drive the budget; measured ones stand beside them in every row.
"""

from __future__ import annotations

from trainer.ladder import ModelShape, parameter_counts
from trainer.result import ParameterCounts
from trainer.trial import Bias, Freeze, Full, Lora, Method


def booked_flops_per_token(counts: ParameterCounts, method: Method) -> int:
    """Training FLOPs booked for one real token (paper, section 3; Kaplan et al. 2020 for ``6N``).

    ``N`` is the non-embedding parameters, adapters included; ``N_t`` the trainable ones among them.
    Full ``6N``; freeze ``2N+4N_t``; bias and LoRA ``4N+2N_t``. Attention, embeddings, padding, recomputation and
    evaluation are not booked.
    """
    n = counts.non_embedding + counts.adapter
    n_trainable = counts.trainable_non_embedding
    match method:
        case Full():
            return 6 * n
        case Freeze():
            return 2 * n + 4 * n_trainable
        case Bias() | Lora():
            return 4 * n + 2 * n_trainable


def num_tokens(budget_flops: int, counts: ParameterCounts, method: Method) -> int:
    """Whole tokens that ``budget_flops`` pays for: the inverse of the booking."""
    return budget_flops // booked_flops_per_token(counts, method)


def measured_flops(
    shape: ModelShape,
    method: Method,
    *,
    tokens: int,
    squared_lengths: int,
    recomputed_tokens: int = 0,
    recomputed_squared_lengths: int = 0,
) -> int:
    """FLOPs of matrix products in one forward and backward pass: linears, adapters and attention.

    ``tokens`` is the tokens computed; ``squared_lengths`` the sum over texts of the computed length squared, padding
    inside an attention group included (a kernel that skips the upper triangle does half of the attention's share).
    The recomputed ones of both are computed a second time in the backward pass.
    Checked against ``torch.utils.flop_counter`` (tests/trainer/test_flops.py). Norms, biases, activation functions,
    softmax, pooling and the loss are left out, as the counter does. One case is an upper bound: where bias-only trains
    no bias before the first block's attention (Qwen2), that attention's inputs need no gradients in truth.
    """
    forward = forward_flops(shape, method, tokens=tokens, squared_lengths=squared_lengths)
    backward = _backward_flops(shape, method, tokens=tokens, squared_lengths=squared_lengths)
    again = forward_flops(shape, method, tokens=recomputed_tokens, squared_lengths=recomputed_squared_lengths)
    return forward + backward + again


def forward_flops(shape: ModelShape, method: Method, *, tokens: int, squared_lengths: int) -> int:
    """FLOPs of one forward pass: ``2`` for a weight and token, ``4`` for a block, a squared length and a column of its
    heads."""
    weights = shape.num_layers * (_linear_weights(shape) + _adapter_weights(shape, method))
    return (
        2 * weights * tokens
        + 4 * shape.attention_width * shape.num_layers * squared_lengths
        + _embedding_adapter(shape, method, tokens)
    )


def _backward_flops(shape: ModelShape, method: Method, *, tokens: int, squared_lengths: int) -> int:
    linear, adapter = _linear_weights(shape), _adapter_weights(shape, method)
    attention = 8 * shape.attention_width * squared_lengths
    match method:
        case Full():
            return shape.num_layers * (4 * linear * tokens + attention)
        case Freeze():
            # The norms of the first active block train, so its linears need input gradients like all others.
            return method.num_active_blocks(shape.num_layers) * (4 * linear * tokens + attention)
        case Bias():
            return shape.num_layers * (2 * linear * tokens + attention)
        case Lora():
            return shape.num_layers * (2 * linear * tokens + 4 * adapter * tokens + attention) + 2 * _embedding_adapter(
                shape, method, tokens
            )


def _linear_weights(shape: ModelShape) -> int:
    return sum(i * o for i, o in shape.linears)


def _adapter_weights(shape: ModelShape, method: Method) -> int:
    return parameter_counts(shape, method).adapter // shape.num_layers


def _embedding_adapter(shape: ModelShape, method: Method, tokens: int) -> int:
    return 2 * method.rank * shape.width * tokens if isinstance(method, Lora) else 0
