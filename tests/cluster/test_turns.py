"""Turns of large and small trials, on a simulated machine and on a real Ray: nobody starves, nothing is held long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from cluster import tune, turns
from cluster.turns import Turns
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.sweep import SPEC, drive, make_world, same_rows

# With 14 GiB for each worker, full fine-tuning of the larger model alone needs two GPUs.
MIXED = (
    SPEC.replace("[nano-1k]", "[EleutherAI/pythia-14m, EleutherAI/pythia-1b]")
    .replace("[1e9, 4e9]", "[4e15]")
    .replace("trials: 3", "trials: 6")
    + """
resources:
  gpus_per_trial: 1
  max_gpus_per_trial: 2
  memory_gib_per_worker: 14
  chunk_tokens: 1024
  recompute: false
  offload: false
  dtype: float32
  reuse_actors: true
"""
)


def always(key: str) -> bool:
    return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def simulate(monkeypatch: pytest.MonkeyPatch, *, num_small: int, num_large: int, slots: int, large: int) -> list[float]:
    """When each large trial begins.

    Small trials last 10 seconds, large ones 30; a group of slots is given as a whole or not at all, whoever fits first.
    """
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    held = Turns(patience_seconds=60)
    waiting: list[tuple[str, int]] = []
    running: list[tuple[float, int]] = []
    begun: list[float] = []
    names = iter(range(10**6))
    left = {1: num_small, large: num_large}
    while any(left.values()) or waiting or running:
        running = [(end, size) for end, size in running if end > clock.now]
        free = slots - sum(size for _, size in running)
        while len(waiting) + len(running) < 2 * slots:
            size = next((s for s in (large, 1) if left[s] and held.may_ask(s, 1, always)), None)
            if size is None:
                break
            left[size] -= 1
            name = str(next(names))
            held.asks(name, size)
            waiting.append((name, size))
        # The worst order for the large: what is small is tried first.
        for name, size in sorted(waiting, key=lambda item: item[1]):
            if size <= free:
                waiting.remove((name, size))
                held.begins(name)
                free -= size
                running.append((clock.now + (30 if size == large else 10) + int(name) % 3, size))
                if size == large:
                    begun.append(clock.now)
        clock.now += 1
        assert clock.now < 10**5, "somebody starves"
    return begun


def test_large_trials_get_their_turn_while_small_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = simulate(monkeypatch, num_small=4000, num_large=5, slots=8, large=8)
    assert len(begun) == 5
    # Patience, then what waits already and what runs: two rounds of small trials, and the trial itself.
    assert max(later - sooner for sooner, later in pairwise(begun)) < 60 + 4 * 12 + 30 + 12


def test_a_large_trial_that_waits_holds_nothing_before_its_time() -> None:
    held = Turns(patience_seconds=60)
    assert held.may_ask(8, 1, always)
    held.asks("large", 8)
    assert held.may_ask(1, 1, always), "small ones go on"
    assert not held.may_ask(8, 1, always), "one large one waits at a time: the places in the queue are for what fits"
    held.begins("large")
    assert held.may_ask(8, 1, always)


def test_trials_of_one_size_never_wait_for_each_other() -> None:
    held = Turns(patience_seconds=0)
    for number in range(10):
        assert held.may_ask(4, 4, always)
        held.asks(str(number), 4)


def test_nobody_makes_room_for_what_waits_for_machines() -> None:
    held = Turns(patience_seconds=-1)
    held.asks("large", 8)
    assert not held.may_ask(1, 1, always)
    assert held.may_ask(1, 1, lambda key: False)


@pytest.fixture
def three_gpus() -> Iterator[None]:
    """A Ray that takes this machine for one with three GPUs."""
    import ray

    ray.init(address="local", num_cpus=3, num_gpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Noted(Turns):
    """Turns that tell the world when a trial is asked for."""

    def __init__(self, world: Path, patience_seconds: float) -> None:
        super().__init__(patience_seconds)
        self._world = world

    def asks(self, key: str, size: float) -> None:
        super().asks(key, size)
        fake.note_order(self._world, f"{key} asks {size:g}")


@pytest.mark.slow
def test_gangs_of_two_get_their_turn_among_small_trials(
    three_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {f"full/{number}": "slow" for number in range(6)}  # small ones have time to begin while a gang runs
    world = make_world(tmp_path / "world", seconds=0.3, faults=slow)
    monkeypatch.setattr(tune, "Turns", partial(Noted, world, 5.0))
    drive(tmp_path / "store", world, MIXED)
    rows = Store.open(tmp_path / "store").read_trials()
    same_rows(rows, MIXED)
    gangs = set(rows.loc[rows["num_workers"] == 2, "trial_id"])
    assert len(gangs) == 6 and set(rows["num_workers"]) == {1, 2}

    told = list(enumerate(fake.order(world)))
    asked = [at for at, (_, what, *rest) in told if (what, rest[0]) == ("asks", "2")]
    began = [at for at, (who, what, *_) in told if what == "start" and who in gangs]
    ended = [at for at, (who, what, *rest) in told if (what, rest[0]) == ("step", "4") and who in gangs]
    small = [at for at, (who, what, *_) in told if what == "start" and who not in gangs]
    assert len(asked) == len(began) == len(ended) == len(gangs)
    # One gang waits at a time, so they begin as they were asked for.
    assert any(ask < at < begin for ask, begin in zip(asked, began, strict=True) for at in small), "it held its places"
    assert any(begin < at < end for begin, end in zip(began, ended, strict=True) for at in small), "a GPU was idle"
    assert sum(begin < max(small) for begin in began) > 1, "gangs waited until the small trials were done"
