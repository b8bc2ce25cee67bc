"""What a sweep may cost at most, and whether that is reached.

Knows device-hours, a price and the two caps. Never knows what spends them. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HOUR_SECONDS = 3600
CAPPED_STATUS = 3
"""Exit status of a sweep that ended at a cap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Hard caps on device time, over the whole life of a store. Idle machines, heads and disks are not counted."""

    max_gpu_hours: float | None = None
    max_cost: float | None = None
    price_per_hour: float | None = None
    """Of one device."""

    def __post_init__(self) -> None:
        for option, value in (
            ("--max-gpu-hours", self.max_gpu_hours),
            ("--max-cost", self.max_cost),
            ("--price", self.price_per_hour),
        ):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{option} is {value:g}: give a number above 0")
        if self.max_cost is not None and self.price_per_hour is None:
            raise ValueError(
                f"--max-cost is {self.max_cost:g} without a price: give --price, of an hour of a device, or --device"
            )

    def reached(self, device_seconds: float) -> str:
        """Which cap so much device time has reached, in words for a person; empty where none is."""
        hours = device_seconds / HOUR_SECONDS
        if self.max_gpu_hours is not None and hours >= self.max_gpu_hours:
            return f"{hours:.3g} GPU-hours are spent, and --max-gpu-hours is {self.max_gpu_hours:g}"
        if self.max_cost is not None:
            assert self.price_per_hour is not None
            if (cost := hours * self.price_per_hour) >= self.max_cost:
                return f"{cost:.3g} are spent at {self.price_per_hour:g} an hour, and --max-cost is {self.max_cost:g}"
        return ""
