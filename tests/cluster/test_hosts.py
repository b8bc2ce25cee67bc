"""A sweep on a cluster of several hosts that are lost at random moments: the rows are those of an undisturbed one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.hosts import PORT, Host, Hosts, child_of, several_hosts, why_not
from tests.cluster.sweep import SPEC, make_world, same_rows
from tests.cluster.test_gang import alone
from tests.trainer.trials import make_world as make_trial_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
    pytest.mark.timeout(900),
]

LONGER = SPEC.replace("[1e9, 4e9]", "[1e9, 2e9, 4e9, 8e9]")
NUM_TRIALS = 24
STEP_SECONDS = 0.4
SEED = 20261122
GANG_STEPS = 400


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with several_hosts() as hosts:
        yield hosts


class Driver:
    """The sweep's driver, a process on the head."""

    def __init__(self, hosts: Hosts, root: Path, world: Path, text: str = LONGER) -> None:
        address = f"{hosts.head.address}:{PORT}"
        command = [sys.executable, "-m", "tests.cluster.sweep", str(root), str(world), text, address]
        self.log = root.with_name("driver.log")
        self.process = hosts.head.enter(command, stdout=self.log.open("a"), stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """SIGKILL to the driver alone."""
        subprocess.run(["kill", "-KILL", str(child_of(self.process))], check=True)
        self.process.wait()

    def end(self) -> None:
        """Wait until the sweep is done."""
        assert self.process.wait(300) == 0, self.log.read_text()[-3000:]


def wait_for_rows(root: Path, driver: Driver, number: int, most_seconds: float = 120) -> None:
    deadline = time.monotonic() + most_seconds
    while len(Store(root).trial_ids()) < number:
        assert driver.process.poll() is None, driver.log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{number} rows were not there after {most_seconds} seconds"
        time.sleep(0.1)


def undisturbed(root: Path, world: Path, finished: dict[str, int], text: str = LONGER) -> None:
    """The rows are those of an undisturbed sweep, and what was finished at a fault was not started again."""
    rows = Store.open(root).read_trials()
    same_rows(rows, text)
    assert {trial: fake.starts(world, trial) for trial in finished} == finished
    assert not list((root / "checkpoints").iterdir())


def starts_of(root: Path, world: Path) -> dict[str, int]:
    return {trial: fake.starts(world, trial) for trial in Store.open(root).trial_ids()}


@pytest.mark.parametrize("fault", [Host.cut_power, Host.cut_link, Host.notice], ids=["SIGKILL", "link down", "drain"])
def test_a_host_is_lost(fault: Callable[[Host], None], hosts: Hosts, tmp_path: Path) -> None:
    moment = random.Random(f"{SEED}{fault.__name__}")
    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=STEP_SECONDS)
    driver = Driver(hosts, root, world)
    wait_for_rows(root, driver, moment.randint(1, NUM_TRIALS // 2))
    time.sleep(moment.random())
    victim = moment.choice(hosts.workers)
    finished = starts_of(root, world)
    fault(victim)
    driver.end()
    undisturbed(root, world, finished)
    rows = Store.open(root).read_trials()
    # A host that is cut off may finish what it has begun, and its rows count; one that dies may take a trial with it
    # before its first checkpoint.
    assert fault is Host.cut_link or sum(starts_of(root, world).values()) > NUM_TRIALS, "the fault hit nothing"
    if fault is Host.notice:
        steps = sum(event.startswith("step") for trial in rows["trial_id"] for event in fake.events(world, trial))
        assert steps == NUM_TRIALS * fake.STEPS, "a trial that was told in time has repeated a step"
    hosts.start_worker(victim)


def test_the_driver_is_killed(hosts: Hosts, tmp_path: Path) -> None:
    moment = random.Random(SEED)
    root, world = tmp_path / "store", make_world(tmp_path / "world", seconds=STEP_SECONDS)
    for number in sorted(moment.sample(range(1, NUM_TRIALS), 2)):
        driver = Driver(hosts, root, world)
        wait_for_rows(root, driver, number)
        time.sleep(moment.random())
        driver.kill()
        finished = starts_of(root, world)
    Driver(hosts, root, world).end()
    undisturbed(root, world, finished)


def test_four_workers_on_two_hosts_become_two_on_one(hosts: Hosts, tmp_path: Path) -> None:
    """A host loses its power after a checkpoint: the trial ends on the other, with the loss of one worker alone."""
    world = make_trial_world(tmp_path)
    root, log = tmp_path / "store", tmp_path / "driver.log"
    address = f"{hosts.head.address}:{PORT}"
    command = [sys.executable, "-m", "tests.cluster.real", str(root), str(world), "4", str(GANG_STEPS), address]
    driver = hosts.head.enter(command, stdout=log.open("a"), stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 400
    while not list(root.glob("checkpoints/*/step-*/record.json")):
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    hosts.workers[0].cut_power()
    assert driver.wait(400) == 0, log.read_text()[-3000:]
    expected = alone(world, tmp_path / "alone", 4, GANG_STEPS)
    row = Store.open(root).read_trial(expected.spec.trial_id)
    assert (row.placement.num_workers, row.num_resumes) == (2, 1)
    assert row.metrics is not None and expected.metrics is not None
    assert row.metrics.loss == pytest.approx(expected.metrics.loss, abs=1e-4)
    assert row.spending.tokens == expected.spending.tokens
    hosts.start_worker(hosts.workers[0])
