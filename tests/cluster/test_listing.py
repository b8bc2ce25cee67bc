"""Which sweeps there are, and stopping one on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import listing, stopping
from cluster.driver import announce, driving, is_driven
from cluster.jobs import SweepJob
from tests.cluster.sweep import NUM_TRIALS, filled_store, make_world

JOB = SweepJob(
    job_id="fake-1",
    sweep="fake",
    store="/s",
    spec="h",
    attempt=1,
    status="FAILED",
    exit_status=None,
    message="",
    progress="3 of 12 trials, 1 failed; 10% of 9.0e10 FLOPs",
    started_at=0.0,
    ended_at=None,
)


def test_stores_are_told_with_how_far_they_are(tmp_path: Path) -> None:
    world, stores = make_world(tmp_path / "world", seconds=0.0), tmp_path / "stores"
    filled_store(stores / "done", world)
    half = filled_store(stores / "half", world)
    for path in sorted((half.root / "trials").iterdir())[:5]:
        path.unlink()
    (stores / "cache").mkdir()
    (stores / "broken").mkdir()
    (stores / "broken/sweep.yaml").write_text("name: [")
    with driving(half.root):
        found = {entry.store.rpartition("/")[2]: entry for entry in listing.stores_in(stores)}
    assert set(found) == {"done", "half", "broken"}
    assert (found["done"].state, found["done"].num_rows) == ("done", NUM_TRIALS)
    assert (found["half"].state, found["half"].num_rows, found["half"].num_trials) == ("running", 7, NUM_TRIALS)
    assert "sweep.yaml" in found["broken"].state
    assert {entry.state for entry in listing.stores_in(stores)} >= {"done", "unfinished"}
    with pytest.raises(ValueError, match="--root is"):
        listing.stores_in(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("status", "exit_status", "word"),
    [
        ("PENDING", None, "starting"),
        ("RUNNING", None, "running"),
        ("SUCCEEDED", 0, "done"),
        ("STOPPED", None, "stopped"),
        ("FAILED", 1, "done, with failed trials"),
        ("FAILED", 2, "refused"),
        ("FAILED", 3, "ended at its cap"),
        ("FAILED", 70, "died"),
        ("FAILED", -9, "died"),
        ("FAILED", None, "died"),
    ],
)
def test_what_a_job_came_to(status: str, exit_status: int | None, word: str) -> None:
    assert listing.state_of(replace(JOB, status=status, exit_status=exit_status)) == word


def test_a_driver_on_this_machine_is_stopped_and_nothing_else(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "store", make_world(tmp_path / "world", seconds=0.0)).root
    with pytest.raises(ValueError, match="is not being filled"):
        stopping.stop(str(store), None)
    with pytest.raises(ValueError, match="is no store"):
        stopping.stop(str(tmp_path / "nowhere"), None)
    code = (
        "import signal, sys; from pathlib import Path; from cluster.driver import announce, driving\n"
        "root = Path(sys.argv[1])\nwith driving(root):\n    announce(root, '')\n    signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(store)])
    deadline = time.monotonic() + 60
    while not is_driven(store) or not (store / ".driver.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    assert f"stopped: process {process.pid}" in stopping.stop(str(store), None)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_a_driver_on_another_machine_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "store", make_world(tmp_path / "world", seconds=0.0)).root
    with driving(store):
        announce(store, "")
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("signalled"))
        with pytest.raises(ValueError, match=r"is being filled on .*: stop it there"):
            stopping.stop(str(store), None)
