"""What a driver says of its sweep while it runs: a note in the store, for whoever looks from another process.

Knows the note. Imports no Ray, so that the status of a sweep stays instant. The rows are the truth: nothing is decided
from a note, and a store without one lacks nothing.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass

from cluster.progress import SweepProgress
from sweeps.store import Store, StoreError

NOTE_SECONDS = 2.0
STALE_SECONDS = 30.0
"""A driver writes every other second; one that has been silent for so long tells nothing about now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveTrial:
    """A trial that runs now."""

    trial_id: str
    share: float
    """Of its budget, from 0 to 1."""
    loss: float | None
    """Training loss of the last step, in nats."""
    tokens_per_second: float | None
    mfu: float | None
    seconds: float | None
    """An estimate of the time to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """A running sweep at the moment of the note."""

    written_at: float
    """Seconds since 1970."""
    seconds: float
    """Since its driver started."""
    remaining_seconds: float | None
    running: tuple[LiveTrial, ...]


class Notes:
    """Writes the note every few seconds. A callable that takes the sweep's progress."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = 0.0

    def __call__(self, progress: SweepProgress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTE_SECONDS
            # A store that cannot be written is told by the first row that has to be.
            with contextlib.suppress(StoreError):
                self._store.write_note(json.dumps(asdict(live_of(progress, time.time()))))


def live_of(progress: SweepProgress, now: float) -> Live:
    """The note of this progress."""
    return Live(
        written_at=now,
        seconds=progress.seconds,
        remaining_seconds=progress.remaining_seconds,
        running=tuple(
            LiveTrial(
                trial_id=trial.spec.trial_id,
                share=trial.share,
                loss=trial.loss,
                tokens_per_second=trial.tokens_per_second,
                mfu=trial.mfu,
                seconds=trial.remaining_seconds,
            )
            for trial in progress.running
        ),
    )


def read_live(store: Store, now: float) -> Live | None:
    """The store's note; ``None`` where there is none, or none of now."""
    text = store.read_note()
    if text is None:
        return None
    record = json.loads(text)
    live = Live(**{**record, "running": tuple(LiveTrial(**trial) for trial in record["running"])})
    return live if now - live.written_at < STALE_SECONDS else None
