"""How a trial goes and how it ends: its curve, what it has used, what it measured, and the row that all this becomes.

Standard library only, so that planning and analysis know results without loading torch. Never knows how any of it is
computed, or where it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainer.trial import Placement, TrialSpec


class TrialState(StrEnum):
    """How a trial ended."""

    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """The state of a trial after a step: what ``report`` receives and what the curve stores."""

    step: int
    tokens: int
    spent_flops: int
    learning_rate: float
    train_loss: float
    """In-batch contrastive loss of the step, in nats, at the training temperature."""
    gradient_norm: float
    """Global L2 norm before clipping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedLoss:
    """A trial's held-out loss on the way: after the step in which it reached this share of its budget."""

    share: float
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCounts:
    """Every count an analysis may choose as its convention. Adapters are counted apart from the model's own."""

    total: int
    """The base model: embedding and non-embedding, without adapters and unembedding."""
    embedding: int
    non_embedding: int
    """Blocks and final norm, ``L(12h^2+13h)+2h`` for GPT-NeoX: the size axis of a profile."""
    adapter: int
    """Adapter parameters on the blocks' linear layers (the paper leaves those of the embedding out of its count)."""
    trainable: int
    """Everything that receives gradients: embedding and embedding adapters too."""
    trainable_non_embedding: int
    """The trainable ones among blocks, final norm and their adapters: ``N_t`` of the booked FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """Held-out metrics at the end of a trial (``trainer/evaluate.py`` defines each with shapes)."""

    loss: float
    """Calibrated symmetric contrastive loss in nats: the number that is searched and fitted."""
    loss_rows: float
    """``l_r`` at the calibrated scale: each query against all positives."""
    loss_columns: float
    """``l_c`` at the calibrated scale: each positive against all queries."""
    calibrated_scale: float
    """The logit scale that minimises the loss on the held-out embeddings."""
    raw_loss: float
    """The same loss at the training temperature."""
    accuracy: float
    """Share of queries whose positive ranks first."""
    mrr: float
    """Mean reciprocal rank of the positive."""
    ndcg_at_10: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """What a trial has used so far. Integers are exact."""

    booked_flops: int = 0
    measured_flops: int = 0
    """With attention, padding inside attention groups, recomputation and evaluation."""
    tokens: int = 0
    """Real tokens trained on."""
    padded_tokens: int = 0
    """Tokens that attention computed, padding included."""
    pairs: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Wall time of training and evaluation, over all resumes."""
    peak_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where a trial ran, for the record."""

    host: str
    device: str
    versions: str
    """JSON object of package versions that can change the numbers."""
    git_commit: str
    """Commit of this project, empty where it is not a checkout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """One row of the store: a trial's spec and how it ended. Metrics exist for COMPLETE trials only."""

    spec: TrialSpec
    state: TrialState
    metrics: Metrics | None
    spending: Spending
    counts: ParameterCounts
    environment: Environment
    placement: Placement
    """The hardware at the end: what memory allowed, where that differs from what was asked for."""
    epochs: float
    """Passes over the train split; over its most repeated source where several are mixed."""
    train_loss: float | None
    """Mean in-batch loss over the last tenth of the full-sized steps, at the training temperature."""
    mfu: float | None
    """Booked FLOPs a second over the device's peak; absent where the peak is unknown."""
    num_resumes: int
    num_out_of_memory: int
    """How often the trial ran out of memory and went on with smaller chunks."""
    finished_at: str
    """UTC, ISO 8601."""
    error: str
    """Empty unless DIVERGED or FAILED."""
    curve: tuple[CurvePoint, ...]
    checked: tuple[CheckedLoss, ...] = ()
    """By rising share; a PRUNED trial ended at the last one."""
