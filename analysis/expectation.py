"""What a recommendation foretold of the sweep that trains it, kept with that sweep until it has run.

Knows numbers and words, standard library only: a sweep's spec holds it. Never knows rows or figures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedLoss:
    """The loss that was foretold for a sweep's one cell."""

    loss: float
    """Held-out loss in nats."""
    low: float | None
    """90 % interval of the law's loss; ``None`` where the data do not bound it."""
    high: float | None
    noise_relative_sd: float
    """Of one trial's loss: what another seed would change."""
    extrapolation: float
    """How many times the budget lay outside what was measured; 1 inside."""
    sweep: str
    """The sweep that it comes from."""
    stated_at: str
    """When it was said: ISO 8601, UTC."""

    def holds(self, measured: float) -> bool:
        """Whether the measured loss lies inside the interval; an end that is not bounded excludes nothing."""
        return (self.low is None or self.low <= measured) and (self.high is None or measured <= self.high)

    def sentence(self, measured: float, trial_id: str) -> str:
        ends = [f"{end:.3f}" if end is not None else "not bounded" for end in (self.low, self.high)]
        where = "inside" if self.holds(measured) else "outside"
        far = "" if self.extrapolation == 1 else f", {self.extrapolation:.2g} times outside what it had measured"
        return (
            f"Sweep {self.sweep} foretold a loss of {self.loss:.3f} (90 % interval: {ends[0]} to {ends[1]}{far}) on "
            f"{self.stated_at[:10]}. Trial {trial_id} measured {measured:.3f}, {where} the interval; the error is "
            f"{100 * (self.loss / measured - 1):+.1f} %, the noise of a trial {100 * self.noise_relative_sd:.1f} %."
        )
