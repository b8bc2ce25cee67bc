"""What a model costs over its life: training and serving together, and which one serves as well for the least.

Knows the frontier, shapes of models, FLOPs of a forward pass and a device's price. Pure. Never knows rows, files, or
how a service runs: it counts tokens.

Serving is one forward pass of each query and document, ``2N`` FLOPs a token and attention, with adapters merged into
the weights. A smaller model that is trained longer costs more to train for the same loss and less to serve (Sardana et
al. 2024 for language models), so the optimum moves down in size as there is more to serve.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import wording
from analysis.cautions import MAX_EXTRAPOLATION
from analysis.choice import trainable
from analysis.expect import loss_over
from analysis.frontier import Frontier
from analysis.hardware import Hardware, amount
from analysis.recommend import Recommendation
from trainer.flops import forward_flops
from trainer.ladder import ModelShape
from trainer.trial import Full

FLOAT_BYTES = 4
_FRONT_STEPS_PER_DOUBLING, _FINE_STEPS_PER_DOUBLING = 16, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What a model has to embed in its life. Raises ``ValueError`` for negative numbers, and where nothing is served.

    Tokens are the mean real ones of a text, cut to the sweep's maximal length.
    """

    queries_per_month: float = 0.0
    months: float = 12.0
    documents: float = 0.0
    """In the index; embedded once at the start."""
    reembeddings: float = 0.0
    """How many times more all of them are embedded."""
    tokens_per_query: float
    tokens_per_document: float

    def __post_init__(self) -> None:
        given = {
            "--queries": self.queries_per_month,
            "--months": self.months,
            "--documents": self.documents,
            "--reembed": self.reembeddings,
        }
        for option, value in given.items():
            if not 0 <= value <= 1e18:
                raise ValueError(f"{option} is {value:g}: give a number from 0 to 1e18")
        if self.num_queries + self.num_documents == 0:
            raise ValueError("--queries and --documents say that nothing is served: give one of them, above 0")

    @property
    def num_queries(self) -> float:
        return self.queries_per_month * self.months

    @property
    def num_documents(self) -> float:
        """Documents embedded, repeats included."""
        return self.documents * (1 + self.reembeddings)

    def flops(self, shape: ModelShape) -> int:
        """Of serving it all, without padding. A text's squared length is taken as its mean length squared."""
        texts = ((self.num_queries, self.tokens_per_query), (self.num_documents, self.tokens_per_document))
        return forward_flops(
            shape,
            Full(),
            tokens=round(sum(number * tokens for number, tokens in texts)),
            squared_lengths=round(sum(number * tokens**2 for number, tokens in texts)),
        )

    def index_bytes(self, shape: ModelShape) -> int:
        """Of the documents' embeddings in float32, without what a search structure adds."""
        return round(self.documents * shape.width * FLOAT_BYTES)

    @property
    def sentence(self) -> str:
        return (
            f"Served over {self.months:g} months: {wording.count(self.num_queries)} queries of "
            f"{self.tokens_per_query:.0f} tokens, and {wording.count(self.num_documents)} embeddings of documents of "
            f"{self.tokens_per_document:.0f} tokens."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A model, how it is trained, and what it costs over its life."""

    method: str
    model: str
    width: int
    training_flops: int
    serving_flops: int
    index_bytes: int
    loss: float | None

    @property
    def lifetime_flops(self) -> int:
        return self.training_flops + self.serving_flops

    @property
    def known_loss(self) -> float:
        assert self.loss is not None
        return self.loss

    def to_dict(self, hardware: Hardware | None) -> dict[str, Any]:
        return {
            "method": self.method,
            "model": self.model,
            "embedding_width": self.width,
            "training_flops": self.training_flops,
            "serving_flops": self.serving_flops,
            "lifetime_flops": self.lifetime_flops,
            "index_bytes": self.index_bytes,
            "loss": self.loss,
            "gpu_hours": None if hardware is None else hardware.hours(self.lifetime_flops),
            "money": None if hardware is None else hardware.money(self.lifetime_flops),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    """The recommendation over its life, what reaches its loss for less, and what else there is to choose from."""

    service: Service
    recommended: Option
    optimum: Option | None
    """The least lifetime FLOPs for the recommended loss or a lower one; ``None`` where that loss is not known."""
    front: tuple[Option, ...]
    """Pareto front over models, methods and training budgets: each has the lowest loss for its lifetime FLOPs or less.
    By lifetime FLOPs."""
    hardware: Hardware | None

    def sentences(self) -> tuple[str, ...]:
        ours = self.recommended
        share = wording.share(ours.serving_flops / ours.lifetime_flops)
        serves = (
            f"{ours.model} takes {wording.flops(ours.lifetime_flops)} over its life{self._paid(ours)}, {share} of them "
            f"to serve; its index has {size(ours.index_bytes)} in float32 at {ours.width} numbers a document."
        )
        front = [
            f"{model} by {method} "
            + (f"from {_point(group[0])} to {_point(group[-1])}" if len(group) > 1 else f"at {_point(group[0])}")
            for (model, method), group in _stretches(self.front)
        ]
        told = (f"The lowest loss for its lifetime FLOPs: {'; '.join(front)}.",) if front else ()
        return (self.service.sentence, serves, self._optimum(), *told)

    def _optimum(self) -> str:
        ours, best = self.recommended, self.optimum
        if best is None:
            return "Its loss cannot be foretold, so nothing can be said about what reaches it for less."
        saved = 1 - best.lifetime_flops / ours.lifetime_flops
        if best == ours or saved < 0.005:
            return "Nothing that the laws can tell reaches its loss for less over its life."
        return (
            f"Its loss for the least over its life: {best.model} by {best.method}, trained with "
            f"{wording.flops(best.training_flops)}, takes {wording.flops(best.lifetime_flops)}{self._paid(best)}, "
            f"{100 * saved:.0f} % less, and has an index of {size(best.index_bytes)} at {best.width} numbers."
        )

    def _paid(self, option: Option) -> str:
        money = None if self.hardware is None else self.hardware.money(option.lifetime_flops)
        return "" if money is None else f", which cost {amount(money)}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_queries": self.service.num_queries,
            "num_document_embeddings": self.service.num_documents,
            "tokens_per_query": self.service.tokens_per_query,
            "tokens_per_document": self.service.tokens_per_document,
            "recommended": self.recommended.to_dict(self.hardware),
            "optimum": None if self.optimum is None else self.optimum.to_dict(self.hardware),
            "front": [option.to_dict(self.hardware) for option in self.front],
            "sentences": list(self.sentences()),
        }


def lifetime(
    frontier: Frontier, recommendation: Recommendation, shapes: Sequence[ModelShape], service: Service
) -> Lifetime:
    """The recommendation under ``service``, among the models of ``shapes``.

    Training budgets run from the smallest measured one to the recommended one, or to 4 times the largest measured
    where that is more: beyond it laws are a guess.
    """
    budgets = frontier.budgets_flops
    low = float(min(*budgets, recommendation.budget_flops))
    high = float(max(MAX_EXTRAPOLATION * max(budgets), recommendation.budget_flops))
    shape = next(shape for shape in shapes if shape.name == recommendation.model)
    ours = _option(shape, recommendation.label, recommendation.budget_flops, recommendation.loss, service)
    optimum = None
    if recommendation.loss is not None:
        reach = [
            option
            for curve in _curves(frontier, shapes, service, _grid(low, high, _FINE_STEPS_PER_DOUBLING))
            for option in itertools.islice((o for o in curve if o.known_loss <= recommendation.loss), 1)
        ]
        optimum = min([ours, *reach], key=lambda option: option.lifetime_flops)
    curves = _curves(frontier, shapes, service, _grid(low, high, _FRONT_STEPS_PER_DOUBLING))
    return Lifetime(
        service=service,
        recommended=ours,
        optimum=optimum,
        front=_front([option for curve in curves for option in curve]),
        hardware=recommendation.hardware,
    )


def size(num_bytes: float) -> str:
    """``1.5 GB``."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {word}"
    return f"{num_bytes:.0f} B"


def _grid(low: float, high: float, steps_per_doubling: int) -> list[int]:
    number = math.ceil(math.log2(high / low) * steps_per_doubling) + 1
    return [round(budget) for budget in np.geomspace(low, high, number)]


def _curves(
    frontier: Frontier, shapes: Sequence[ModelShape], service: Service, budgets: Sequence[int]
) -> list[list[Option]]:
    """Each method and model at all ``budgets`` at which its loss is known."""
    curves = []
    for method in frontier.methods:
        for shape in trainable(shapes, method.method):
            losses = loss_over(method, np.array(budgets, dtype=np.float64), shape.num_params_non_embedding)
            known = zip(budgets, losses.tolist(), strict=True)
            curves.append([_option(shape, method.label, b, loss, service) for b, loss in known if math.isfinite(loss)])
    return curves


def _option(shape: ModelShape, method: str, budget_flops: int, loss: float | None, service: Service) -> Option:
    return Option(
        method=method,
        model=shape.name,
        width=shape.width,
        training_flops=budget_flops,
        serving_flops=service.flops(shape),
        index_bytes=service.index_bytes(shape),
        loss=loss,
    )


def _front(options: Sequence[Option]) -> tuple[Option, ...]:
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.lifetime_flops, option.known_loss)):
        if not kept or option.known_loss < kept[-1].known_loss:
            kept.append(option)
    return tuple(kept)


def _point(option: Option) -> str:
    return f"{wording.flops(option.lifetime_flops)} (loss {wording.loss(option.known_loss)})"


def _stretches(front: Sequence[Option]) -> list[tuple[tuple[str, str], list[Option]]]:
    """The front by stretches of one model and method."""
    return [(key, list(group)) for key, group in itertools.groupby(front, key=lambda o: (o.model, o.method))]
