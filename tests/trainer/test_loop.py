"""One trial end to end on tiny token files: exact stop, schedule, resume bit for bit, divergence."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.tiny import random_texts, tiny_decoder, write_split
from trainer.anatomy import measure_shape
from trainer.data import TokenSplit, open_split, pair_order
from trainer.flops import booked_flops_per_token
from trainer.ladder import parameter_counts
from trainer.loop import learning_rate_at, next_batch, train
from trainer.trial import (
    Bias,
    CurvePoint,
    Evaluation,
    Freeze,
    Full,
    Hyperparameters,
    Lora,
    Method,
    Placement,
    TrialFiles,
    TrialResult,
    TrialSpec,
    TrialState,
)

METHODS: list[Method] = [Full(), Freeze(active_fraction=0.5), Bias(), Lora(rank=2, alpha=4.0)]
NUM_STEPS = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX and pairs whose positive repeats the query's tokens: something to learn."""
    folder = tmp_path_factory.mktemp("world")
    tiny_decoder("gpt_neox").save_pretrained(folder / "model")
    for split, num_pairs, seed in (("train", 300, 1), ("validation", 64, 2)):
        queries = random_texts(num_pairs, seed=seed, longest=8)
        noise = random_texts(num_pairs, seed=seed + 10, longest=8)
        positives = [np.concatenate([q, n]) for q, n in zip(queries, noise, strict=True)]
        write_split(folder / "tokens", split, queries, positives)
    return folder


def files(world: Path, checkpoints: Path) -> TrialFiles:
    return TrialFiles(tokens=str(world / "tokens"), model=str(world / "model"), checkpoints=str(checkpoints))


def spec_of(method: Method, **changed: object) -> TrialSpec:
    shape = measure_shape("tiny", tiny_decoder("gpt_neox"), 0)
    per_token = booked_flops_per_token(parameter_counts(shape, method), method)
    hyperparameters = Hyperparameters(
        learning_rate=1e-2,
        temperature=0.05,
        weight_decay=0.1,
        batch_size=16,
        max_length=12,
        warmup_fraction=0.1,
        pooling="mean",
        gradient_clipping=1.0,
    )
    settings: dict[str, object] = {
        "model": "tiny",
        "revision": "r",
        "method": method,
        "budget_flops": per_token * 16 * 13 * NUM_STEPS + per_token // 2,
        "hyperparameters": replace(hyperparameters, **{k: v for k, v in changed.items() if k in HYPERPARAMETERS}),
        "evaluation": Evaluation(num_pairs=64, num_candidates=32),
        "data": "d",
        "seed": 0,
        "number": 0,
    }
    return TrialSpec(**{**settings, **{k: v for k, v in changed.items() if k not in HYPERPARAMETERS}})


HYPERPARAMETERS = {"learning_rate", "temperature", "gradient_clipping", "batch_size", "max_length", "pooling"}


def ignore(point: CurvePoint) -> None:
    """A report that nobody reads."""


def outcome(result: TrialResult) -> dict[str, object]:
    """What must not depend on interruptions."""
    spending = replace(result.spending, seconds=0.0, peak_memory_bytes=0)
    return {"metrics": result.metrics, "spending": spending, "curve": result.curve, "train_loss": result.train_loss}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_a_trial_learns_and_spends_its_budget_to_the_last_token(method: Method, world: Path, tmp_path: Path) -> None:
    spec = spec_of(method)
    result = train(spec, Placement(), files(world, tmp_path), ignore)
    per_token = booked_flops_per_token(result.counts, method)
    assert result.state is TrialState.COMPLETE
    assert result.spending.booked_flops == result.spending.tokens * per_token
    assert 0 <= spec.budget_flops - result.spending.booked_flops < 2 * per_token
    assert result.metrics is not None
    assert result.metrics.loss < math.log(32)
    untrained = train(replace(spec, budget_flops=per_token * 20), Placement(), files(world, tmp_path / "b"), ignore)
    assert untrained.metrics is not None
    assert result.metrics.loss < untrained.metrics.loss
    assert result.epochs == result.spending.pairs / 300
    assert result.spending.measured_flops > result.spending.booked_flops


def test_another_placement_gives_the_same_loss(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full())
    small = Placement(chunk_tokens=40, recompute=True)
    results = [train(spec, p, files(world, tmp_path / str(i)), ignore) for i, p in enumerate((Placement(), small))]
    losses = [result.metrics.loss for result in results if result.metrics]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert results[0].spending.tokens == results[1].spending.tokens
    assert results[1].spending.measured_flops > results[0].spending.measured_flops, "recomputation is measured"


class InterruptedTrialError(Exception):
    """The fault that a test injects through ``report``."""


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_an_interrupted_trial_ends_bit_for_bit_as_an_undisturbed_one(
    method: Method, world: Path, tmp_path: Path
) -> None:
    spec = spec_of(method)
    expected = train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore)

    def fail_at(step: int) -> object:
        def report(point: CurvePoint) -> None:
            if point.step == step:
                raise InterruptedTrialError

        return report

    often = Placement(checkpoint_seconds=0)
    interrupted = files(world, tmp_path / "interrupted")
    for step in (3, 4, 17):
        with pytest.raises(InterruptedTrialError):
            train(spec, often, interrupted, fail_at(step))
    result = train(spec, often, interrupted, ignore)
    assert result.num_resumes == 3
    assert outcome(result) == outcome(expected)


@pytest.mark.parametrize("after_seconds", [0.0, 0.15, 0.4])
def test_sigkill_at_any_moment_leaves_the_same_final_loss(after_seconds: float, world: Path, tmp_path: Path) -> None:
    spec = spec_of(Lora(rank=2, alpha=4.0))
    expected = train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore)
    command = [sys.executable, "-m", "tests.trainer.killable", str(world), str(tmp_path / "killed"), spec.to_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert victim.stdout is not None
    victim.stdout.readline()  # the first step is done
    time.sleep(after_seconds)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    assert expected.metrics is not None
    assert result["loss"] == expected.metrics.loss
    assert result["steps"] == expected.spending.steps


def test_a_checkpoint_of_another_trial_is_refused(world: Path, tmp_path: Path) -> None:
    train(spec_of(Full()), Placement(checkpoint_seconds=0), files(world, tmp_path), ignore)
    with pytest.raises(ValueError, match="belongs to another trial"):
        train(spec_of(Full(), seed=1), Placement(), files(world, tmp_path), ignore)


def test_a_loss_that_is_not_finite_ends_the_trial_diverged_with_its_curve(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full(), learning_rate=1e30, gradient_clipping=0.0)
    result = train(spec, Placement(), files(world, tmp_path), ignore)
    assert result.state is TrialState.DIVERGED
    assert result.metrics is None
    assert "loss nan" in result.error or "loss inf" in result.error
    assert len(result.curve) >= 2
    assert not math.isfinite(result.curve[-1].train_loss + result.curve[-1].gradient_norm)


def test_too_few_held_out_pairs_are_refused(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full(), evaluation=Evaluation(num_pairs=512, num_candidates=256))
    with pytest.raises(ValueError, match=r"evaluation\.num_candidates is 256, but there are 64"):
        train(spec, Placement(), files(world, tmp_path), ignore)


def test_temperature_and_pooling_reach_the_training(world: Path, tmp_path: Path) -> None:
    settings: list[dict[str, object]] = [{}, {"temperature": 0.2}, {"pooling": "last"}, {"max_length": 5}]
    results = [
        train(spec_of(Full(), **s), Placement(), files(world, tmp_path / str(i)), ignore)
        for i, s in enumerate(settings)
    ]
    assert len({result.metrics.loss for result in results if result.metrics}) == len(settings)


# The schedule and the batches -----------------------------------------------------------------------------------------


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    hyperparameters = spec_of(Full()).hyperparameters
    assert learning_rate_at(0.05, hyperparameters) == pytest.approx(0.5e-2)
    assert learning_rate_at(0.1, hyperparameters) == pytest.approx(1e-2)
    assert learning_rate_at(0.55, hyperparameters) == pytest.approx(0.5e-2)
    assert learning_rate_at(1.0, hyperparameters) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_at(0.0, replace(hyperparameters, warmup_fraction=0.0)) == pytest.approx(1e-2)


def test_no_update_is_wasted_on_a_rate_of_zero(world: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    train(spec_of(Full()), Placement(), files(world, tmp_path), lambda point: rates.append(point.learning_rate))
    assert min(rates) > 0


def train_split(world: Path) -> TokenSplit:
    return open_split(world / "tokens", "train")


def test_the_last_batch_is_the_longest_prefix_and_a_shortened_pair(world: Path) -> None:
    split, spec = train_split(world), spec_of(Full())
    whole = next_batch(split, spec, 0, 10**9)
    assert whole is not None
    assert len(whole.queries) == 16
    for remaining in range(2, whole.num_tokens + 1):
        cut = next_batch(split, spec, 0, remaining)
        assert cut is not None
        assert cut.num_tokens in (remaining, remaining - 1), "at most one token, too few for a pair, is left"
        assert all(len(text) > 0 for text in cut.queries + cut.positives)
        unchanged = len(cut.queries) - 1
        assert [q.tolist() for q in cut.queries[:unchanged]] == [q.tolist() for q in whole.queries[:unchanged]]
    assert next_batch(split, spec, 0, 1) is None
    assert next_batch(split, spec, 0, 0) is None


def test_an_epoch_holds_every_pair_once(world: Path) -> None:
    order = pair_order(0, 300, np.arange(600))
    assert sorted(order[:300]) == sorted(order[300:]) == list(range(300))
    assert order[:300].tolist() != order[300:].tolist()
    assert pair_order(1, 300, np.arange(300)).tolist() != order[:300].tolist()
