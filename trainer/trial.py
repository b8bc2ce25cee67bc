"""The vocabulary of one trial: what is trained, and on what hardware.

Knows the types that travel between planning, searching and training, and how a trial is named; how one ends stands in
``trainer/result.py``. Standard library only. Never knows torch, Ray, Optuna, Parquet or a sweep.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

Pooling = Literal["mean", "last", "weighted-mean"]
Dtype = Literal["float32", "bfloat16", "float64"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Full:
    """Every parameter is trained, the input embedding too (paper, section 3)."""

    kind: ClassVar[str] = "full"

    @property
    def label(self) -> str:
        return "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    """Input embedding and first blocks frozen; the last ``active_fraction`` of the blocks and the final norm train."""

    kind: ClassVar[str] = "freeze"
    active_fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.active_fraction <= 1:
            raise ValueError(
                f"active_fraction is {self.active_fraction}: give a share of the blocks above 0 and up to 1"
            )

    @property
    def label(self) -> str:
        return f"freeze-{self.active_fraction:g}"

    def num_active_blocks(self, num_layers: int) -> int:
        """Blocks that train, of ``num_layers``: the floor of the share as in the paper's code, but never zero."""
        return max(1, int(self.active_fraction * num_layers))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """Every bias is trained (linear layers and norms) and nothing else (BitFit)."""

    kind: ClassVar[str] = "bias"

    @property
    def label(self) -> str:
        return "bias"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank adapters on the linear layers of every block and on the input embedding; scaling ``alpha / rank``."""

    kind: ClassVar[str] = "lora"
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: give a whole number from 1 up")
        _check_positive(self, "alpha")

    @property
    def label(self) -> str:
        return f"lora-r{self.rank}"


Method = Full | Freeze | Bias | Lora
METHODS: dict[str, type[Full] | type[Freeze] | type[Bias] | type[Lora]] = {
    m.kind: m for m in (Full, Freeze, Bias, Lora)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """What the search may change (the first three) and what a sweep holds fixed."""

    learning_rate: float
    """Peak learning rate of AdamW."""
    temperature: float
    """Training temperature of the contrastive loss; the logit scale is its inverse (paper: 1/40)."""
    weight_decay: float
    """Decoupled weight decay of weights; biases and norms are never decayed."""
    batch_size: int
    """Pairs in a step, over all workers."""
    max_length: int
    """Tokens a text is cut to."""
    warmup_fraction: float
    """Share of the budget over which the learning rate rises linearly; a cosine to zero follows."""
    pooling: Pooling
    """How token states become one embedding: their mean, the last one, or their mean weighted by position (SGPT)."""
    gradient_clipping: float
    """Largest global gradient norm; 0 clips nothing, as in DeepSpeed."""

    def __post_init__(self) -> None:
        _check_positive(self, "learning_rate", "temperature")
        for name in ("weight_decay", "gradient_clipping"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a finite number from 0 up")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 2, since one pair alone has no negatives")
        if self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length}: give at least 2 tokens")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction is {self.warmup_fraction}: give a share from 0 up and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The fixed held-out set that gives the loss: it is part of a trial's identity, since the loss depends on it."""

    num_pairs: int
    """Validation pairs used; cut to whole candidate sets."""
    num_candidates: int
    """Size of one candidate set: a query is compared with this many positives. Chance loss is its logarithm."""

    def __post_init__(self) -> None:
        if self.num_candidates < 2:
            raise ValueError(f"num_candidates is {self.num_candidates}: give at least 2")
        if self.num_pairs < self.num_candidates:
            raise ValueError(
                f"num_pairs is {self.num_pairs}, less than one set of num_candidates {self.num_candidates}: "
                "give more pairs or fewer candidates"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A place in a trial's budget where its held-out loss is compared with what is asked of it there."""

    share: float
    """Of the budget."""
    above: float | None
    """The trial is pruned where its loss is above this; where it is absent, the loss is only noted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpec:
    """Everything that decides what a trial learns, and nothing about where it runs. Its hash is its identity."""

    model: str
    """Name in a ladder, a Hub id, or a folder."""
    revision: str
    """Identity of the starting weights and tokenizer (a Hub commit, or a hash of their content)."""
    method: Method
    budget_flops: int
    """Booked training FLOPs that the trial may spend."""
    hyperparameters: Hyperparameters
    evaluation: Evaluation
    data: str
    """Hash of the data manifest: pairs and splits."""
    seed: int
    """Decides the data order and the initial adapters."""
    number: int
    """The trial's number within its study, from 0."""
    checks: tuple[Check, ...] = ()
    """By rising share."""

    def __post_init__(self) -> None:
        if self.budget_flops < 1:
            raise ValueError(f"budget_flops is {self.budget_flops}: give a whole number of FLOPs from 1 up")

    @property
    def trial_id(self) -> str:
        """Readable and unique: budget, model, method, and 12 hex digits of the canonical JSON's SHA-256."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:12]
        return f"{format_flops(self.budget_flops)}-{model_slug(self.model)}-{self.method.label}-{digest}"

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, the method tagged with its kind. The identity is its hash.

        A trial that nothing is asked of on the way has no ``checks`` in it.
        """
        record = asdict(self)
        if not self.checks:
            del record["checks"]
        record["method"] = {"kind": self.method.kind, **record["method"]}
        return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """The spec that ``to_json`` wrote. Raises ``ValueError`` where a field is missing or unknown."""
        try:
            record = json.loads(text)
            method = record.pop("method")
            hyperparameters = Hyperparameters(**record.pop("hyperparameters"))
            evaluation = Evaluation(**record.pop("evaluation"))
            checks = tuple(Check(**check) for check in record.pop("checks", ()))
            return cls(
                method=METHODS[method.pop("kind")](**method),
                hyperparameters=hyperparameters,
                evaluation=evaluation,
                checks=checks,
                **record,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"trial spec does not have the fields of this version ({error}): {text[:200]}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The hardware a trial gets. Never part of its identity, and never moves its loss beyond rounding."""

    device: Literal["cpu", "cuda"] = "cpu"
    num_workers: int = 1
    """Processes that share each step; on CUDA each has a device of its own, or the granted share of one."""
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    num_threads: int = 1
    """Torch threads of a worker. One on CPU: trials beside each other collapse with more."""
    zero_stage: int | None = None
    """DeepSpeed's ZeRO stage, 0 to 3; none is plain torch, every worker with the whole state."""
    offload: bool = False
    """Under ZeRO, keep the optimizer's state (and at stage 3 the parameters) in the host's memory."""
    dtype: Dtype = "float32"
    """What the forward and backward pass compute in. Trained weights and the optimizer stay in float32 at least."""
    tf32: bool = False
    """Let float32 matrix products on a GPU round their inputs to TF32."""
    chunk_tokens: int = 16384
    """Tokens a worker encodes at a time; smaller needs less memory."""
    recompute: bool = False
    """Drop the activations of all chunks but the last, and compute them again in the backward pass."""
    checkpoint_seconds: float = 60
    """Wall time between checkpoints."""

    @property
    def num_devices(self) -> float:
        """GPUs, or workers where there are none: what a second of the trial costs in device seconds."""
        return self.num_workers * (self.gpus_per_worker if self.device == "cuda" else 1)

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers is {self.num_workers}: give a whole number from 1 up")
        if self.zero_stage not in (None, 0, 1, 2, 3):
            raise ValueError(f"zero_stage is {self.zero_stage}: give 0, 1, 2 or 3, or none for plain torch")
        if self.dtype == "bfloat16" and self.zero_stage == 0:
            # DeepSpeed's optimizer for this case loses half a nat in one step; the other stages do not.
            raise ValueError("zero_stage is 0 with dtype bfloat16: give stage 1 or higher, or none for plain torch")
        if self.dtype == "float64" and self.zero_stage is not None:
            raise ValueError("dtype is float64 with a zero_stage: DeepSpeed has no float64, leave the stage out")
        if self.offload and not self.zero_stage:
            raise ValueError("offload is asked for without ZeRO: give zero_stage 1, 2 or 3")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens is {self.chunk_tokens}: give a whole number of tokens from 1 up")
        if not self.checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds is {self.checkpoint_seconds}: give a number from 0 up")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFiles:
    """Where a trial finds its inputs and keeps its checkpoints on the machine it runs on. Execution, not identity."""

    tokens: str
    """Folder with the tokenised pairs (``trainer/data.py``)."""
    model: str
    """Folder or Hub id that ``AutoModel.from_pretrained`` loads."""
    checkpoints: str
    """Folder of this trial's checkpoints; made when missing."""
    weights: str = ""
    """Folder for what the trial has trained, written when it completes; nothing is kept where empty."""


class Stopped(BaseException):
    """What ``report`` raises to stop a trial: ``train`` writes a checkpoint and lets it through.

    Not an ``Exception``: nothing may swallow it or count it as a failure.
    """


def _check_positive(settings: object, *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that is not above 0 and finite."""
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}: give a finite number above 0")


def format_flops(flops: float) -> str:
    """``4e10`` as ``4.0e10``: two digits, without the sign and zeros that a path does not need."""
    mantissa, exponent = f"{flops:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def model_slug(model: str) -> str:
    """The last part of a model's name, in characters that are safe in a path, a label and an actor's name."""
    allowed = string.ascii_letters + string.digits + "._-"
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c in allowed else "_" for c in last).strip(".") or "model"


def method_from(kind: str, **settings: Any) -> Method:
    """The method of this kind. Raises ``ValueError`` for an unknown kind or setting, naming those that exist."""
    if kind not in METHODS:
        raise ValueError(f"method {kind!r} is unknown: choose among {', '.join(METHODS)}")
    cls = METHODS[kind]
    names = [f.name for f in fields(cls)]
    if set(settings) != set(names):
        raise ValueError(
            f"method {kind!r} takes {', '.join(names) or 'no settings'}, not {', '.join(settings) or 'none'}"
        )
    return cls(**settings)
