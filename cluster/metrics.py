"""A sweep's progress as Prometheus gauges, which Ray exports from the machine of the driver.

Knows the names and labels of the gauges, and how many series there can be: a sweep has 9 and one for each budget, and
four for each trial that runs now, of at most ``MOST_TRIALS`` of them. Never knows how progress comes about, or who
scrapes it.

Ray exports what was set in the last ten seconds and forgets a value twenty seconds after it was set last, so every
gauge is set again and again, and the series of a trial that has ended, or of a driver that has died, end by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from ray.util.metrics import Gauge

from cluster.progress import SweepProgress
from trainer.result import TrialState
from trainer.trial import format_flops

SET_SECONDS = 2.0
MOST_TRIALS = 256
"""Running trials that have series of their own, the earliest first."""

GAUGES = {
    "trials": ("state", "Trials by state: waiting, running, or how they ended"),
    "flops": ("kind", "Training FLOPs, planned and spent, as booked"),
    "remaining_seconds": ("", "Estimated seconds until the sweep is done"),
    "best_loss": ("budget", "Lowest held-out loss at a budget, in nats"),
    "trial_loss": ("trial", "Training loss of a running trial's last step, in nats"),
    "trial_tokens_per_second": ("trial", "Real tokens that a running trial trains on in a second"),
    "trial_share": ("trial", "Share of its budget that a running trial has spent"),
    "trial_mfu": ("trial", "Booked FLOPs a second of a running trial over the peak of its devices"),
}
"""Each gauge's own label and meaning. Prometheus shows them as ``ray_isoflop_<name>``, all with the label ``sweep``."""


def values(progress: SweepProgress) -> dict[str, dict[str, float]]:
    """What each gauge shows, by its own label; what is not known is left out."""
    running = progress.running[:MOST_TRIALS]
    states = {state.lower(): float(progress.states.get(state, 0)) for state in TrialState}
    waiting = progress.num_trials - progress.num_rows - len(progress.running)
    by_trial: dict[str, Mapping[str, float | None]] = {
        "trial_loss": {trial.spec.trial_id: trial.loss for trial in running},
        "trial_tokens_per_second": {trial.spec.trial_id: trial.tokens_per_second for trial in running},
        "trial_share": {trial.spec.trial_id: trial.share for trial in running},
        "trial_mfu": {trial.spec.trial_id: trial.mfu for trial in running},
    }
    return {
        "trials": {**states, "running": len(progress.running), "waiting": waiting},
        "flops": {"planned": progress.planned_flops, "spent": progress.spent_flops},
        "remaining_seconds": {} if progress.remaining_seconds is None else {"": progress.remaining_seconds},
        "best_loss": {format_flops(best.spec.budget_flops): best.loss for best in progress.best},
        **{name: {key: v for key, v in of.items() if v is not None} for name, of in by_trial.items()},
    }


class Gauges:
    """The gauges of one sweep, on the Ray that is up. A callable that takes its progress."""

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        self._gauges = {
            name: Gauge(f"isoflop_{name}", meaning, ("sweep", label) if label else ("sweep",))
            for name, (label, meaning) in GAUGES.items()
        }
        self._next = 0.0

    def __call__(self, progress: SweepProgress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SET_SECONDS
        for name, by_label in values(progress).items():
            label, _ = GAUGES[name]
            for key, value in by_label.items():
                self._gauges[name].set(float(value), {"sweep": self._sweep, **({label: key} if label else {})})
