"""The head of one's own machines loses its power in the middle of a sweep, and all that it remembered with it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.order import Order
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.hosts import why_not
from tests.cluster.machines import DASHBOARD, Machines, own_machines
from tests.cluster.sweep import SPEC, make_world
from tests.cluster.test_hosts import starts_of, undisturbed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"),
    pytest.mark.timeout(900),
]

FEWER = SPEC.replace("trials: 3", "trials: 2")
STEP_SECONDS = 10.0
"""A trial takes longer than a worker needs to see that its head is another one."""
PATIENCE_SECONDS = 300
SEED = 20261122


@pytest.fixture
def machines() -> Iterator[Machines]:
    with own_machines() as machines:
        assert len(machines.bring_up()) == 3
        yield machines


def test_the_head_is_lost_twice(machines: Machines, tmp_path: Path) -> None:
    """Workers come back by themselves. A launcher that lives goes on, and where it has left the same command does."""
    moment = random.Random(SEED)
    root, cache, log = tmp_path / "store", tmp_path / "cache", tmp_path / "launcher.log"
    world = make_world(cache / "world", seconds=STEP_SECONDS)
    Order(spec=FEWER, store=str(root), cache=str(cache), wait_seconds=PATIENCE_SECONDS).write(cache)
    command = [sys.executable, "-m", "tests.cluster.launcher", DASHBOARD, str(cache)]

    def wait_for(look: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not look():
            assert launcher.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)

    def lose_the_head() -> dict[str, int]:
        """How often each trial with a row was started, when the head is back."""
        time.sleep(moment.uniform(0, STEP_SECONDS))
        machines.head.cut_power()
        time.sleep(moment.uniform(0, STEP_SECONDS / 2))
        machines.boot(machines.head)
        told = [words.partition(": ")[2] for words in machines.bring_up()]
        assert told == ["Ray started", "Ray runs already", "Ray runs already"]
        return starts_of(root, world)

    launcher = machines.beside_the_head(command, log)
    wait_for(lambda: any("step" in path.read_text() for path in world.glob("log/*")))
    finished = lose_the_head()
    wait_for(lambda: "the head was started again and does not know it" in log.read_text())
    more = len(finished) + moment.randint(1, 3)
    wait_for(lambda: len(Store(root).trial_ids()) >= more)
    launcher.kill()
    finished |= lose_the_head()
    launcher = machines.beside_the_head(command, log)
    assert launcher.wait(PATIENCE_SECONDS) == 0, log.read_text()[-3000:]
    assert "already at work" not in log.read_text()

    undisturbed(root, world, finished, FEWER)
    interrupted = [trial for trial in Store.open(root).trial_ids() if fake.starts(world, trial) > 1]
    assert interrupted, "the head was lost when nothing ran"
    resumed = [event for trial in interrupted for event in fake.events(world, trial) if event.startswith("start")]
    assert any(event.split()[1] != "0" for event in resumed), "no trial went on from its checkpoint"
