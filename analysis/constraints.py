"""What a model may be and what a recommendation runs into: limits that a person gives, and those of data and hardware.

Knows shapes of models, the memory estimate and a device. Never knows laws, or which model is the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis import wording
from analysis.hardware import Hardware, amount
from trainer.flops import forward_flops
from trainer.ladder import ModelShape
from trainer.memory import GIB, StepLoad, estimate
from trainer.trial import Full, Placement

BiteKind = Literal[
    "max_params", "max_latency", "max_width", "largest_model", "smallest_model", "data_exhausted", "memory"
]
SMALLEST_CHUNK_TOKENS = 1024
FAR_FROM_OPTIMUM = 2.0
ABOUT_THE_SAME = 1.05
"""Pairs are foretold from their mean length, so a trial sees the data a little more or less often than foretold."""
BEYOND_LADDER = FAR_FROM_OPTIMUM**0.5
"""A model twice as large as the last one would then be nearer to the optimum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bite:
    """A limit that the recommendation runs into."""

    kind: BiteKind
    sentence: str

    def to_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "sentence": self.sentence}


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """What a person asks of the model. ``None`` asks nothing.

    Raises ``ValueError`` for limits that are not positive, and for a latency without a device.
    """

    max_params: float | None = None
    """All parameters: that is what a server holds."""
    max_width: float | None = None
    """Numbers in an embedding."""
    max_latency_ms: float | None = None
    """Of one query, as ``latency_ms`` estimates it."""
    tokens_per_query: float = 0.0
    """Mean real tokens; for the latency alone."""
    hardware: Hardware | None = None
    num_gpus: int | None = None
    """Devices that a trial may have: what does not fit them is not chosen. ``None``: memory is told, and no limit."""

    def __post_init__(self) -> None:
        for option, value in self._given().items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} is {value:g}: give a number above 0")
        if self.max_latency_ms is not None and self.hardware is None:
            raise ValueError(f"--max-latency is {self.max_latency_ms:g} without a device: give --device")
        if self.num_gpus is not None and self.num_gpus < 1:
            raise ValueError(f"--gpus is {self.num_gpus}: give a whole number from 1 up")
        if self.num_gpus is not None and self.hardware is None:
            raise ValueError(f"--gpus is {self.num_gpus} without a device: give --device")

    def broken_by(self, shape: ModelShape) -> tuple[Bite, ...]:
        """The limits that ``shape`` does not keep; empty where it may be chosen."""
        found = []
        num_params = shape.num_params_non_embedding + shape.num_params_embedding
        if self.max_params is not None and num_params > self.max_params:
            says = f"it has {wording.count(num_params)} parameters, more than {wording.count(self.max_params)}"
            found.append(Bite(kind="max_params", sentence=says))
        if self.max_width is not None and shape.width > self.max_width:
            found.append(
                Bite(
                    kind="max_width",
                    sentence=f"its embeddings have {shape.width} numbers, more than {self.max_width:g}",
                )
            )
        if self.max_latency_ms is not None and self.hardware is not None:
            latency = latency_ms(shape, self.tokens_per_query, self.hardware)
            if latency > self.max_latency_ms:
                says = f"a query takes an estimated {amount(latency)} ms, more than {self.max_latency_ms:g}"
                found.append(Bite(kind="max_latency", sentence=says))
        return tuple(found)

    def allowed(self, shapes: Sequence[ModelShape]) -> list[ModelShape]:
        """The shapes that keep every limit. Raises ``ValueError`` where none does."""
        kept = [shape for shape in shapes if not self.broken_by(shape)]
        if not kept:
            smallest = min(shapes, key=lambda shape: shape.num_params_non_embedding)
            limits = [f"{option} {value:g}" for option, value in self._given().items() if value is not None]
            why = wording.listing([bite.sentence for bite in self.broken_by(smallest)])
            raise ValueError(
                f"{wording.listing(limits)} leaves no model: even of {smallest.name}, the smallest, {why}; allow more"
            )
        return kept

    def holds(self, load: StepLoad) -> bool:
        """Whether the devices that a trial may have hold a training step; true where nothing was said of them."""
        if self.num_gpus is None or self.hardware is None:
            return True
        return step_bytes(load, self.hardware, self.num_gpus) <= self.hardware.memory_bytes

    def _given(self) -> dict[str, float | None]:
        return {
            "--max-params": self.max_params,
            "--max-width": self.max_width,
            "--max-latency": self.max_latency_ms,
        }


def latency_ms(shape: ModelShape, tokens: float, machine: Hardware) -> float:
    """Milliseconds of one text's forward pass, from its FLOPs at the device's peak times the MFU.

    An estimate, and for a short text on its own a low one: such a text does not fill a GPU.
    """
    flops = forward_flops(shape, Full(), tokens=math.ceil(tokens), squared_lengths=math.ceil(tokens * tokens))
    return 1e3 * flops / machine.flops_per_second


def ladder_bites(shape: ModelShape, optimal_num_params: float | None, allowed: Sequence[ModelShape]) -> list[Bite]:
    """Where the optimum lies beyond the models: so far that one more step of the ladder may be nearer to it."""
    num_params = shape.num_params_non_embedding
    sizes = [other.num_params_non_embedding for other in allowed]
    kind: BiteKind
    if optimal_num_params is None:
        return []
    if optimal_num_params > BEYOND_LADDER * num_params and num_params == max(sizes):
        kind, end, off, way = "largest_model", "largest", optimal_num_params / num_params, "smaller"
    elif optimal_num_params * BEYOND_LADDER < num_params and num_params == min(sizes):
        kind, end, off, way = "smallest_model", "smallest", num_params / optimal_num_params, "larger"
    else:
        return []
    says = (
        f"The optimal size is {wording.count(optimal_num_params)} non-embedding parameters; {shape.name}, the {end} "
        f"model that may be chosen, is {wording.times(off)} times {way}."
    )
    return [Bite(kind=kind, sentence=says)]


def data_bites(epochs: float, most: float) -> list[Bite]:
    """Where data repeat, and more often than the ``most`` of what was measured."""
    if epochs <= ABOUT_THE_SAME * max(1.0, most):
        return []
    seen = "once" if wording.times(most) == "1" else f"{wording.times(most)} times"
    says = (
        f"The data would be seen {wording.times(epochs)} times, but at most {seen} in what was measured: "
        "repeated pairs teach less than the law expects, so get more data or a larger model."
    )
    return [Bite(kind="data_exhausted", sentence=says)]


def step_bytes(load: StepLoad, machine: Hardware, num_gpus: int = 1) -> int:
    """Bytes that a training step takes on each of ``num_gpus`` devices, placed as frugally as can be."""
    plain = Placement(device="cuda", gpus_per_worker=1, dtype=machine.dtype)
    frugal = replace(plain, recompute=True, chunk_tokens=SMALLEST_CHUNK_TOKENS)
    placements = [plain, frugal]
    if num_gpus > 1:
        placements.append(replace(frugal, num_workers=num_gpus, zero_stage=3))
    return min(estimate(load, placement).total for placement in placements)


def memory_bites(load: StepLoad, constraints: Constraints) -> list[Bite]:
    """Where a training step of ``load`` needs more than one device, recomputation and small chunks included."""
    machine = constraints.hardware
    if machine is None or (need := step_bytes(load, machine)) <= machine.memory_bytes:
        return []
    needs = (
        f"Memory: a step takes an estimated {need / GIB:.0f} GiB even with recomputation, and one {machine.device} has "
        f"{machine.memory_bytes / GIB:.0f}: "
    )
    mend = "train on several, or allow a smaller model."
    if constraints.num_gpus is not None:
        mend = f"train on {constraints.num_gpus} of them, by ZeRO stage 3."
    return [Bite(kind="memory", sentence=needs + mend)]
