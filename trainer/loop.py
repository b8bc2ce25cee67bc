"""One trial from start to end: ``train(spec, placement, files, report) -> TrialResult``.

Knows how a budget is spent to the last token, when to write a checkpoint, and how a trial ends. Never knows a sweep,
a study, a scheduler or a store; whoever calls it records the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from trainer import checkpoint
from trainer.anatomy import measure_shape
from trainer.contrastive import contrastive_loss, embed
from trainer.data import TokenSplit, open_split, pair_order
from trainer.encoder import Encoder, load_backbone
from trainer.environment import environment, peak_flops, peak_memory_bytes
from trainer.evaluate import held_out_metrics
from trainer.flops import booked_flops_per_token, forward_flops, measured_flops
from trainer.ladder import ModelShape, parameter_counts
from trainer.methods import apply_method, decay_groups
from trainer.trial import (
    CurvePoint,
    Hyperparameters,
    Metrics,
    ParameterCounts,
    Placement,
    Spending,
    TrialFiles,
    TrialResult,
    TrialSpec,
    TrialState,
)

STEPS_ORDERED = 64
CURVE_POINTS = 200
"""About how many points a stored curve has."""
HELD_OUT_ORDER_SEED = 0
"""Every trial of every sweep on the same data is evaluated on the same pairs in the same candidate sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """What a trial works with, built once."""

    spec: TrialSpec
    placement: Placement
    encoder: Encoder
    shape: ModelShape
    counts: ParameterCounts
    optimizer: torch.optim.Optimizer
    names: dict[Parameter, str]
    """The trained parameters and their names, in a fixed order."""
    train_split: TokenSplit
    validation_split: TokenSplit
    flops_per_token: int


@dataclass(kw_only=True, slots=True)
class _Progress:
    """What changes from step to step, and what a checkpoint keeps beside the tensors."""

    spending: Spending = field(default_factory=Spending)
    curve: list[CurvePoint] = field(default_factory=list)
    num_resumes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The pairs of one step, as token ids."""

    queries: list[np.ndarray]
    positives: list[np.ndarray]

    @property
    def num_tokens(self) -> int:
        return sum(len(text) for text in self.queries + self.positives)


def train(
    spec: TrialSpec, placement: Placement, files: TrialFiles, report: Callable[[CurvePoint], None]
) -> TrialResult:
    """Run ``spec`` to its end on this machine, from its newest checkpoint where there is one.

    ``report`` gets the state after every step; what it raises ends the call, and the next call goes on from the last
    checkpoint. Ends COMPLETE, or DIVERGED on a loss or gradient that is not finite; raises on everything else. On a
    CPU with the same number of threads the result is the same bit for bit, however often it was interrupted.
    """
    trial = _set_up(spec, placement, files)
    folder = Path(files.checkpoints)
    progress = _resume(trial, folder)
    started = time.monotonic() - progress.spending.seconds
    checkpointed = time.monotonic()
    state, error = TrialState.COMPLETE, ""
    while (batch := _next_batch(trial, progress)) is not None:
        point = _step(trial, progress, batch)
        report(point)
        if not (math.isfinite(point.train_loss) and math.isfinite(point.gradient_norm)):
            state = TrialState.DIVERGED
            error = f"step {point.step}: loss {point.train_loss}, gradient norm {point.gradient_norm}"
            break
        if time.monotonic() - checkpointed >= placement.checkpoint_seconds:
            _used_until_now(progress, placement, started)
            _save(trial, progress, folder)
            checkpointed = time.monotonic()
    metrics = None
    if state is TrialState.COMPLETE:
        metrics, evaluation_flops = evaluate(trial.encoder, trial.validation_split, trial.shape, spec, placement)
        spending = progress.spending
        progress.spending = replace(spending, measured_flops=spending.measured_flops + evaluation_flops)
    _used_until_now(progress, placement, started)
    return _result(trial, progress, state, error, metrics)


def next_batch(split: TokenSplit, spec: TrialSpec, step: int, remaining_tokens: int) -> Batch | None:
    """The pairs of step ``step``, cut to ``remaining_tokens``; nothing when not even one pair can be cut to fit.

    Which pairs is a function of the seed and the step alone. The last batch is the longest prefix of pairs that fits,
    and the pair after it is shortened to the tokens left over, so that less than two tokens of the budget stay unused.
    """
    hyperparameters = spec.hyperparameters
    block, place = divmod(step, STEPS_ORDERED)
    order = _order(spec.seed, split.num_pairs, hyperparameters.batch_size, block)
    texts = split.texts(order[place])
    queries, positives = ([text[: hyperparameters.max_length] for text in side] for side in texts)
    ends = np.cumsum([len(q) + len(p) for q, p in zip(queries, positives, strict=True)])
    fitting = int(np.searchsorted(ends, remaining_tokens, side="right"))
    batch = Batch(queries=queries[:fitting], positives=positives[:fitting])
    if fitting < len(queries):
        left = remaining_tokens - batch.num_tokens
        query, positive = queries[fitting][: max(left - 1, 0)], positives[fitting]
        if len(query) > 0:
            batch.queries.append(query)
            batch.positives.append(positive[: left - len(query)])
    return batch if batch.queries else None


@lru_cache(maxsize=1)
def _order(seed: int, num_pairs: int, batch_size: int, block: int) -> NDArray[np.int64]:
    """Which pairs ``STEPS_ORDERED`` steps use, (steps, batch_size): one by one would cost nano models a tenth."""
    size = STEPS_ORDERED * batch_size
    return pair_order(seed, num_pairs, np.arange(block * size, (block + 1) * size)).reshape(STEPS_ORDERED, batch_size)


def learning_rate_at(share: float, hyperparameters: Hyperparameters) -> float:
    """Learning rate when ``share`` of the budget is spent: linear warm-up, then a cosine to zero (paper, appendix)."""
    warmup = hyperparameters.warmup_fraction
    if share < warmup:
        return hyperparameters.learning_rate * share / warmup
    return hyperparameters.learning_rate * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def evaluate(
    encoder: Encoder, split: TokenSplit, shape: ModelShape, spec: TrialSpec, placement: Placement
) -> tuple[Metrics, int]:
    """Held-out metrics on the fixed pairs of ``split``, and the forward FLOPs they took.

    Raises ``ValueError`` where the split holds less than one candidate set.
    """
    num_candidates = spec.evaluation.num_candidates
    num_pairs = min(spec.evaluation.num_pairs, split.num_pairs) // num_candidates * num_candidates
    if num_pairs == 0:
        raise ValueError(
            f"evaluation.num_candidates is {num_candidates}, but there are {split.num_pairs} held-out pairs (of which "
            f"evaluation.num_pairs uses up to {spec.evaluation.num_pairs}): choose fewer candidates or give more data"
        )
    texts = split.texts(pair_order(HELD_OUT_ORDER_SEED, split.num_pairs, np.arange(num_pairs)))
    queries, positives = ([text[: spec.hyperparameters.max_length] for text in side] for side in texts)
    with torch.no_grad():
        embedded = embed(encoder, queries + positives, chunk_tokens=placement.chunk_tokens, recompute=False)
    metrics = held_out_metrics(
        embedded.embeddings[:num_pairs],
        embedded.embeddings[num_pairs:],
        num_candidates=num_candidates,
        temperature=spec.hyperparameters.temperature,
    )
    flops = forward_flops(shape, spec.method, tokens=embedded.computed_tokens, squared_lengths=embedded.squared_lengths)
    return metrics, flops


def _set_up(spec: TrialSpec, placement: Placement, files: TrialFiles) -> _Trial:
    torch.set_num_threads(placement.num_threads)
    torch.manual_seed(spec.seed)
    backbone = load_backbone(files.model)
    shape = measure_shape(spec.model, backbone, pretraining_learning_rate=0)
    counts = parameter_counts(shape, spec.method)
    apply_method(backbone, spec.method)
    # Evaluation mode throughout: it turns dropout off, which neither Pythia nor a recomputed chunk has a use for.
    encoder = Encoder(backbone, spec.hyperparameters.pooling).to(placement.device).eval()
    names = {parameter: name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert sum(parameter.numel() for parameter in names) == counts.trainable
    return _Trial(
        spec=spec,
        placement=placement,
        encoder=encoder,
        shape=shape,
        counts=counts,
        optimizer=torch.optim.AdamW(decay_groups(names, spec.hyperparameters.weight_decay), fused=True),
        names=names,
        train_split=open_split(Path(files.tokens), "train"),
        validation_split=open_split(Path(files.tokens), "validation"),
        flops_per_token=booked_flops_per_token(counts, spec.method),
    )


def _next_batch(trial: _Trial, progress: _Progress) -> Batch | None:
    remaining_tokens = (trial.spec.budget_flops - progress.spending.booked_flops) // trial.flops_per_token
    return next_batch(trial.train_split, trial.spec, progress.spending.steps, remaining_tokens)


def _step(trial: _Trial, progress: _Progress, batch: Batch) -> CurvePoint:
    """One optimizer update on ``batch``; none where the loss or the gradient is not finite."""
    spec, placement = trial.spec, trial.placement
    hyperparameters = spec.hyperparameters
    flops = batch.num_tokens * trial.flops_per_token
    # The rate at the middle of the step: the first update is not wasted on a rate of zero, nor is the last.
    share = (progress.spending.booked_flops + flops / 2) / spec.budget_flops
    learning_rate = learning_rate_at(share, hyperparameters)
    for group in trial.optimizer.param_groups:
        group["lr"] = learning_rate
    embedded = embed(
        trial.encoder,
        batch.queries + batch.positives,
        chunk_tokens=placement.chunk_tokens,
        recompute=placement.recompute,
    )
    queries, positives = embedded.embeddings.chunk(2)
    rows, columns = contrastive_loss(queries, positives, 1 / hyperparameters.temperature)
    loss = (rows + columns) / 2
    trial.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gradients = [parameter.grad for parameter in trial.names if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if hyperparameters.gradient_clipping > 0:
        torch.nn.utils.clip_grads_with_norm_(list(trial.names), hyperparameters.gradient_clipping, norm)
    if torch.isfinite(loss) and torch.isfinite(norm):
        trial.optimizer.step()
    spent = progress.spending
    progress.spending = replace(
        spent,
        booked_flops=spent.booked_flops + flops,
        measured_flops=spent.measured_flops
        + measured_flops(
            trial.shape,
            spec.method,
            tokens=embedded.computed_tokens,
            squared_lengths=embedded.squared_lengths,
            recompute=placement.recompute,
        ),
        tokens=spent.tokens + embedded.tokens,
        padded_tokens=spent.padded_tokens + embedded.attended_tokens,
        pairs=spent.pairs + len(batch.queries),
        steps=spent.steps + 1,
    )
    point = CurvePoint(
        step=progress.spending.steps,
        tokens=progress.spending.tokens,
        spent_flops=progress.spending.booked_flops,
        learning_rate=learning_rate,
        train_loss=loss.item(),
        gradient_norm=norm.item(),
    )
    if _belongs_on_curve(point, flops, batch, spec):
        progress.curve.append(point)
    return point


def _belongs_on_curve(point: CurvePoint, step_flops: int, batch: Batch, spec: TrialSpec) -> bool:
    """About ``CURVE_POINTS`` evenly spent points, and a failing one; a cut batch has fewer negatives and stays out."""
    if not math.isfinite(point.train_loss + point.gradient_norm):
        return True
    per_point = spec.budget_flops / CURVE_POINTS
    crossed = point.spent_flops // per_point > (point.spent_flops - step_flops) // per_point
    return crossed and len(batch.queries) == spec.hyperparameters.batch_size


def _used_until_now(progress: _Progress, placement: Placement, started: float) -> None:
    progress.spending = replace(
        progress.spending,
        seconds=time.monotonic() - started,
        peak_memory_bytes=max(progress.spending.peak_memory_bytes, peak_memory_bytes(placement)),
    )


def _save(trial: _Trial, progress: _Progress, folder: Path) -> None:
    tensors: dict[str, Tensor] = {f"parameter/{name}": parameter for parameter, name in trial.names.items()}
    tensors |= {
        f"optimizer/{name}": tensor
        for name, tensor in checkpoint.optimizer_tensors(trial.optimizer, trial.names).items()
    }
    tensors["random_state"] = torch.get_rng_state()
    record = {
        "trial": trial.spec.to_json(),
        "spending": asdict(progress.spending),
        "curve": [asdict(point) for point in progress.curve],
        "num_resumes": progress.num_resumes,
    }
    checkpoint.save(folder, checkpoint.Checkpoint(step=progress.spending.steps, tensors=tensors, record=record))


def _resume(trial: _Trial, folder: Path) -> _Progress:
    """The progress of the newest whole checkpoint of this very trial, its tensors put back; else a fresh start."""
    found = checkpoint.load_newest(folder)
    if found is None:
        return _Progress()
    if found.record["trial"] != trial.spec.to_json():
        raise ValueError(f"checkpoint folder {folder} belongs to another trial: give each trial a folder of its own")
    with torch.no_grad():
        for parameter, name in trial.names.items():
            parameter.copy_(found.tensors[f"parameter/{name}"])
    prefix = "optimizer/"
    checkpoint.restore_optimizer(
        trial.optimizer,
        trial.names,
        {name.removeprefix(prefix): t for name, t in found.tensors.items() if name.startswith(prefix)},
    )
    torch.set_rng_state(found.tensors["random_state"])
    return _Progress(
        spending=Spending(**found.record["spending"]),
        curve=[CurvePoint(**point) for point in found.record["curve"]],
        num_resumes=found.record["num_resumes"] + 1,
    )


def _result(trial: _Trial, progress: _Progress, state: TrialState, error: str, metrics: Metrics | None) -> TrialResult:
    spending = progress.spending
    peak = peak_flops(trial.placement)
    late = [p.train_loss for p in progress.curve if p.spent_flops >= 0.9 * trial.spec.budget_flops]
    return TrialResult(
        spec=trial.spec,
        state=state,
        metrics=metrics,
        spending=spending,
        counts=trial.counts,
        environment=environment(trial.placement),
        placement=trial.placement,
        epochs=spending.pairs / trial.train_split.num_pairs,
        train_loss=float(np.mean(late)) if late else None,
        mfu=spending.booked_flops / spending.seconds / peak if peak else None,
        num_resumes=progress.num_resumes,
        num_out_of_memory=0,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
        curve=tuple(progress.curve),
    )
