"""Sweeps on one shared Ray: every trial ends as one row, whatever happens to it, and the others go on."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.actor import Assignment, Trial, failed
from cluster.local import LocalRay, local_ray
from cluster.progress import SweepProgress
from sweeps.reading import read_spec
from sweeps.search import suggest
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.head import CACHE
from tests.cluster.sweep import NUM_TRIALS, SPEC, drive, expected_rows, make_world, same_rows, studies_of
from trainer.ladder import SHAPES
from trainer.result import TrialState
from trainer.trial import Placement, TrialFiles

SMALL = SPEC.replace("[full, bias]", "[full]").replace("[1e9, 4e9]", "[1e9]")


@pytest.fixture(scope="module", autouse=True)
def shared_ray() -> Iterator[LocalRay]:
    with local_ray(CACHE) as ray:
        yield ray


def test_the_dashboard_is_on_loopback_and_asks_for_the_token(shared_ray: LocalRay) -> None:
    assert shared_ray.dashboard.startswith("http://127.0.0.1:")
    address = f"{shared_ray.dashboard}/api/version"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address)
    header = {"Authorization": f"Bearer {shared_ray.token_file.read_text()}"}
    with urllib.request.urlopen(urllib.request.Request(address, headers=header)) as answer:
        assert answer.status == 200


def test_an_undisturbed_sweep_has_the_rows_that_the_search_foretells(tmp_path: Path) -> None:
    """The rows equal a replay of the search in this process, with the law in place of training: Ray changes nothing."""
    seen: list[SweepProgress] = []
    world = make_world(tmp_path / "world", seconds=0.1)
    outcome = drive(tmp_path / "store", world, on_progress=seen.append)

    assert outcome.stopped_by is None
    assert outcome.progress.states == {TrialState.COMPLETE: NUM_TRIALS}
    rows = Store.open(tmp_path / "store").read_trials()
    same_rows(rows)
    assert all(fake.starts(world, trial) == 1 for trial in rows["trial_id"])

    assert [p.num_rows for p in seen] == sorted(p.num_rows for p in seen)
    assert {p.num_trials for p in seen} == {NUM_TRIALS}
    assert all(0 <= trial.share <= 1 for p in seen for trial in p.running)
    assert any(p.running for p in seen)
    assert seen[-1].spent_flops == seen[-1].planned_flops == sum(expected_rows()["budget_flops"])
    assert [best.loss for best in seen[-1].best] == rows.groupby("budget_flops")["loss"].min().tolist()
    best = rows.loc[rows.groupby(["budget_flops", "method"])["loss"].idxmin(), "trial_id"]
    assert Store.open(tmp_path / "store").trials_with_weights() == set(best)

    again = drive(tmp_path / "store", world)
    assert again.progress.num_rows == NUM_TRIALS
    assert all(fake.starts(world, trial) == 1 for trial in rows["trial_id"])


def test_an_actor_trains_nothing_before_it_is_asked_to(tmp_path: Path) -> None:
    """Tune sets up actors that it throws away when another one becomes free: two would train the same trial."""
    spec = read_spec(SPEC)
    world = make_world(tmp_path / "world", seconds=0.0)
    store = Store.create(tmp_path / "store", spec, "{}")
    [trial, *_] = [study.trial(0, suggest(study, 0, {}).hyperparameters) for study in studies_of(spec)]
    assignment = Assignment(
        spec=trial,
        shape=SHAPES[trial.model],
        placement=Placement(),
        files=TrialFiles(tokens=str(world), model=trial.model, checkpoints=str(store.checkpoints(trial.trial_id))),
        store=store.root,
        max_attempts=3,
        train="tests.cluster.fake:train",
    )
    actor = Trial({"assignment": assignment})
    assert repr(actor) == trial.trial_id
    assert not [thread for thread in threading.enumerate() if thread.name == trial.trial_id]
    actor.stop()
    assert not (world / "log").exists()

    actor = Trial({"assignment": assignment})
    while not actor.train()["done"]:
        pass
    actor.stop()
    assert store.has(trial.trial_id)
    assert fake.starts(world, trial.trial_id) == 1


def test_a_driver_without_a_gpu_can_record_a_trial_that_died_on_one(tmp_path: Path) -> None:
    spec = read_spec(SPEC)
    [trial, *_] = [study.trial(0, suggest(study, 0, {}).hyperparameters) for study in studies_of(spec)]
    assignment = Assignment(
        spec=trial,
        shape=SHAPES[trial.model],
        placement=Placement(device="cuda", gpus_per_worker=1),
        files=TrialFiles(tokens="", model=trial.model, checkpoints=str(tmp_path / "checkpoints")),
        store=tmp_path,
        max_attempts=3,
    )
    row = failed(assignment, "its process died", here=False)
    assert (row.state, row.environment.host, row.environment.device) == (TrialState.FAILED, "", "")
    assert row.placement.device == "cuda"


def test_every_ending_is_one_row_and_does_not_stop_the_others(tmp_path: Path) -> None:
    """FAILED and DIVERGED come last in their studies, so that no later suggestion depends on them."""
    faults = {"full/2": "raise", "bias/2": "diverge", "full/1": "raise once", "bias/1": "kill once"}
    world = make_world(tmp_path / "world", seconds=0.02, faults=faults)
    outcome = drive(tmp_path / "store", world)
    assert outcome.progress.states == {TrialState.COMPLETE: 8, TrialState.FAILED: 2, TrialState.DIVERGED: 2}

    rows = Store.open(tmp_path / "store").read_trials()
    assert set(rows["trial_id"]) == set(expected_rows()["trial_id"])
    failed = rows[rows["state"] == "FAILED"]
    assert (failed["number"] == 2).all() and (failed["method"] == "full").all()
    assert failed["error"].str.startswith("failed 3 times").all()
    assert failed["error"].str.endswith("RuntimeError: the code of this trial is broken").all()
    assert failed["loss"].isna().all()
    assert (failed["booked_flops"] > 0).all(), "what the last attempt had spent is lost"
    assert all(fake.starts(world, trial) == 3 for trial in failed["trial_id"])
    interrupted = rows[(rows["method"] == "bias") & (rows["number"] == 1)]
    assert (interrupted["state"] == "COMPLETE").all()
    assert (interrupted["num_resumes"] == 1).all(), "a killed process did not go on from its checkpoint"
    diverged = rows[rows["state"] == "DIVERGED"]
    assert [len(Store.open(tmp_path / "store").read_curve(trial)) for trial in diverged["trial_id"]] == [fake.STEPS] * 2
    assert not list((tmp_path / "store" / "checkpoints").iterdir())


def test_a_process_that_always_dies_ends_as_a_failed_row(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", seconds=0.0, faults={"full/2": "kill"})
    outcome = drive(tmp_path / "store", world, SMALL)
    assert outcome.progress.states == {TrialState.COMPLETE: 2, TrialState.FAILED: 1}
    rows = Store.open(tmp_path / "store").read_trials()
    [error] = rows[rows["state"] == "FAILED"]["error"]
    assert error.startswith("its process died 5 times without progress")


def test_a_full_disk_stops_the_sweep_with_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", seconds=0.02, faults={"full/1": "disk full"})
    with pytest.raises(ValueError, match="has no room left on its disk: make room and launch again"):
        drive(tmp_path / "store", world)
    before = Store.open(tmp_path / "store").read_trials()
    assert set(before["state"]) <= {"COMPLETE"}

    make_world(world, seconds=0.0)
    drive(tmp_path / "store", world)
    same_rows(Store.open(tmp_path / "store").read_trials())
    assert all(fake.starts(world, trial) == 1 for trial in before["trial_id"])


def test_a_trial_that_asks_for_more_than_there_is_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", seconds=0.0)
    with pytest.raises(ValueError, match=r"resources\.cpus_per_trial is 4096"):
        drive(tmp_path / "store", world, SPEC + "resources: {cpus_per_trial: 4096}\n")
