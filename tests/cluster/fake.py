"""A stand-in for ``trainer.loop.train`` with a known law, checkpoints, a log of what ran, and faults on demand.

It trains nothing: it is there to inject faults and to give known answers, on the real Ray, search and store. The
folder that ``files.tokens`` names is its world: ``faults.json`` maps ``method/number`` to a fault, ``log/`` gets a line
for each start and each step, and ``order`` those of all trials.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer.ladder import SHAPES, parameter_counts
from trainer.result import CheckedLoss, CurvePoint, Environment, Metrics, Spending, TrialResult, TrialState
from trainer.trial import Placement, TrialFiles, TrialSpec

STEPS = 5
SENT_SECONDS = 3.0
SLOW_SECONDS = 1.5
"""A step of a slow trial: its last four take longer than a worker outlives its driver."""
BEST_LEARNING_RATE = 3e-3


def law(spec: TrialSpec) -> float:
    """The loss of a trial: a bowl in the learning rate and in the model's size, lower for larger budgets."""
    size = SHAPES[spec.model].num_params_non_embedding
    return (
        2.0
        + math.log10(spec.hyperparameters.learning_rate / BEST_LEARNING_RATE) ** 2
        + 0.2 * math.log10(size / math.sqrt(spec.budget_flops)) ** 2
        + 1e9 / spec.budget_flops
    )


def checks_until(spec: TrialSpec, spent: float) -> tuple[tuple[CheckedLoss, ...], bool]:
    """The checks up to a share of the budget, and whether the last of them ends the trial."""
    checked: list[CheckedLoss] = []
    for check in spec.checks:
        if check.share > spent:
            break
        checked.append(CheckedLoss(share=check.share, loss=law(spec) + 1 - check.share))
        if check.above is not None and checked[-1].loss > check.above:
            return tuple(checked), True
    return tuple(checked), False


def train(
    spec: TrialSpec,
    placement: Placement,
    files: TrialFiles,
    report: Callable[[CurvePoint], None],
    together: object = None,
) -> TrialResult:
    """``together`` is what several workers would train with: here they only have their place."""
    world, folder = Path(files.tokens), Path(files.checkpoints)
    settings = json.loads((world / "faults.json").read_text())
    fault = settings["faults"].get(f"{spec.method.label}/{spec.number}", "")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "step"
    first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 0
    note(world, spec, f"start {first} {fault}")
    step, (checked, pruned) = STEPS - 1, checks_until(spec, first / STEPS)
    for step in range(first, STEPS):
        time.sleep(SLOW_SECONDS if fault == "slow" else settings["seconds"])
        _fail(fault, step, num_starts=starts(world, spec.trial_id))
        note(world, spec, f"step {step}")
        fresh = folder / f".step.{os.getpid()}"
        fresh.write_text(str(step))
        fresh.replace(checkpoint)
        checked, pruned = checks_until(spec, (step + 1) / STEPS)
        report(_point(spec, step))
        if pruned:
            break
    diverged = fault == "diverge"
    if files.weights and not (diverged or pruned):
        Path(files.weights).mkdir(parents=True, exist_ok=True)
        (Path(files.weights) / "loss").write_text(str(law(spec)))
    metrics = Metrics(
        loss=law(spec),
        loss_rows=law(spec),
        loss_columns=law(spec),
        calibrated_scale=10.0,
        raw_loss=law(spec),
        accuracy=0.5,
        mrr=0.5,
        ndcg_at_10=0.5,
    )
    return TrialResult(
        spec=spec,
        state=TrialState.DIVERGED if diverged else TrialState.PRUNED if pruned else TrialState.COMPLETE,
        metrics=None if diverged or pruned else metrics,
        spending=Spending(
            booked_flops=_point(spec, step).spent_flops,
            tokens=1000,
            pairs=10,
            steps=step + 1,
            seconds=settings["row_seconds"],
        ),
        counts=parameter_counts(SHAPES[spec.model], spec.method),
        environment=Environment(host="h", device="cpu", versions="{}", git_commit=""),
        placement=placement,
        epochs=1.0,
        train_loss=None if diverged or pruned else law(spec),
        mfu=None,
        num_resumes=int(first > 0),
        num_out_of_memory=0,
        finished_at="2026-01-01T00:00:00+00:00",
        error="step 4: loss nan, gradient norm nan" if diverged else "",
        curve=tuple(_point(spec, n) for n in range(step + 1)),
        checked=checked,
    )


def note(world: Path, spec: TrialSpec, what: str) -> None:
    (world / "log").mkdir(exist_ok=True)
    with (world / "log" / spec.trial_id).open("a") as log:
        log.write(what + "\n")
    note_order(world, f"{spec.trial_id} {what}")


def note_order(world: Path, what: str) -> None:
    with (world / "order").open("a") as order:
        order.write(what + "\n")


def order(world: Path) -> list[list[str]]:
    """What happened, by whom: the trial and the words of each event, the first one first."""
    return [line.split() for line in (world / "order").read_text().splitlines()]


def events(world: Path, trial_id: str) -> list[str]:
    return (world / "log" / trial_id).read_text().splitlines()


def starts(world: Path, trial_id: str) -> int:
    return sum(event.startswith("start") for event in events(world, trial_id))


def is_slow(world: Path, trial_id: str) -> bool:
    return events(world, trial_id)[0].endswith("slow")


def _fail(fault: str, step: int, num_starts: int) -> None:
    if step < 2:
        return
    if fault == "raise":
        raise RuntimeError("the code of this trial is broken")
    if fault == "raise once" and num_starts == 1:
        raise RuntimeError("broken once")
    if fault == "kill once" and num_starts == 1:
        # Where the checkpoints go to object storage, a thread looks twice a second for what it has to send.
        time.sleep(SENT_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "disk full":
        raise OSError(errno.ENOSPC, "No space left on device")


def _point(spec: TrialSpec, step: int) -> CurvePoint:
    point = CurvePoint(step=0, tokens=0, spent_flops=0, learning_rate=1e-3, train_loss=3.0, gradient_norm=1.0)
    share = (step + 1) / STEPS
    return replace(point, step=step + 1, tokens=round(1000 * share), spent_flops=round(spec.budget_flops * share))
