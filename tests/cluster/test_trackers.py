"""What TensorBoard gets of a trial, and what becomes of a tool that is not there or fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from cluster.trackers import INSTALL, MOST_POINTS, Tracking, check_trackers, tracking
from sweeps.reading import read_spec
from sweeps.store import Store
from tests.sweeps.examples import SPEC, result_of, trial_spec
from trainer.result import CurvePoint, TrialState

BUDGET_FLOPS = trial_spec().budget_flops


def point(step: int, of: int) -> CurvePoint:
    spent = BUDGET_FLOPS * step // of
    return CurvePoint(
        step=step, tokens=step, spent_flops=spent, learning_rate=0.1, train_loss=1 / step, gradient_norm=2.0
    )


def events(folder: Path) -> list[list[Event]]:
    """The events of each file, oldest file first: records of a length, its checksum, the bytes, their checksum."""
    files = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, at, found = path.read_bytes(), 0, []
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
        files.append(found)
    return files


def scalars(found: Sequence[Event], tag: str) -> dict[int, float]:
    values = [(event.step, value) for event in found for value in event.summary.value if value.tag == tag]
    return {step: value.simple_value for step, value in values}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store", read_spec(SPEC), "{}")


def train(store: Store, steps: Sequence[int], of: int, *, ends: bool = True) -> None:
    spec = trial_spec()
    with tracking(store, spec, ()) as tracked:
        report = tracked.before(lambda _: None)
        for step in steps:
            report(point(step, of))
        if ends:
            tracked.ends(result_of(spec, loss=1.25))


def test_a_trial_s_curve_and_its_end_are_in_tensorboard_files(store: Store) -> None:
    train(store, range(1, 11), of=10)
    [found] = events(store.events(trial_spec().trial_id))
    assert scalars(found, "train/loss") == pytest.approx({step: 1 / step for step in range(1, 11)})
    assert scalars(found, "train/share")[10] == 1.0
    assert scalars(found, "heldout/loss") == {10: 1.25}
    plugins = {v.metadata.plugin_data.plugin_name for event in found for v in event.summary.value}
    assert "hparams" in plugins


def test_a_long_trial_gives_a_bounded_number_of_points(store: Store) -> None:
    train(store, range(1, 20_001), of=20_000)
    [found] = events(store.events(trial_spec().trial_id))
    assert 0.9 * MOST_POINTS <= len(scalars(found, "train/loss")) <= MOST_POINTS + 1


def test_a_trial_that_goes_on_replaces_the_steps_it_repeats(store: Store) -> None:
    train(store, range(1, 8), of=10, ends=False)
    train(store, range(5, 11), of=10)
    first, second = events(store.events(trial_spec().trial_id))
    assert len(scalars(first, "train/loss")) == 7 and len(scalars(second, "train/loss")) == 6
    [start] = [event for event in second if event.HasField("session_log")]
    assert start.step == 5, "TensorBoard drops what an earlier file has from this step on"


class _Broken:
    def __init__(self, at: str) -> None:
        self.at, self.calls = at, list[str]()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.at:
            raise ConnectionError("the server is away")

    def begins(self, first_step: int) -> None:
        self._call("begins")

    def reaches(self, step: int, values: object) -> None:
        self._call("reaches")

    def ends(self, step: int, result: object) -> None:
        self._call("ends")

    def closes(self) -> None:
        self._call("closes")


@pytest.mark.parametrize("at", ["begins", "reaches", "ends", "closes"])
def test_a_tool_that_fails_is_told_and_costs_nothing(at: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = _Broken(at), _Broken("never")
    tracked = Tracking(trial_spec(), [lambda: broken, lambda: sound])
    seen: list[CurvePoint] = []
    report = tracked.before(seen.append)
    with caplog.at_level(logging.WARNING):
        report(point(1, 2))
        report(point(2, 2))
        tracked.ends(result_of(trial_spec()))
        tracked.closes()
    assert len(seen) == 2
    assert broken.calls[-1] == at and broken.calls.count(at) == 1
    assert sound.calls == ["begins", "reaches", "reaches", "ends", "closes"]
    [record] = caplog.records
    assert "the server is away" in record.message and trial_spec().trial_id in record.message


def test_a_trial_without_a_step_leaves_no_files(store: Store) -> None:
    with tracking(store, trial_spec(), ()) as tracked:
        tracked.ends(result_of(trial_spec(), state=TrialState.FAILED))
    assert not store.events(trial_spec().trial_id).exists()


def test_a_tool_that_is_not_installed_is_refused_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    for name, command in INSTALL.items():
        with pytest.raises(ValueError, match=rf"resources\.tracking has '{name}'.*: {command} on every machine"):
            check_trackers([name])


def test_tracking_is_one_line_of_the_spec_and_no_part_of_the_sweep_s_identity() -> None:
    plain, tracked = read_spec(SPEC), read_spec(SPEC + "resources: {tracking: wandb}\n")
    assert tracked.resources.tracking == ("wandb",)
    assert tracked.hash == plain.hash
    assert read_spec(tracked.to_yaml()) == tracked
    with pytest.raises(ValueError, match=r"resources\.tracking"):
        read_spec(SPEC + "resources: {tracking: [comet]}\n")
