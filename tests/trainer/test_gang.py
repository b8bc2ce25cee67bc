"""Trials on several workers of this machine: the same loss, through kills, fewer workers, stops and failures."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.trials import METHODS, files, ignore, make_world, outcome, spec_of
from trainer.loop import train
from trainer.result import CurvePoint
from trainer.trial import Evaluation, Full, Lora, Method, Placement, Stopped, TrialSpec

# Every gang starts two to four processes that load torch, some of them DeepSpeed too.
pytestmark = pytest.mark.timeout(900)

TWO = Placement(num_workers=2, checkpoint_seconds=0, chunk_tokens=60, recompute=True)
LORA = Lora(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def in_a_process(
    world: Path, checkpoints: Path, spec: TrialSpec, placement: Placement, kill_at: int = 0
) -> dict[str, Any]:
    """The trial in a process of its own; killed with SIGKILL after step ``kill_at`` where that is given."""
    command = [sys.executable, "-m", "tests.trainer.killable", str(world), str(checkpoints), spec.to_json()]
    command.append(json.dumps(asdict(placement)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last: dict[str, Any] = {}
        for line in process.stdout:
            if line.startswith("{"):
                last = json.loads(line)
                if kill_at and last["step"] == kill_at:
                    process.send_signal(signal.SIGKILL)
                    break
    return last


def test_a_zero_3_lora_trial_killed_twice_ends_on_one_worker_as_the_undisturbed_one(
    world: Path, tmp_path: Path
) -> None:
    spec = spec_of(LORA)
    undisturbed = train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore)
    assert undisturbed.metrics is not None
    killed = replace(TWO, zero_stage=3)
    in_a_process(world, tmp_path / "killed", spec, killed, kill_at=4)
    assert in_a_process(world, tmp_path / "killed", spec, killed, kill_at=9)["step"] == 9
    steps: list[int] = []
    result = train(spec, Placement(), files(world, tmp_path / "killed"), lambda point: steps.append(point.step))
    assert result.metrics is not None
    assert result.num_resumes == 2
    assert steps[0] in (9, 10), "the checkpoint of the step before the kill, or of that step"
    assert result.metrics.loss == pytest.approx(undisturbed.metrics.loss, abs=1e-4)
    assert result.spending.tokens == undisturbed.spending.tokens
    losses, wanted = ([point.train_loss for point in r.curve] for r in (result, undisturbed))
    assert losses == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param(method, stage, marks=() if (method, stage) == (Full(), None) else pytest.mark.slow)
        for method in METHODS
        for stage in (None, 0, 1, 2, 3)
    ],
    ids=lambda part: getattr(part, "label", f"stage-{part}"),
)
def test_a_killed_gang_ends_bit_for_bit_as_an_undisturbed_one_of_its_size(
    method: Method, stage: int | None, world: Path, tmp_path: Path
) -> None:
    spec, placement = spec_of(method), replace(TWO, zero_stage=stage)
    expected = train(spec, placement, files(world, tmp_path / "undisturbed"), ignore)
    kill_at = random.Random(f"{method.label} {stage}").randint(2, expected.spending.steps - 2)
    in_a_process(world, tmp_path / "killed", spec, placement, kill_at=kill_at)
    result = train(spec, placement, files(world, tmp_path / "killed"), ignore)
    assert result.num_resumes == 1
    assert outcome(result) == outcome(expected)


def test_a_trial_shrinks_from_four_workers_to_two_to_one(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full())
    undisturbed = train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore)

    def stop_at(step: int) -> Any:
        def report(point: CurvePoint) -> None:
            if point.step == step:
                raise Stopped

        return report

    shrinking = files(world, tmp_path / "shrinking")
    for num_workers, step in ((4, 5), (2, 11)):
        with pytest.raises(Stopped):
            train(spec, replace(TWO, num_workers=num_workers, checkpoint_seconds=10**9), shrinking, stop_at(step))
        assert (tmp_path / "shrinking" / f"step-{step}").is_dir(), "stopped with a checkpoint of that very step"
    result = train(spec, Placement(), shrinking, ignore)
    assert result.metrics is not None and undisturbed.metrics is not None
    assert result.spec.trial_id == undisturbed.spec.trial_id
    assert result.num_resumes == 2
    assert result.metrics.loss == pytest.approx(undisturbed.metrics.loss, abs=1e-4)
    assert result.spending.pairs == undisturbed.spending.pairs


def test_what_a_worker_refuses_reaches_the_caller_as_it_is(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full(), evaluation=Evaluation(num_pairs=512, num_candidates=256))
    with pytest.raises(ValueError, match=r"evaluation\.num_candidates is 256, but there are 64"):
        train(spec, replace(TWO, checkpoint_seconds=60), files(world, tmp_path), ignore)


def test_an_error_of_the_caller_ends_the_workers(world: Path, tmp_path: Path) -> None:
    def fail(point: CurvePoint) -> None:
        raise RuntimeError("the caller has had enough")

    with pytest.raises(RuntimeError, match="had enough"):
        train(spec_of(Full()), TWO, files(world, tmp_path), fail)
    assert multiprocessing.active_children() == []
