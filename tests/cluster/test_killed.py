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

SLOW = SPEC.replace("[1e9, 4e9]", "[1e9, 2e9, 4e9, 8e9]").replace("[full, bias]", "[full]")
NUM_TRIALS = 12
LONGEST_WAIT_SECONDS = 60
SLOWEST_WAIT_SECONDS = 60
REPOSITORY = Path(__file__).parents[2]


class Driver:
    """``python -m tests.cluster.sweep`` in a process group of its own, as a terminal starts it."""

    def __init__(self, root: Path, world: Path, text: str = SLOW) -> None:
        command = [sys.executable, "-m", "tests.cluster.sweep", str(root), str(world), text]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []

    def end(self) -> str:
        """The last line it says before it ends."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        self.process.wait()
        return self.lines[-1]


def test_killed_and_stopped_drivers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=0.05, faults={"full/1": "slow"})
    finished: list[dict[str, int]] = []
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        driver = Driver(root, world)
        _wait_until_a_slow_trial_is_on_its_way(driver, root, world)
        known = driver_of(root)
        assert known is not None and known.pid == driver.process.pid
        assert known.dashboard.startswith("http://127.0.0.1:")
        if number is signal.SIGKILL:
            driver.process.kill()
            driver.end()
            _wait_until_nothing_trains(world)
        else:
            # Ctrl-C in a terminal reaches the process group, Ray's processes among them; a kill the driver alone.
            send = os.killpg if number is signal.SIGINT else os.kill
            send(driver.process.pid, number)
            assert json.loads(driver.end())["stopped_by"] == number.name
            assert "Traceback" not in "\n".join(driver.lines)
        assert not is_driven(root)
        finished.append({trial: fake.starts(world, trial) for trial in Store.open(root).trial_ids()})
    assert 0 < len(finished[-1]) < NUM_TRIALS, "the last signal came too late to test anything"

    last = Driver(root, world)
    assert json.loads(last.end()) == {"states": {"COMPLETE": NUM_TRIALS}, "stopped_by": None}

    rows = Store.open(root).read_trials()
    same_rows(rows, SLOW)
    for before in finished:
        assert {trial: fake.starts(world, trial) for trial in before} == before, "a finished trial was started again"
    assert rows["num_resumes"].sum() > 0, "no trial went on from a checkpoint: the signals came at the wrong moments"
    for trial in rows["trial_id"]:
        steps = [event for event in fake.events(world, trial) if event.startswith("step")]
        # A step whose checkpoint was not written yet is repeated, one at each interruption at most.
        assert len(steps) <= fake.STEPS + fake.starts(world, trial) - 1, f"{trial}: {steps}"
    assert not list((root / "checkpoints").iterdir())
    best = rows.loc[rows.groupby(["budget_flops", "method"])["loss"].idxmin(), "trial_id"]
    assert Store.open(root).trials_with_weights() == set(best)
    assert not (root / ".tune").exists()


def _wait_until_a_slow_trial_is_on_its_way(driver: Driver, root: Path, world: Path) -> None:
    """Until this driver's Ray has made a step of a trial that is far from its end."""
    before = {path.name: path.stat().st_size for path in (world / "log").glob("*")}
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        assert driver.process.poll() is None, driver.end()
        unfinished = {path.name for path in (world / "log").glob("*")} - Store(root).trial_ids()
        for trial in unfinished:
            news = (world / "log" / trial).read_text()[before.get(trial, 0) :].split("\n")
            if len(news) in (3, 4) and "step 4" not in news and fake.is_slow(world, trial):
                return
        time.sleep(0.05)
    raise AssertionError("no trial is on its way")


def _wait_until_nothing_trains(world: Path) -> None:
    """Ray's processes die with the driver; a worker may live a moment longer."""

    def size() -> int:
        return sum(path.stat().st_size for path in (world / "log").glob("*"))

    before = -1
    while (now := size()) != before:
        before = now
        time.sleep(fake.SLOW_SECONDS + 1)
