"""One trial from start to end: ``train(spec, placement, files, report) -> TrialResult``.

Knows how a budget is spent to the last token, when to write a checkpoint, and how a trial ends. Never knows a sweep,
a study, a scheduler or a store; whoever calls it records the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from trainer import checkpoint, engine, gang
from trainer.anatomy import measure_shape
from trainer.batch import Batch, next_batch
from trainer.contrastive import Embedded, contrastive_loss, embed
from trainer.data import TokenSplit, open_split
from trainer.encoder import Encoder, load_backbone
from trainer.engine import Engine
from trainer.environment import environment, forget_peak_memory, peak_flops, peak_memory_bytes
from trainer.evaluate import held_out_metrics, held_out_texts
from trainer.export import save_trained
from trainer.flops import booked_flops_per_token, forward_flops, measured_flops
from trainer.ladder import ModelShape, parameter_counts
from trainer.methods import apply_method
from trainer.progress import Progress
from trainer.result import CheckedLoss, CurvePoint, Metrics, ParameterCounts, TrialResult, TrialState
from trainer.shrink import remember, remembered, with_less_memory
from trainer.trial import Hyperparameters, Placement, Stopped, TrialFiles, TrialSpec
from trainer.world import ALONE, World

CURVE_POINTS = 200
"""About how many points a stored curve has."""
FIRST_CHECK = 20
"""Steps before which no trial is checked: its loss says little about where it will end."""

Report = Callable[[CurvePoint], None]
Together = Callable[[TrialSpec, Placement, TrialFiles, Report], TrialResult]
"""Starts a worker for each of the placement's, in processes of their own, and passes on what comes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trial:
    """What a worker works with, built once."""

    spec: TrialSpec
    placement: Placement
    world: World
    engine: Engine
    shape: ModelShape
    counts: ParameterCounts
    train_split: TokenSplit
    validation_split: TokenSplit
    flops_per_token: int


def train(
    spec: TrialSpec,
    placement: Placement,
    files: TrialFiles,
    report: Report,
    together: Together = gang.train_together,
) -> TrialResult:
    """Run ``spec`` to its end, from its newest checkpoint where there is one.

    Several workers are processes of this machine, or what ``together`` starts elsewhere.

    ``report`` gets the state after every step. Where it raises ``Stopped``, a checkpoint is written and ``Stopped``
    comes out; what else it raises ends the call at once. The next call goes on from the last checkpoint, on this
    placement or another. Where a GPU runs out of memory, the trial goes on from its last checkpoint with less, and the
    result's placement says with what. Ends COMPLETE, PRUNED where a check of the spec says so, or DIVERGED on a loss or
    gradient that is not finite; raises on everything else. On CPUs with the same number of threads and workers the
    result is the same bit for bit, however often it was interrupted.
    """
    work = train_worker if placement.num_workers == 1 and placement.zero_stage is None else together
    folder = Path(files.checkpoints)
    num_out_of_memory, fits = remembered(placement, folder)
    while True:
        try:
            result = work(spec, fits, files, report)
            return replace(result, num_out_of_memory=num_out_of_memory)
        except torch.OutOfMemoryError:
            smaller = with_less_memory(fits, spec.hyperparameters)
            if smaller is None:
                raise
        # Outside the handler: what the failed attempt held is free only when its traceback is gone.
        torch.cuda.empty_cache()
        fits = smaller
        num_out_of_memory += 1
        remember(placement, fits, num_out_of_memory, folder)


def train_worker(
    spec: TrialSpec, placement: Placement, files: TrialFiles, report: Report, world: World = ALONE
) -> TrialResult:
    """One worker's part of ``train``, in a process that has joined ``world``; every worker gets the same result.

    Files are written by the worker that leads, and ``report`` is called there alone.
    """
    trial = _set_up(spec, placement, files, world)
    folder = Path(files.checkpoints)
    life = checkpoint.claim(folder) if world.leads else ""
    progress = _resume(trial, folder)
    started = time.monotonic() - progress.spending.seconds
    checkpointed = time.monotonic()
    state, error = TrialState.COMPLETE, ""
    while (batch := _next_batch(trial, progress)) is not None:
        before = progress.spending.booked_flops
        point = _step(trial, progress, batch)
        if not (math.isfinite(point.train_loss) and math.isfinite(point.gradient_norm)):
            state = TrialState.DIVERGED
            error = f"step {point.step}: loss {point.train_loss}, gradient norm {point.gradient_norm}"
        elif _falls_behind(trial, progress, before):
            state = TrialState.PRUNED
        stopped = _report(report, point, world)
        if state is not TrialState.COMPLETE:
            break
        due = world.leads and time.monotonic() - checkpointed >= placement.checkpoint_seconds
        num_stopped, num_due = world.sums(stopped is not None, due)
        if num_stopped or num_due:
            _used_until_now(trial, progress, started)
            _save(trial, progress, folder, life)
            checkpointed = time.monotonic()
        if num_stopped:
            raise stopped or Stopped
    metrics = None
    if state is TrialState.COMPLETE:
        metrics = _evaluate(trial, progress)
        if files.weights:
            trained = trial.engine.trained()
            if world.leads:
                save_trained(Path(files.weights), spec, trained)
    _used_until_now(trial, progress, started)
    return _result(trial, progress, state, error, metrics)


def _report(report: Report, point: CurvePoint, world: World) -> Stopped | None:
    """Tell whoever waits how far the trial is, and whether they asked it to stop."""
    if world.leads:
        try:
            report(point)
        except Stopped as stopped:
            return stopped
    return None


def learning_rate_at(share: float, hyperparameters: Hyperparameters) -> float:
    """Learning rate when ``share`` of the budget is spent: linear warm-up, then a cosine to zero (paper, appendix)."""
    warmup = hyperparameters.warmup_fraction
    if share < warmup:
        return hyperparameters.learning_rate * share / warmup
    return hyperparameters.learning_rate * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _set_up(spec: TrialSpec, placement: Placement, files: TrialFiles, world: World) -> _Trial:
    forget_peak_memory(placement)
    torch.set_num_threads(placement.num_threads)
    torch.manual_seed(spec.seed)
    backbone = load_backbone(files.model)
    shape = measure_shape(spec.model, backbone, pretraining_learning_rate=0)
    counts = parameter_counts(shape, spec.method)
    apply_method(backbone, spec.method)
    # Evaluation mode throughout: it turns dropout off, which neither Pythia nor a recomputed chunk has a use for.
    encoder = Encoder(backbone, spec.hyperparameters.pooling).to(placement.device).eval()
    if placement.dtype == "float64":
        encoder = encoder.double()
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == counts.trainable
    return _Trial(
        spec=spec,
        placement=placement,
        world=world,
        engine=engine.start(encoder, spec.hyperparameters, placement, world),
        shape=shape,
        counts=counts,
        train_split=open_split(Path(files.tokens), "train"),
        validation_split=open_split(Path(files.tokens), "validation"),
        flops_per_token=booked_flops_per_token(counts, spec.method),
    )


def _next_batch(trial: _Trial, progress: Progress) -> Batch | None:
    remaining_tokens = (trial.spec.budget_flops - progress.spending.booked_flops) // trial.flops_per_token
    return next_batch(trial.train_split, trial.spec, progress.spending.steps, remaining_tokens)


def _step(trial: _Trial, progress: Progress, batch: Batch) -> CurvePoint:
    """One optimizer update on ``batch``."""
    spec, placement = trial.spec, trial.placement
    flops = batch.num_tokens * trial.flops_per_token
    # The rate at the middle of the step: the first update is not wasted on a rate of zero, nor is the last.
    share = (progress.spending.booked_flops + flops / 2) / spec.budget_flops
    learning_rate = learning_rate_at(share, spec.hyperparameters)
    embedded = _embed(trial, batch.texts, recompute=placement.recompute)
    num_pairs = len(batch.queries)
    queries, positives, negatives = torch.split(embedded.embeddings, [num_pairs, num_pairs, len(batch.negatives)])
    scale = 1 / spec.hyperparameters.temperature
    rows, columns = contrastive_loss(queries, positives, scale, negatives if batch.negatives else None)
    loss = (rows + columns) / 2
    trial.engine.backward(loss)
    norm = trial.engine.step(learning_rate)
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
            recomputed_tokens=embedded.recomputed_tokens,
            recomputed_squared_lengths=embedded.recomputed_squared_lengths,
        ),
        tokens=spent.tokens + embedded.tokens,
        padded_tokens=spent.padded_tokens + embedded.attended_tokens,
        pairs=spent.pairs + num_pairs,
        steps=spent.steps + 1,
    )
    point = CurvePoint(
        step=progress.spending.steps,
        tokens=progress.spending.tokens,
        spent_flops=progress.spending.booked_flops,
        learning_rate=learning_rate,
        train_loss=loss.item(),
        gradient_norm=norm,
    )
    if _belongs_on_curve(point, flops, batch, spec):
        progress.curve.append(point)
    return point


def _falls_behind(trial: _Trial, progress: Progress, before: int) -> bool:
    """Whether the last step, which began with ``before`` FLOPs spent, has come to a check with too high a loss.

    The loss is noted before anything else can end the step, so that a trial that goes on from here has it.
    """
    spent, budget = progress.spending, trial.spec.budget_flops
    due = [check for check in trial.spec.checks if before < check.share * budget <= spent.booked_flops]
    if not due or spent.steps < FIRST_CHECK:
        return False
    loss = _evaluate(trial, progress).loss
    if not math.isfinite(loss):
        return False  # the next step's gradient says so too
    progress.checked += [CheckedLoss(share=check.share, loss=loss) for check in due]
    too_high = any(check.above is not None and loss > check.above for check in due)
    # The leading worker's word: on other hardware the last bits may differ between workers.
    [num_behind] = trial.world.sums(trial.world.leads and too_high)
    return num_behind > 0


def _evaluate(trial: _Trial, progress: Progress) -> Metrics:
    """Held-out metrics on the fixed validation pairs; the forward FLOPs they take are measured, not booked."""
    queries, positives = held_out_texts(trial.validation_split, trial.spec)
    with torch.no_grad():
        embedded = _embed(trial, queries + positives, recompute=False)
    metrics = held_out_metrics(
        *torch.split(embedded.embeddings, len(queries)),
        num_candidates=trial.spec.evaluation.num_candidates,
        temperature=trial.spec.hyperparameters.temperature,
    )
    flops = forward_flops(
        trial.shape, trial.spec.method, tokens=embedded.computed_tokens, squared_lengths=embedded.squared_lengths
    )
    progress.spending = replace(progress.spending, measured_flops=progress.spending.measured_flops + flops)
    return metrics


def _embed(trial: _Trial, texts: Sequence[np.ndarray], *, recompute: bool) -> Embedded:
    return embed(
        trial.engine.encoder,
        texts,
        chunk_tokens=trial.placement.chunk_tokens,
        recompute=recompute,
        keep_last=trial.engine.keeps_last_chunk,
        encode=trial.engine,
        world=trial.world,
    )


def _belongs_on_curve(point: CurvePoint, step_flops: int, batch: Batch, spec: TrialSpec) -> bool:
    """About ``CURVE_POINTS`` evenly spent points, and a failing one; a cut batch has fewer negatives and stays out."""
    if not math.isfinite(point.train_loss + point.gradient_norm):
        return True
    per_point = spec.budget_flops / CURVE_POINTS
    crossed = point.spent_flops // per_point > (point.spent_flops - step_flops) // per_point
    return crossed and len(batch.queries) == spec.hyperparameters.batch_size


def _used_until_now(trial: _Trial, progress: Progress, started: float) -> None:
    memory = trial.world.largest(peak_memory_bytes(trial.placement))
    progress.spending = replace(
        progress.spending,
        seconds=time.monotonic() - started,
        peak_memory_bytes=max(progress.spending.peak_memory_bytes, memory),
    )


def _save(trial: _Trial, progress: Progress, folder: Path, life: str) -> None:
    tensors = trial.engine.state()
    if not trial.world.leads:
        return
    tensors["random_state"] = torch.get_rng_state()
    record = {"trial": trial.spec.to_json(), **progress.to_record()}
    checkpoint.save(folder, checkpoint.Checkpoint(step=progress.spending.steps, tensors=tensors, record=record), life)


def _resume(trial: _Trial, folder: Path) -> Progress:
    """The progress of the newest whole checkpoint of this very trial, its tensors put back; else a fresh start.

    The leading worker says which: a process that is cut off and trains on may add one while they look.
    """
    found = checkpoint.load_newest(folder) if trial.world.leads else None
    [step] = trial.world.sums(found.step if found else 0)
    if step == 0:
        return Progress()
    found = found or checkpoint.load(folder, step)
    if found.record["trial"] != trial.spec.to_json():
        raise ValueError(f"checkpoint folder {folder} belongs to another trial: give each trial a folder of its own")
    torch.set_rng_state(found.tensors.pop("random_state"))
    trial.engine.restore(found.tensors)
    return Progress.resumed(found.record)


def _result(trial: _Trial, progress: Progress, state: TrialState, error: str, metrics: Metrics | None) -> TrialResult:
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
        epochs=trial.train_split.epochs(spending.pairs),
        train_loss=float(np.mean(late)) if late else None,
        mfu=spending.booked_flops / spending.seconds / peak if peak else None,
        num_resumes=progress.num_resumes,
        num_out_of_memory=0,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        error=error,
        curve=tuple(progress.curve),
        checked=tuple(progress.checked),
    )
