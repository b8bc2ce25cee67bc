"""Drivers that are killed and stopped, each a process of its own with its own Ray: nothing lost, nothing run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.driver import driver_of, is_driven
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.sweep import SPEC, make_world, same_rows

LONG = SPEC.replace("[1e9, 4e9]", "[1e9, 2e9, 4e9, 8e9]")
NUM_TRIALS = 24
REPOSITORY = Path(__file__).parents[2]


class Driver:
    """``python -m tests.cluster.sweep`` in a process group of its own, as a terminal starts it."""

    def __init__(self, root: Path, world: Path) -> None:
        command = [sys.executable, "-m", "tests.cluster.sweep", str(root), str(world), LONG]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []

    def read_until_new_rows(self, number: int) -> None:
        """Until it has said that there are ``number`` rows more than at its start."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            counts = [int(said) for said in self.lines if said.isdigit()]
            if counts and counts[-1] >= counts[0] + number:
                return
        raise AssertionError(f"the driver ended before {number} new rows:\n" + "\n".join(self.lines))

    def end(self) -> str:
        """The last line it says before it ends."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        self.process.wait()
        return self.lines[-1]


def test_killed_and_stopped_drivers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=0.15)
    finished: list[dict[str, int]] = []
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        driver = Driver(root, world)
        driver.read_until_new_rows(2)
        known = driver_of(root)
        assert known is not None and known.pid == driver.process.pid
        assert known.dashboard.startswith("http://127.0.0.1:")
        if number is signal.SIGKILL:
            driver.process.kill()
            driver.end()
            _wait_until_nothing_trains(world)
        else:
            # As Ctrl-C in a terminal does it: to the whole process group, Ray's processes among them.
            os.killpg(driver.process.pid, number)
            assert json.loads(driver.end())["stopped_by"] == number.name
            assert "Traceback" not in "\n".join(driver.lines)
        assert not is_driven(root)
        finished.append({trial: fake.starts(world, trial) for trial in Store.open(root).trial_ids()})
    assert 0 < len(finished[-1]) < NUM_TRIALS, "the last signal came too late to test anything"

    last = Driver(root, world)
    assert json.loads(last.end()) == {"states": {"COMPLETE": NUM_TRIALS}, "stopped_by": None}

    rows = Store.open(root).read_trials()
    same_rows(rows, LONG)
    for before in finished:
        assert {trial: fake.starts(world, trial) for trial in before} == before, "a finished trial was started again"
    assert rows["num_resumes"].sum() > 0, "no trial went on from a checkpoint: the signals came at the wrong moments"
    for trial in rows["trial_id"]:
        steps = [event for event in fake.events(world, trial) if event.startswith("step")]
        # A step whose checkpoint was not written yet is repeated, one at each interruption at most.
        assert len(steps) <= fake.STEPS + fake.starts(world, trial) - 1, f"{trial}: {steps}"
    assert not list((root / "checkpoints").iterdir())
    assert not (root / ".tune").exists()


def _wait_until_nothing_trains(world: Path) -> None:
    """Ray's processes die with the driver; a worker may live a moment longer."""

    def size() -> int:
        return sum(path.stat().st_size for path in (world / "log").glob("*"))

    before = -1
    while (now := size()) != before:
        before = now
        time.sleep(1.0)
