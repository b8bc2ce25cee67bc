"""One trial end to end on tiny token files: exact stop, schedule, resume bit for bit, divergence."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.tiny import random_texts
from tests.trainer.trials import METHODS, files, ignore, make_world, outcome, spec_of
from trainer import loop
from trainer.batch import next_batch
from trainer.contrastive import embed
from trainer.data import TokenSplit, open_split
from trainer.flops import booked_flops_per_token
from trainer.loop import learning_rate_at, train
from trainer.order import Mixture, pair_order
from trainer.result import CurvePoint, TrialResult, TrialState
from trainer.trial import Evaluation, Full, Lora, Method, Placement, Stopped


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


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
    placement = json.dumps({"checkpoint_seconds": 0})
    command = [sys.executable, "-m", "tests.trainer.killable"]
    command += [str(world), str(tmp_path / "killed"), spec.to_json(), placement]
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


def test_a_stopped_trial_leaves_a_checkpoint_of_that_very_step(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full())
    expected = train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore)

    def stop(point: CurvePoint) -> None:
        if point.step == 7:
            raise Stopped("asked to")

    stopped = files(world, tmp_path / "stopped")
    with pytest.raises(Stopped, match="asked to"):
        train(spec, Placement(checkpoint_seconds=10**9), stopped, stop)
    assert [path.name for path in (tmp_path / "stopped").glob("step-*")] == ["step-7"]
    steps: list[int] = []
    result = train(spec, Placement(), stopped, lambda point: steps.append(point.step))
    assert steps[0] == 8, "no step is repeated"
    assert outcome(result) == outcome(expected)


def test_a_trial_that_has_begun_again_elsewhere_ends(world: Path, tmp_path: Path) -> None:
    spec = spec_of(Full())
    shared = files(world, tmp_path / "shared")
    again: list[TrialResult] = []

    def begin_again(point: CurvePoint) -> None:
        if point.step == 7:
            again.append(train(spec, Placement(), shared, ignore))

    with pytest.raises(Stopped, match="another life"):
        train(spec, Placement(checkpoint_seconds=0), shared, begin_again)
    assert outcome(again[0]) == outcome(train(spec, Placement(), files(world, tmp_path / "undisturbed"), ignore))


def test_out_of_memory_goes_on_with_less_and_the_same_loss(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(Full())
    expected = train(spec, Placement(), files(world, tmp_path / "enough"), ignore)
    seen: list[tuple[int, bool]] = []

    def embed_in_little_memory(*arguments: object, chunk_tokens: int, recompute: bool, **others: object) -> object:
        seen.append((chunk_tokens, recompute))
        if chunk_tokens > 50 or not (recompute or evaluating()):
            raise torch.OutOfMemoryError("the device is full")
        if evaluating() and chunk_tokens > 30:
            raise torch.OutOfMemoryError("the device is full")
        return embed(*arguments, chunk_tokens=chunk_tokens, recompute=recompute, **others)  # type: ignore[arg-type]

    def evaluating() -> bool:
        return not torch.is_grad_enabled()

    def stop(point: CurvePoint) -> None:
        if point.step == 9:
            raise Stopped

    monkeypatch.setattr(loop, "embed", embed_in_little_memory)
    little = files(world, tmp_path / "little")
    with pytest.raises(Stopped):
        train(spec, Placement(chunk_tokens=150), little, stop)
    assert seen[:3] == [(150, False), (75, True), (37, True)]
    seen.clear()
    result = train(spec, Placement(chunk_tokens=150), little, ignore)
    assert seen[0] == (37, True), "what fits is remembered"
    assert result.num_out_of_memory == 3, "twice in training, once in evaluation"
    assert (result.placement.chunk_tokens, result.placement.recompute) == (18, True)
    assert result.metrics is not None and expected.metrics is not None
    assert result.metrics.loss == pytest.approx(expected.metrics.loss, abs=1e-4)
    losses, wanted = ([point.train_loss for point in r.curve] for r in (result, expected))
    assert losses == pytest.approx(wanted, abs=1e-4)

    def embed_in_no_memory(*_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(loop, "embed", embed_in_no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        train(spec, Placement(chunk_tokens=150), files(world, tmp_path / "none"), ignore)


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


@pytest.fixture
def world_with_negatives(tmp_path: Path) -> Path:
    """Two sources by weight, and none to three hard negatives of each pair."""
    folder = make_world(tmp_path / "world")
    random = np.random.default_rng(5)
    counts = random.integers(0, 4, 300)
    negatives = random_texts(int(counts.sum()), seed=6, longest=8)
    tokens = folder / "tokens"
    np.concatenate(negatives).astype(np.uint16).tofile(tokens / "train.negative.uint16")
    np.save(tokens / "train.negative.offsets.npy", np.cumsum([0, *map(len, negatives)]))
    np.save(tokens / "train.negative.first.npy", np.cumsum([0, *counts]))
    (tokens / "train.mixture.json").write_text(Mixture([200, 100], [1, 2]).to_json())
    return folder


def test_the_last_batch_takes_as_much_of_the_negatives_as_fits(world_with_negatives: Path) -> None:
    split, spec = train_split(world_with_negatives), spec_of(Full())
    whole = next_batch(split, spec, 0, 10**9)
    assert whole is not None
    assert len(whole.negatives) > 16
    for remaining in range(2, whole.num_tokens + 1):
        cut = next_batch(split, spec, 0, remaining)
        assert cut is not None
        assert cut.num_tokens in (remaining, remaining - 1), "at most one token, too few for a pair, is left"
        assert all(len(text) > 0 for text in cut.texts)
        assert len(cut.queries) == len(cut.positives)


def test_negatives_and_mixtures_survive_stops_and_count_against_the_budget(
    world_with_negatives: Path, tmp_path: Path
) -> None:
    spec = spec_of(Full())
    expected = train(spec, Placement(), files(world_with_negatives, tmp_path / "undisturbed"), ignore)
    per_token = booked_flops_per_token(expected.counts, spec.method)
    assert spec.budget_flops - expected.spending.booked_flops < 2 * per_token
    assert expected.epochs == pytest.approx(expected.spending.pairs * (2 / 3) / 100)

    def stop(point: CurvePoint) -> None:
        if point.step in (3, 10):
            raise Stopped

    stopped = files(world_with_negatives, tmp_path / "stopped")
    for _ in range(2):
        with pytest.raises(Stopped):
            train(spec, Placement(), stopped, stop)
    assert outcome(train(spec, Placement(), stopped, ignore)) == outcome(expected)
    shutil.rmtree(tmp_path / "stopped")
    (world_with_negatives / "tokens" / "train.negative.first.npy").unlink()
    without = train(spec, Placement(), files(world_with_negatives, tmp_path / "without"), ignore)
    assert without.curve[0].train_loss < expected.curve[0].train_loss, "more candidates, a higher loss"


def test_peak_memory_is_that_of_the_trial(world: Path, tmp_path: Path) -> None:
    before = train(spec_of(Full()), Placement(), files(world, tmp_path / "before"), ignore)
    large = np.ones(2**27)  # 1 GiB
    del large
    after = train(spec_of(Full()), Placement(), files(world, tmp_path / "after"), ignore)
    assert after.spending.peak_memory_bytes < before.spending.peak_memory_bytes + 2**29


def test_an_epoch_holds_every_pair_once(world: Path) -> None:
    order = pair_order(0, 300, np.arange(600))
    assert sorted(order[:300]) == sorted(order[300:]) == list(range(300))
    assert order[:300].tolist() != order[300:].tolist()
    assert pair_order(1, 300, np.arange(300)).tolist() != order[:300].tolist()
