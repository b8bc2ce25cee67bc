"""What ends a Tune run: a signal, a cap that is reached, or that no trial can go on.

Knows signals and how Tune asks whether to stop. Never knows which trials there are.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray import tune

from cluster.meter import Meter


class Stopper(tune.Stopper):  # type: ignore[misc]  # Ray ships no types
    """Ends the Tune run between two of its steps."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.halted = ""
        """Why no trial can go on, in a sentence."""
        self.capped = ""
        """Which cap is reached, in words."""

    def looks_at(self, meter: Meter) -> str:
        """End the sweep where a cap is reached; which one."""
        self.capped = self.capped or meter.reached()
        return self.capped

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.signal is not None or bool(self.halted or self.capped)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop at SIGINT or SIGTERM; a second signal finds the handlers as they were before, and ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            restore()

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()
