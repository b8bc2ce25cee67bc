"""How often trials' processes died of themselves, and when that is too often.

Knows where each death happened and how far the trial was. A node that is gone explains every death on it, also when
that is learnt later. Standard library only. Never knows why a process died, or Ray.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

MOST_DEATHS = 5
"""Deaths of a trial's process in a row, without progress between, after which it would never end."""


@dataclass(kw_only=True, slots=True)
class _Trial:
    nodes: list[str] = field(default_factory=list)
    """Where it died since it last came further."""
    reached: int = 0
    reached_at_death: int = 0
    last_error: str = "no error was left behind"


class Deaths:
    """The deaths of a sweep's trials in one life of its driver."""

    def __init__(self) -> None:
        self._trials: dict[str, _Trial] = {}

    def reaches(self, trial_id: str, spent_flops: int) -> None:
        """A trial has booked so much."""
        self._of(trial_id).reached = spent_flops

    def dies(self, trial_id: str, node: str, error: str) -> None:
        """A trial's process died on this node (empty: nobody knows), and left these words behind."""
        trial = self._of(trial_id)
        if trial.reached > trial.reached_at_death:
            trial.nodes.clear()
        trial.reached_at_death = trial.reached
        trial.nodes.append(node)
        trial.last_error = error or trial.last_error

    def verdict(self, trial_id: str, alive: Collection[str]) -> str:
        """Why the trial is given up, in words; empty where it goes on. ``alive`` holds the nodes that live."""
        trial = self._of(trial_id)
        unexplained = [node for node in trial.nodes if not node or node in alive]
        if len(unexplained) < MOST_DEATHS:
            return ""
        return f"its process died {len(unexplained)} times without progress: {trial.last_error}"

    def forget(self, trial_id: str) -> None:
        """The trial has a row."""
        self._trials.pop(trial_id, None)

    def _of(self, trial_id: str) -> _Trial:
        return self._trials.setdefault(trial_id, _Trial())
