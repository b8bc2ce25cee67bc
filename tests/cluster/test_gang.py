"""A trial's workers as actors: on this machine, with what a test elsewhere says of several hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import LocalRay, local_ray
from cluster.nodes import alive, are_lost, leaving, machines, own_node, remove_leftovers
from sweeps.agenda import Agenda
from sweeps.store import Store
from tests.cluster.head import CACHE
from tests.cluster.real import drive_real, parts, spec_of
from tests.trainer.trials import files, ignore, make_world
from trainer.loop import train
from trainer.result import TrialResult
from trainer.trial import Placement

NUM_STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def shared_ray() -> Iterator[LocalRay]:
    with local_ray(CACHE) as ray:
        yield ray


def alone(world: Path, folder: Path, num_workers: int, num_steps: int) -> TrialResult:
    """The same trial by one worker in this process."""
    _, [study] = parts(spec_of(num_workers, num_steps), world)
    trial = Agenda([study]).trial(study, 0)
    return train(trial, Placement(), files(world, folder), ignore)


def test_two_workers_end_where_one_does(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    drive_real(tmp_path / "store", world, 2, NUM_STEPS)
    expected = alone(world, tmp_path / "alone", 2, NUM_STEPS)
    store = Store.open(tmp_path / "store")
    row = store.read_trial(expected.spec.trial_id)
    assert row.placement.num_workers == 2 and row.num_resumes == 0
    assert row.metrics is not None and expected.metrics is not None
    assert row.metrics.loss == pytest.approx(expected.metrics.loss, abs=1e-4)
    assert row.spending.tokens == expected.spending.tokens
    assert not store.checkpoints(expected.spec.trial_id).exists()


@pytest.mark.slow
def test_an_error_of_a_worker_becomes_the_row_s(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    (world / "model" / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    drive_real(tmp_path / "store", world, 2, NUM_STEPS)
    [row] = Store.open(tmp_path / "store").read_trials().to_dict("records")
    assert row["state"] == "FAILED"
    assert "failed 3 times, the last time with" in row["error"] and "nothing" in row["error"]


def test_what_ray_says_of_its_nodes() -> None:
    assert own_node() in alive()
    assert leaving() == frozenset()
    assert not are_lost({own_node()}, 0)
    assert are_lost({own_node(), "another"}, 0)
    assert [machine.num_gpus for machine in machines()] == [0]
    assert remove_leftovers() == 0
