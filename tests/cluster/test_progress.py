"""Counting, and the estimate of the time that is left."""

from __future__ import annotations

import pytest

from cluster.progress import Reached, Tracker
from cluster.view import duration, line
from sweeps.agenda import Agenda
from sweeps.reading import read_spec
from sweeps.search import Finished
from tests.cluster.sweep import NUM_TRIALS, SPEC, studies_of
from trainer.result import TrialState
from trainer.trial import TrialSpec


def specs() -> list[TrialSpec]:
    agenda = Agenda(studies_of(read_spec(SPEC)))
    found = []
    while ready := next(agenda.ready(), None):
        found.append(agenda.trial(*ready))
        agenda.tell(Finished(spec=found[-1], state=TrialState.COMPLETE, loss=1.0))
    return found


def reached(*, spent_flops: int, clock: float = 0.0, tokens: int = 0, peak_flops: float | None = None) -> Reached:
    return Reached(clock=clock, spent_flops=spent_flops, tokens=tokens, loss=3.0, peak_flops=peak_flops)


def test_what_runs_and_what_is_recorded_adds_up() -> None:
    first, second, *_ = trials = specs()
    tracker = Tracker(studies_of(read_spec(SPEC)), num_slots=2)
    empty = tracker.snapshot()
    assert (empty.num_rows, empty.num_trials, empty.spent_flops, empty.remaining_seconds) == (0, NUM_TRIALS, 0, None)
    assert empty.planned_flops == sum(trial.budget_flops for trial in trials)

    tracker.starts(first)
    tracker.starts(second)
    tracker.reports(first, reached(spent_flops=first.budget_flops // 4))
    running = tracker.snapshot()
    assert [(trial.spec, trial.share) for trial in running.running] == [(first, 0.25), (second, 0.0)]
    assert running.spent_flops == first.budget_flops // 4

    done = Finished(spec=first, state=TrialState.COMPLETE, loss=2.5)
    tracker.records(done, booked_flops=first.budget_flops, seconds=10.0)
    tracker.stops(second)
    ended = tracker.snapshot()
    assert ended.running == ()
    assert ended.states == {TrialState.COMPLETE: 1}
    assert ended.spent_flops == first.budget_flops
    assert [(best.spec, best.loss) for best in ended.best] == [(first, 2.5)]


def test_the_time_left_is_that_of_like_trials_in_proportion_to_flops_over_the_slots() -> None:
    """One model: each trial at 1e9 FLOPs takes 10 s, so each at 4e9 takes 40 s until one of those has been seen."""
    trials = specs()
    tracker = Tracker(studies_of(read_spec(SPEC)), num_slots=2)
    cheap = [trial for trial in trials if trial.budget_flops == 1e9]
    dear = [trial for trial in trials if trial.budget_flops == 4e9]
    for trial in cheap:
        tracker.records(Finished(spec=trial, state=TrialState.COMPLETE, loss=1.0), booked_flops=1, seconds=10.0)
    assert tracker.snapshot().remaining_seconds == pytest.approx(len(dear) * 40 / 2)
    tracker.starts(dear[0])
    tracker.reports(dear[0], reached(spent_flops=dear[0].budget_flops // 2))
    assert tracker.snapshot().remaining_seconds == pytest.approx((len(dear) * 40 - 20) / 2)


def test_a_trial_s_speed_is_that_of_its_last_half_minute() -> None:
    """100 tokens and 1e6 FLOPs a second for a minute, then twice that: after another minute, nothing slow is left."""
    first, *_ = specs()
    tracker = Tracker(studies_of(read_spec(SPEC)), num_slots=1)
    tokens = flops = 0

    def after(seconds: int, speed: int) -> tuple[float | None, float | None, float | None]:
        nonlocal tokens, flops
        clock = 0 if not tokens else tokens_clock[-1]
        for _ in range(seconds):
            clock += 1
            tokens += 100 * speed
            flops += speed * 10**6
            tokens_clock.append(clock)
            tracker.reports(first, reached(clock=clock, spent_flops=flops, tokens=tokens, peak_flops=1e7))
        [trial] = tracker.snapshot().running
        return trial.tokens_per_second, trial.mfu, trial.remaining_seconds

    tokens_clock: list[int] = []
    assert after(1, speed=1) == (None, None, None)
    assert after(59, speed=1) == pytest.approx((100, 0.1, (first.budget_flops - 60e6) / 1e6))
    assert after(15, speed=2)[0] == pytest.approx(150)
    assert after(45, speed=2) == pytest.approx((200, 0.2, (first.budget_flops - 180e6) / 2e6))
    tracker.stops(first)
    tracker.reports(first, reached(clock=1e6, spent_flops=flops))
    assert tracker.snapshot().running[0].tokens_per_second is None, "another process has another clock"


def test_a_failed_trial_is_counted_and_named_in_the_line() -> None:
    first, *_ = specs()
    tracker = Tracker(studies_of(read_spec(SPEC)), num_slots=1)
    tracker.records(Finished(spec=first, state=TrialState.FAILED, loss=None), booked_flops=0, seconds=0.0)
    assert line(tracker.snapshot()).startswith(f"1 of {NUM_TRIALS} trials, 1 failed; 0% of 3.0e10 FLOPs")


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (75.2, "1:15"), (3675, "1:01:15")])
def test_durations_read_as_clocks(seconds: float, words: str) -> None:
    assert duration(seconds) == words
