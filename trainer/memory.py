"""How much memory a training step takes on one worker's device, from the model's shape alone.

Knows what the step of ``trainer/contrastive.py`` under the engines of ``trainer/engine.py`` holds, term by term, and
when. Standard library only. Never knows a device, how much memory it has, or a running trial.

Symbols: N parameters with adapters, N_t the trained ones, W workers, P pairs, t tokens that a worker encodes in a
step, C of them in a chunk, h width, I inner width of the MLP, b bytes of a number that is computed, r of one in the
residual stream. ``benchmarks/memory.py`` holds the estimate against measured steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import takewhile

from trainer.ladder import ModelShape, parameter_counts
from trainer.trial import Bias, Freeze, Full, Lora, Method, Placement

GIB = 2**30
PROCESS_BYTES = {"cpu": 512 * 2**20, "cuda": 768 * 2**20}
"""A process without a model: on a CPU Python with torch, transformers and peft; on CUDA the context and cuBLAS."""
NCCL_BYTES = 512 * 2**20
ATTENTION_PADDING = 4 / 3
"""Tokens that attention computes for a real one: a group holds texts from half its longest to its longest, evenly."""
INDICES_PER_TOKEN = 4 + ATTENTION_PADDING
"""Token id, position, places in the stream (padded) and in the group, and the text that the token belongs to."""
INDEX_BYTES = 8
EMBEDDING_COPIES = 6
"""Pooled, normalised, concatenated, gathered, in the order of the texts, and the gradient."""
LOGIT_COPIES = 5
"""The logits, a log-softmax each of rows and columns, and two gradients."""
TORCH_BUCKET_ELEMENTS = 2**24
"""Gradients that travel together in plain torch: 64 MiB in float32."""
DEEPSPEED_BUCKET_ELEMENTS = 50_000_000
"""The same under DeepSpeed, whose own default is ten times as large and would take 2 GB of every worker."""
DEEPSPEED_LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO-3 holds whole at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoad:
    """What a training step has to do, whatever hardware it gets."""

    shape: ModelShape
    method: Method
    batch_size: int
    """Pairs, over all workers."""
    tokens: int
    """Real tokens of a step, over all workers."""
    num_negatives: int = 0
    """Hard negatives of each pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on one worker's device. The parts do not add up to ``total``: gradients come as activations go."""

    weights: int
    optimizer: int
    """Moments, and under DeepSpeed the float32 weights that they update."""
    communication: int
    """Buffers that stay."""
    overhead: int
    """The process itself."""
    activations: int
    """At the end of the forward pass; with recomputation, of the one chunk that is rebuilt at a time."""
    gradients: int
    """When the last of them has come, before they are partitioned."""
    loss: int
    """Logits, and embeddings from all workers."""
    step_peak: int
    """The most that activations, gradients, loss, temporaries and the update take at a time."""
    host: int
    """Offloaded to the host's memory; no part of ``total``."""

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.communication + self.overhead + self.step_peak


@dataclass(frozen=True, kw_only=True, slots=True)
class _States:
    """What the engine holds, in bytes."""

    weights: int
    optimizer: int
    communication: int
    gathered: int
    """Whole weights that ZeRO-3 holds from the forward pass to the end of the backward pass, beside a worker's part."""
    gradients: int
    update: int
    """From the end of the backward pass to the end of the update: gradients as they are then, and copies of them."""
    host: int


def estimate(load: StepLoad, placement: Placement) -> MemoryEstimate:
    """The memory of a training step of ``load`` on one worker of ``placement``.

    The peak of a step is the largest of four moments. In formulas, with ``A(t)`` the activations of t tokens, ``G``
    the gradients and n the chunks of a worker: the end of the forward pass, ``A(t) + loss``; the start of the second
    chunk of the backward pass, which begins with the last and shortest one, ``A(t - rest) + G + temporaries(C)``; the
    end of a chunk, ``G`` and the chunk's own gradient of the embedding table; the update. One backward pass over n > 1
    chunks adds up each gradient before the engine sees it, so ``G`` is whole on every worker, whatever the ZeRO stage.
    With recomputation the last chunk alone is kept, so ``A`` is ``A(rest)`` at the end of the forward pass, and later
    ``A(C)``.

    *Activations* (``_Activations``): what autograd saves in each block that has something to train in or before it.

    *Loss*: ``LOGIT_COPIES`` of P times ``P (1 + negatives)`` logits, ``EMBEDDING_COPIES`` of all embeddings, float32.

    *States*: ``_torch_states`` and ``_deepspeed_states``.
    """
    tokens = math.ceil(load.tokens / placement.num_workers)
    chunk = min(placement.chunk_tokens, tokens)
    num_chunks = math.ceil(tokens / chunk)
    rest = tokens - (num_chunks - 1) * chunk
    kept = _Activations.of(load, placement)
    states = _torch_states(load, placement) if placement.zero_stage is None else _deepspeed_states(load, placement)
    loss = _loss_bytes(load)
    indices = INDICES_PER_TOKEN * INDEX_BYTES * tokens
    if placement.recompute:
        held = kept.of_chunk(chunk)
        end_of_forward = kept.of_chunk(rest) + max(loss, kept.temporaries(rest))
        later = held + kept.temporaries(chunk)
    else:
        earlier = kept.of_chunk(chunk) * (num_chunks - 1)
        held = earlier + kept.of_chunk(rest)
        end_of_forward = held + max(loss, kept.temporaries(rest))
        later = earlier + kept.temporaries(chunk)
    whole_gradients = states.gradients if num_chunks > 1 else 0
    embedding_gradient = _embedding_gradient_bytes(load, placement)
    passes = max(end_of_forward, later + whole_gradients, states.gradients + embedding_gradient)
    return MemoryEstimate(
        weights=states.weights,
        optimizer=states.optimizer,
        communication=states.communication,
        overhead=PROCESS_BYTES[placement.device],
        activations=math.ceil(held + indices),
        gradients=states.gradients,
        loss=loss,
        step_peak=math.ceil(indices + max(states.gathered + passes, states.update)),
        host=states.host,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Activations:
    """What autograd saves for the backward pass.

    Per token of a block, in numbers of b bytes unless said otherwise:

    - norms: a LayerNorm its input, h of r bytes, and 8 bytes of statistics; both norms of a GPT-NeoX block have one
      input, those of GPT-2 one each. A norm without bias is written out in Python (RMSNorm): its input in float32, and
      what it multiplies with a weight that trains.
    - inputs of linear layers whose matrix or adapter trains: h (attention), the attention's output, h (MLP), I. Bias
      training needs none of them.
    - attention: queries, keys, values and the output, ``ATTENTION_PADDING`` times, and 4 bytes a head for the softmax.
    - MLP: I in front of the activation function; three times I where it is gated; three times I more where the
      function is written out in Python (GPT-2, told by its learned positions).
    - LoRA: the rank, for each linear layer and for the embedding.

    Beside the blocks: the last norm's input and the states it gives, and the cosines and sines of the positions.
    bfloat16 in plain torch rounds a copy of every matrix for each chunk, which stays until the chunk's backward pass.
    """

    block: float
    """Bytes a token, in each of ``num_blocks``."""
    num_blocks: int
    outside: float
    """Bytes a token, whatever the number of blocks."""
    copies: int
    """Bytes of rounded matrices for each chunk."""
    temporary: float
    """Bytes a token of the backward pass of an MLP: the gradients of its input and of what is inside."""

    def of_chunk(self, tokens: int) -> float:
        return (self.block * self.num_blocks + self.outside) * tokens + self.copies

    def temporaries(self, tokens: int) -> float:
        return self.temporary * tokens

    @classmethod
    def of(cls, load: StepLoad, placement: Placement) -> _Activations:
        shape, method = load.shape, load.method
        b, r = _compute_bytes(placement), _residual_bytes(placement)
        h, inner = shape.width, shape.linears[-1][0]
        into_mlp = list(takewhile(lambda o: o in (inner, 2 * inner), (o for _, o in reversed(shape.linears[:-1]))))
        *attention, (attended, _) = shape.linears[: -1 - len(into_mlp)]
        written_out = shape.num_params_embedding > shape.vocab_size * h
        if shape.num_biases_final == 0:
            num_norms = (shape.num_params_block - shape.num_biases_block - sum(i * o for i, o in shape.linears)) // h
            norm = h * (max(r, 4) + (r if isinstance(method, Full | Freeze) else 0))
        else:
            num_norms = 2 if written_out else 1
            norm = h * r + 8
        # Rounded for each layer apart, or the same tensor for those that have the same input.
        distinct = h + attended + h + inner
        inputs = b * (sum(i for i, _ in shape.linears) if _rounds_copies(placement) else distinct)
        if isinstance(method, Bias):
            inputs = 0
        attention_bytes = ATTENTION_PADDING * (b * (sum(o for _, o in attention) + attended) + 4 * shape.num_heads)
        mlp = b * inner * ((3 if sum(into_mlp) > inner else 1) + (3 if written_out else 0))
        rank = method.rank if isinstance(method, Lora) else 0
        num_blocks = _num_active_blocks(shape, method)
        matrices = sum(i * o + rank * (i + o) for i, o in shape.linears)
        return cls(
            block=num_norms * norm + inputs + attention_bytes + mlp + b * rank * len(shape.linears),
            num_blocks=num_blocks,
            outside=norm + h * max(b, 4) + 2 * r * h / shape.num_heads + b * rank,
            copies=b * matrices * num_blocks if _rounds_copies(placement) else 0,
            temporary=b * sum(into_mlp) + r * h,
        )


def _torch_states(load: StepLoad, placement: Placement) -> _States:
    """Weights ``4N``, gradients ``4N_t`` and moments ``8N_t``, twice that in float64, on every worker.

    Several workers add gradients up in a bucket, or in the size of the largest matrix where that is larger.
    """
    num_params, num_trained = _num_params(load)
    size = 8 if placement.dtype == "float64" else 4
    bucket = min(num_trained, max(TORCH_BUCKET_ELEMENTS, _num_largest(load)))
    several = placement.num_workers > 1
    return _States(
        weights=size * num_params,
        optimizer=2 * size * num_trained,
        communication=_nccl_bytes(placement),
        gathered=0,
        gradients=size * num_trained,
        update=size * (num_trained + (bucket if several else 0)),
        host=0,
    )


def _deepspeed_states(load: StepLoad, placement: Placement) -> _States:
    """ZeRO (Rajbhandari et al. 2020, section 5) as DeepSpeed 0.19 does it.

    Weights ``bN``; at stage 3 ``bN/W``, and of several workers whole ones up to ``DEEPSPEED_LIVE_ELEMENTS`` from the
    forward pass to the end of the backward pass (one worker's part is the whole). Stage 0: moments ``8N_t``. From
    stage 1 on, moments ``8N_t/W`` and the float32 weights that they update, ``4N_t/W``, a copy in float32 too.
    Gradients ``bN_t``; from stage 2 on ``bN_t/W`` of them stay when the backward pass ends, at stage 3 in a buffer that
    is always there. A bucket of ``DEEPSPEED_BUCKET_ELEMENTS`` is there throughout; stage 3 reduces a copy of it, of
    which gloo makes another, while the last gradient, that of the embedding table, still waits. The update takes
    another ``4N_t/W``. Offload has moments, float32 weights and partitioned gradients on the host, at stage 3 the
    partitioned weights too.
    """
    stage, workers = placement.zero_stage, placement.num_workers
    assert stage is not None
    b = _compute_bytes(placement)
    num_params, num_trained = _num_params(load)
    share = math.ceil(num_trained / workers) if stage else num_trained
    bucket = DEEPSPEED_BUCKET_ELEMENTS if stage else min(num_trained, DEEPSPEED_BUCKET_ELEMENTS)
    optimizer = (12 if stage else 8) * share
    partitions = math.ceil(b * num_params / workers) if stage == 3 else 0
    kept_gradients = b * (share if stage > 1 else num_trained)
    copies = b * min(num_trained, bucket) * (1 if placement.device == "cuda" else 2)
    reduced = copies + _embedding_gradient_bytes(load, placement) if stage == 3 else 0
    own = _States(
        weights=partitions if stage == 3 else b * num_params,
        optimizer=optimizer,
        communication=b * bucket + _nccl_bytes(placement) + (kept_gradients if stage == 3 else 0),
        gathered=b * min(num_params, DEEPSPEED_LIVE_ELEMENTS) if stage == 3 and workers > 1 else 0,
        gradients=b * num_trained,
        update=max(reduced, (0 if stage == 3 else kept_gradients) + (4 * share if stage else 0)),
        host=0,
    )
    if not placement.offload:
        return own
    return replace(
        own,
        weights=0 if stage == 3 else own.weights,
        optimizer=0,
        communication=b * bucket + _nccl_bytes(placement),
        update=max(reduced, 0 if stage > 1 else kept_gradients),
        host=optimizer + 4 * share + partitions,
    )


def _loss_bytes(load: StepLoad) -> int:
    num_candidates = load.batch_size * (1 + load.num_negatives)
    embeddings = EMBEDDING_COPIES * (load.batch_size + num_candidates) * load.shape.width
    return 4 * (LOGIT_COPIES * load.batch_size * num_candidates + embeddings)


def _embedding_gradient_bytes(load: StepLoad, placement: Placement) -> int:
    """Of one chunk: dense, over the whole vocabulary."""
    size = max(_compute_bytes(placement), 4) if placement.zero_stage is None else _compute_bytes(placement)
    return size * _num_trained_embedding(load)


def _num_trained_embedding(load: StepLoad) -> int:
    match load.method:
        case Full():
            return load.shape.num_params_embedding
        case Lora(rank=rank):
            return rank * load.shape.vocab_size
        case Freeze() | Bias():
            return 0


def _num_largest(load: StepLoad) -> int:
    """Elements of the largest tensor that trains."""
    match load.method:
        case Full() | Freeze():
            return max(_num_trained_embedding(load), *(i * o for i, o in load.shape.linears))
        case Lora(rank=rank):
            return max(_num_trained_embedding(load), *(rank * max(i, o) for i, o in load.shape.linears))
        case Bias():
            return max(o for _, o in load.shape.linears)


def _num_params(load: StepLoad) -> tuple[int, int]:
    """``(N, N_t)``, the adapters of the embedding included."""
    counts = parameter_counts(load.shape, load.method)
    return counts.total + (counts.trainable if isinstance(load.method, Lora) else 0), counts.trainable


def _num_active_blocks(shape: ModelShape, method: Method) -> int:
    """Blocks that a gradient goes through."""
    return method.num_active_blocks(shape.num_layers) if isinstance(method, Freeze) else shape.num_layers


def _compute_bytes(placement: Placement) -> int:
    return {"float32": 4, "bfloat16": 2, "float64": 8}[placement.dtype]


def _residual_bytes(placement: Placement) -> int:
    """Where torch rounds for each matrix product, the sum of the blocks' outputs stays in float32."""
    return 4 if _rounds_copies(placement) else _compute_bytes(placement)


def _rounds_copies(placement: Placement) -> bool:
    return placement.dtype == "bfloat16" and placement.zero_stage is None


def _nccl_bytes(placement: Placement) -> int:
    return NCCL_BYTES if placement.device == "cuda" and placement.num_workers > 1 else 0
