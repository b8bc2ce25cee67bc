"""Checks on the way of a real trial: they change nothing that is learned, and decide the same after every kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.columns import from_row, to_row
from tests.trainer.trials import NUM_STEPS, files, ignore, make_world, outcome, spec_of
from trainer.loop import train
from trainer.result import CurvePoint, TrialResult, TrialState
from trainer.trial import Check, Full, Lora, Placement, Stopped, TrialSpec

METHODS = [Full(), Lora(rank=2, alpha=4.0)]
# Of 30 steps, the first check comes too early to be made.
SHARES = (0.25, 0.7, 0.9)
PLACEMENT = Placement()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def checked_spec(*above: float | None, method: Full | Lora = METHODS[0]) -> TrialSpec:
    checks = tuple(Check(share=share, above=limit) for share, limit in zip(SHARES, above, strict=True))
    return replace(spec_of(method), checks=checks)


def run(world: Path, spec: TrialSpec, folder: Path, report: Callable[[CurvePoint], None] = ignore) -> TrialResult:
    return train(
        spec, PLACEMENT, replace(files(world, folder / "checkpoints"), weights=str(folder / "weights")), report
    )


@pytest.mark.parametrize("method", METHODS)
def test_checks_are_measured_and_change_nothing_else(world: Path, tmp_path: Path, method: Full | Lora) -> None:
    plain = run(world, spec_of(method), tmp_path / "plain")
    noted = run(world, checked_spec(None, None, None, method=method), tmp_path / "noted")
    assert (noted.metrics, noted.curve, noted.train_loss) == (plain.metrics, plain.curve, plain.train_loss)
    assert noted.spending.booked_flops == plain.spending.booked_flops
    assert [one.share for one in noted.checked] == [0.7, 0.9], "none within the first twenty steps"
    assert all(one.loss > 0 for one in noted.checked)
    # Three evaluations of the same texts in place of one.
    late = run(world, replace(spec_of(method), checks=(Check(share=0.9, above=None),)), tmp_path / "late")
    one = late.spending.measured_flops - plain.spending.measured_flops
    assert one > 0
    assert noted.spending.measured_flops - plain.spending.measured_flops == 2 * one
    assert plain.checked == ()


def test_a_trial_that_falls_behind_ends_there(world: Path, tmp_path: Path) -> None:
    loss = run(world, checked_spec(None, None, None), tmp_path / "a").checked[0].loss
    kept = run(world, checked_spec(0.0, loss, None), tmp_path / "b")
    assert kept.state is TrialState.COMPLETE, "as good as the others is not worse; too early is not checked"
    spec = checked_spec(None, loss - 1e-9, None)
    pruned = run(world, spec, tmp_path / "c")
    assert (pruned.state, pruned.metrics, pruned.error) == (TrialState.PRUNED, None, "")
    assert [(one.share, one.loss) for one in pruned.checked] == [(0.7, loss)]
    assert pruned.spending.steps == 21
    assert 0.7 <= pruned.spending.booked_flops / spec.budget_flops < 0.7 + 1 / NUM_STEPS
    assert not (tmp_path / "c" / "weights").exists()
    [row] = to_row(pruned).to_pylist()
    assert (row["loss"], row["state"], row["checked"]) == (None, "PRUNED", f"[[0.7, {loss}]]")
    assert from_row(row) == replace(pruned, curve=())


@pytest.mark.parametrize("pruned", [False, True])
def test_killed_after_any_step_it_decides_the_same(world: Path, tmp_path: Path, pruned: bool) -> None:
    """The measured FLOPs tell that nothing is evaluated twice."""
    loss = run(world, checked_spec(None, None, None), tmp_path / "first").checked[1].loss
    spec = checked_spec(None, None, loss - 1e-9 if pruned else loss)
    whole = run(world, spec, tmp_path / "whole")
    assert whole.state is (TrialState.PRUNED if pruned else TrialState.COMPLETE)
    for step in (5, 20, 21, 22, 26):

        def stop(point: CurvePoint, at: int = step) -> None:
            if point.step == at:
                raise Stopped

        folder = tmp_path / str(step)
        with pytest.raises(Stopped):
            run(world, spec, folder, stop)
        resumed = run(world, spec, folder)
        assert resumed.num_resumes == 1
        assert outcome(resumed) == outcome(whole)
        assert (resumed.state, resumed.checked) == (whole.state, whole.checked)


def test_two_workers_come_to_the_same_checks(world: Path, tmp_path: Path) -> None:
    alone = run(world, checked_spec(None, None, None), tmp_path / "alone")
    spec = checked_spec(None, None, alone.checked[1].loss - 0.01)
    both = train(spec, replace(PLACEMENT, num_workers=2), files(world, tmp_path / "both"), ignore)
    assert both.state is TrialState.PRUNED
    assert [one.loss for one in both.checked] == pytest.approx([one.loss for one in alone.checked], rel=1e-4)
