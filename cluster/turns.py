"""Whose turn it is when trials need different shares of a cluster: small ones use what is free, large ones get theirs.

Knows what was asked for and has not begun yet. Standard library only. Never knows Ray, or what a trial is.

A placement group holds nothing until all of it fits, so a large trial that waits keeps no small one from running, and
small ones would keep it waiting for ever. So one large trial waits at a time, and once it has waited long nothing new
is asked for until it has begun: what ends from then on makes room for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    size: float
    since: float


class Turns:
    """The trials of one sweep that wait for their place, by a key. ``smallest`` is the size of its smallest trials."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._waiting: dict[str, _Waiting] = {}

    def may_ask(self, size: float, smallest: float, can_fit: Callable[[str], bool]) -> bool:
        """Whether a trial of this size may be asked for now.

        ``can_fit`` says of a trial that waits whether the machines could hold it at all: for one that waits for
        machines, not for others to end, nobody makes room.
        """
        large = {key: waiting for key, waiting in self._waiting.items() if waiting.size > smallest}
        now = time.monotonic()
        if any(now - waiting.since > self._patience_seconds and can_fit(key) for key, waiting in large.items()):
            return False
        return size <= smallest or not large

    def asks(self, key: str, size: float) -> None:
        """A trial was asked for, and waits."""
        self._waiting[key] = _Waiting(size=size, since=time.monotonic())

    def begins(self, key: str) -> None:
        """It has its place, or does not want it any more."""
        self._waiting.pop(key, None)
