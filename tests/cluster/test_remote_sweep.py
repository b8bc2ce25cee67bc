"""A sweep whose store is on object storage: the rows of an undisturbed one, read back by every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import local_ray
from sweeps.remote import RemotePath
from sweeps.store import Store
from tests.bucket import CREDENTIALS, Bucket, running_bucket
from tests.cluster import fake
from tests.cluster.head import CACHE
from tests.cluster.sweep import NUM_TRIALS, drive, make_world, same_rows
from trainer.result import TrialState

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    # Before Ray: its processes inherit the credentials.
    with pytest.MonkeyPatch.context() as patch, running_bucket() as bucket:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with local_ray(CACHE):
            yield bucket


def isoflop(*arguments: str, folder: Path) -> str:
    command = [sys.executable, str(ROOT / "isoflop.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sweep_on_object_storage(bucket: Bucket, tmp_path: Path) -> None:
    """Some of the requests fail, and a process is killed: it goes on from what was sent."""
    faults = {"full/1": "raise once", "bias/1": "kill once"}
    world = make_world(tmp_path / "world", seconds=0.3, faults=faults)
    bucket.failing = 0.05
    uri = bucket.uri("sweep")
    outcome = drive(uri, world)
    assert outcome.progress.states == {TrialState.COMPLETE: NUM_TRIALS}
    store = Store.open(uri)
    rows = store.read_trials()
    same_rows(rows)
    hit = rows[(rows["number"] == 1)]
    assert hit["num_resumes"].tolist() == [1] * len(hit), "a killed process did not go on from what was sent"
    assert all(fake.starts(world, trial) == 1 for trial in rows.loc[rows["number"] != 1, "trial_id"])
    best = set(rows.loc[rows.groupby(["budget_flops", "method"])["loss"].idxmin(), "trial_id"])
    assert store.trials_with_weights() == best
    assert isinstance(store.root, RemotePath)
    assert not (store.root / "checkpoints").files_below()

    bucket.failing = 0.0
    status = json.loads(isoflop("status", uri, "--json", folder=tmp_path))
    assert (status["num_rows"], status["is_driven"], status["num_begun"]) == (NUM_TRIALS, False, 0)
    assert "nano-1k" in isoflop("recommend", uri, "--budget", "8e9", folder=tmp_path)
    page = json.loads(isoflop("report", uri, "--json", folder=tmp_path))["report"]
    assert (tmp_path / page).read_text().startswith("<!")
