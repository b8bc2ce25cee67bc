"""Device time and its caps, and a sweep's share of a cluster: by hand."""

from __future__ import annotations

import pytest

from cluster.bounds import Bounds
from cluster.meter import Meter
from cluster.share import Share, Sight, free_slots, looking


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rows_and_what_runs_count_each_device_once() -> None:
    clock = Clock()
    meter = Meter(Bounds(), clock=clock)
    meter.records("from an earlier life", 50.0)
    meter.starts("a", 0.5)
    meter.starts("b", 4.0)
    clock.now += 10
    assert meter.device_seconds == 50 + 5 + 40
    meter.records("a", 6.0)  # its row knows of the time before this driver
    clock.now += 10
    assert meter.device_seconds == 50 + 6 + 80


def test_time_that_died_with_a_process_stays_spent_until_the_row_counts_more() -> None:
    clock = Clock()
    meter = Meter(Bounds(), clock=clock)
    meter.starts("a", 2.0)
    clock.now += 10
    meter.stops("a")
    clock.now += 1000
    assert meter.device_seconds == 20
    meter.starts("a", 1.0)
    clock.now += 5
    assert meter.device_seconds == 25
    meter.records("a", 8.0)
    assert meter.device_seconds == 25
    meter.stops("a")
    assert meter.device_seconds == 25


def test_what_a_former_driver_saw_counts_until_the_row_does() -> None:
    clock = Clock()
    former = Meter(Bounds(), clock=clock)
    former.starts("a", 2.0)
    former.starts("b", 1.0)
    clock.now += 10
    former.records("b", 10.0)
    assert former.unrecorded == {"a": 20.0}
    meter = Meter(Bounds(), former.unrecorded, clock)
    meter.records("b", 10.0)
    assert meter.device_seconds == 30
    meter.starts("a", 1.0)
    clock.now += 5
    assert meter.device_seconds == 35
    meter.records("a", 26.0)
    assert meter.device_seconds == 36


def test_a_cap_is_as_near_for_the_next_driver_as_it_was() -> None:
    """The time that a process took to start is in no row."""
    clock = Clock()
    former = Meter(Bounds(), clock=clock)
    for trial_id in ("a", "b"):
        former.starts(trial_id, 2.0)
    clock.now += 10
    former.records("a", 6.0)
    former.records("b", 21.0)
    assert former.unrecorded == {} and former.to_keep == {"a": 20.0}
    meter = Meter(Bounds(), former.to_keep, clock)
    meter.records("a", 6.0)
    meter.records("b", 21.0)
    assert meter.device_seconds == former.device_seconds == 41
    assert meter.to_keep == former.to_keep


def test_a_cap_is_reached_at_its_value() -> None:
    clock = Clock()
    meter = Meter(Bounds(max_gpu_hours=2.0, max_cost=9.0, price_per_hour=3.0), clock=clock)
    meter.starts("a", 2.0)
    clock.now += 3599
    assert meter.reached() == ""
    clock.now += 1
    assert meter.reached() == "2 GPU-hours are spent, and --max-gpu-hours is 2"
    dear = Bounds(max_cost=9.0, price_per_hour=3.0)
    assert dear.reached(3 * 3600 - 1) == ""
    assert dear.reached(3 * 3600) == "9 are spent at 3 an hour, and --max-cost is 9"
    assert Bounds().reached(1e12) == ""


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cap_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="--max-gpu-hours"):
        Bounds(max_gpu_hours=value)


def test_alone_a_sweep_has_all_and_beside_others_its_part_and_what_is_free() -> None:
    assert all(Share().take(asked, 4) for asked in range(20))
    sight = Sight(num_sweeps=2, num_free=0)
    share = Share(lambda: sight)
    assert [share.take(asked, 10) for asked in (0, 4, 5, 9)] == [True, True, False, False]
    # Each free slot is given once for each look.
    sight = Sight(num_sweeps=2, num_free=2)
    assert [share.take(5 + asked, 10) for asked in range(4)] == [True, True, False, False]
    sight = Sight(num_sweeps=2, num_free=2)
    assert share.take(7, 10)
    # More sweeps than slots: one trial each.
    sight = Sight(num_sweeps=8, num_free=0)
    assert share.take(0, 4) and not share.take(1, 4)


def test_a_dashboard_that_does_not_answer_leaves_what_was_seen() -> None:
    def look() -> Sight:
        raise ConnectionError("away")

    with looking(look) as share:
        assert share.take(100, 1)


def test_slots_that_are_free() -> None:
    wanted = {"CPU": 2.0, "GPU": 0.5}
    assert free_slots({"CPU": 9.0, "GPU": 1.0}, wanted) == 2
    assert free_slots({"CPU": 9.0}, wanted) == 0
    assert free_slots({"CPU": 9.0}, {"CPU": 2.0, "GPU": 0.0}) == 4
