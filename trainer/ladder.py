"""Ladders: ordered families of base models, their shapes and parameter counts.

Knows the shape of each ladder member from its published configuration and counts parameters by method from the
shape alone, so that a plan needs no torch. Standard library only. Never knows where weights are kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from trainer.result import ParameterCounts
from trainer.trial import Bias, Freeze, Full, Lora, Method


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What decides a decoder's parameter counts and FLOPs. A block is one transformer layer."""

    name: str
    num_layers: int
    width: int
    num_heads: int
    vocab_size: int
    num_params_embedding: int
    """Input embeddings (token and, where there are any, position)."""
    num_params_block: int
    num_params_final: int
    """After the last block: the final norm."""
    num_biases_block: int
    num_biases_final: int
    linears: tuple[tuple[int, int], ...]
    """(inputs, outputs) of each linear layer of one block: where adapters go."""
    pretraining_learning_rate: float
    """Peak rate of pre-training: the unit that a search space may be given in. 0 where it is not known."""
    head_width: int | None = None
    """Where a head is not as wide as its share of ``width`` (Gemma, Qwen3)."""

    @property
    def attention_width(self) -> int:
        """Of all heads together: what attention's own products cost."""
        return self.width if self.head_width is None else self.num_heads * self.head_width

    @property
    def num_params_non_embedding(self) -> int:
        return self.num_layers * self.num_params_block + self.num_params_final

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelShape:
        record = json.loads(text)
        record["linears"] = tuple((i, o) for i, o in record["linears"])
        return cls(**record)


def gpt_neox(
    name: str, *, num_layers: int, width: int, num_heads: int, vocab_size: int, pretraining_learning_rate: float
) -> ModelShape:
    """The shape of a GPT-NeoX model: ``12h^2+13h`` parameters a block, ``2h`` in the final norm."""
    h = width
    return ModelShape(
        name=name,
        num_layers=num_layers,
        width=h,
        num_heads=num_heads,
        vocab_size=vocab_size,
        num_params_embedding=vocab_size * h,
        num_params_block=12 * h * h + 13 * h,
        num_params_final=2 * h,
        num_biases_block=11 * h,
        num_biases_final=h,
        linears=((h, 3 * h), (h, h), (h, 4 * h), (4 * h, h)),
        pretraining_learning_rate=pretraining_learning_rate,
    )


def _pythia(
    size: str, num_layers: int, width: int, num_heads: int, learning_rate: float, vocab: int = 50304
) -> ModelShape:
    return gpt_neox(
        f"EleutherAI/pythia-{size}",
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        vocab_size=vocab,
        pretraining_learning_rate=learning_rate,
    )


def _nano(size: str, num_layers: int, width: int, num_heads: int, learning_rate: float) -> ModelShape:
    return gpt_neox(
        f"nano-{size}",
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        vocab_size=4096,
        pretraining_learning_rate=learning_rate,
    )


# Shapes and pre-training rates of Pythia: the EleutherAI/pythia README and model configurations.
LADDERS: dict[str, tuple[ModelShape, ...]] = {
    "pythia": (
        _pythia("14m", 6, 128, 4, 1e-3),
        _pythia("31m", 6, 256, 8, 1e-3),
        _pythia("70m", 6, 512, 8, 1e-3),
        _pythia("160m", 12, 768, 12, 6e-4),
        _pythia("410m", 24, 1024, 16, 3e-4),
        _pythia("1b", 16, 2048, 8, 3e-4),
        _pythia("1.4b", 24, 2048, 16, 2e-4),
        _pythia("2.8b", 32, 2560, 32, 1.6e-4),
        _pythia("6.9b", 32, 4096, 32, 1.2e-4, vocab=50432),
        _pythia("12b", 36, 5120, 40, 1.2e-4, vocab=50688),
    ),
    "nano": (
        _nano("1k", 1, 8, 1, 2e-2),
        _nano("3k", 1, 16, 2, 1.6e-2),
        _nano("7k", 1, 24, 3, 1.2e-2),
        _nano("14k", 2, 24, 3, 1e-2),
        _nano("25k", 2, 32, 2, 8e-3),
        _nano("85k", 3, 48, 3, 5e-3),
    ),
}

SHAPES: dict[str, ModelShape] = {shape.name: shape for ladder in LADDERS.values() for shape in ladder}


def parameter_counts(shape: ModelShape, method: Method) -> ParameterCounts:
    """Parameters of ``shape`` under ``method``, by the closed forms of the paper's appendix.

    Raises ``ValueError`` where the method has nothing to train (bias-only on a model without biases).
    """
    non_embedding = shape.num_params_non_embedding
    adapter = 0
    match method:
        case Full():
            trainable_non_embedding = non_embedding
            trainable = non_embedding + shape.num_params_embedding
        case Freeze():
            active = method.num_active_blocks(shape.num_layers)
            trainable_non_embedding = trainable = active * shape.num_params_block + shape.num_params_final
        case Bias():
            trainable_non_embedding = trainable = shape.num_layers * shape.num_biases_block + shape.num_biases_final
            if trainable == 0:
                raise ValueError(f"method bias: model {shape.name} has no biases; leave the method out for this model")
        case Lora():
            adapter = shape.num_layers * sum(method.rank * (i + o) for i, o in shape.linears)
            trainable_non_embedding = adapter
            trainable = adapter + method.rank * (shape.vocab_size + shape.width)
    return ParameterCounts(
        total=non_embedding + shape.num_params_embedding,
        embedding=shape.num_params_embedding,
        non_embedding=non_embedding,
        adapter=adapter,
        trainable=trainable,
        trainable_non_embedding=trainable_non_embedding,
    )
