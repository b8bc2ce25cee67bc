"""Turns of large and small trials on a simulated machine: nobody starves, and nothing is held for long."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster import turns
from cluster.turns import Turns


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
