"""What a device does in an hour and for money: booked FLOPs from its peak and the share of it that training reaches.

Knows data sheets (``trainer/devices.py``), the MFU that rows of a store measured, and a price that a person gives. Has
no prices of its own: they go stale. Never knows a sweep or what is trained.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from analysis import wording
from trainer.devices import DEVICES, Device, find_device
from trainer.result import TrialState
from trainer.trial import Dtype

if TYPE_CHECKING:
    import pandas as pd  # a plan without rows does without: its import takes as long as the plan

ASSUMED_MFU = 0.35
"""Of a well-fed GPU in bfloat16; a small model or a small batch reaches less."""
HOUR_SECONDS = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """One device, and how fast and for how much it trains."""

    device: str
    peak_flops: float
    """A second, in ``dtype``."""
    dtype: Dtype
    memory_bytes: int
    mfu: float
    mfu_from: Literal["given", "measured", "assumed"]
    why: str
    """What the MFU rests on, for a person."""
    price_per_hour: float | None

    @property
    def flops_per_second(self) -> float:
        """Booked."""
        return self.peak_flops * self.mfu

    def hours(self, flops: float) -> float:
        """Device-hours that so many booked FLOPs take."""
        return flops / (self.flops_per_second * HOUR_SECONDS)

    def money(self, flops: float) -> float | None:
        return None if self.price_per_hour is None else self.hours(flops) * self.price_per_hour

    def sentence(self, flops: float) -> str:
        money = self.money(flops)
        paid = "" if money is None else f", which cost {amount(money)} at {amount(self.price_per_hour or 0)} an hour"
        return (
            f"That is {amount(self.hours(flops))} GPU-hours of {self.device}{paid}, at an MFU of "
            f"{100 * self.mfu:.2g} % of its {self.dtype} peak ({self.why})."
        )

    def to_dict(self, flops: float) -> dict[str, Any]:
        return {
            "device": self.device,
            "dtype": self.dtype,
            "peak_flops_per_second": self.peak_flops,
            "mfu": self.mfu,
            "mfu_from": self.mfu_from,
            "gpu_hours": self.hours(flops),
            "price_per_hour": self.price_per_hour,
            "money": self.money(flops),
        }


def hardware(rows: pd.DataFrame | None, device: str, *, mfu: float | None, price_per_hour: float | None) -> Hardware:
    """The device of this name (as torch or Ray gives it) with the MFU that is given, measured, or assumed.

    Measured is the median over the complete rows that have one: those of the same device, else all. Raises
    ``ValueError`` for an unknown device, an MFU outside (0, 1] and a price that is not positive.
    """
    found = find_device(device)
    if found is None:
        names = ", ".join(" ".join(known.words) for known in DEVICES)
        raise ValueError(f"--device is {device!r}, whose peak is not known: choose among {names}")
    if mfu is not None and not 0 < mfu <= 1:
        raise ValueError(f"--mfu is {mfu:g}: give a share of the device's peak above 0 and up to 1, such as 0.35")
    if price_per_hour is not None and not 0 < price_per_hour < math.inf:
        raise ValueError(f"--price is {price_per_hour:g}: give the price of an hour of the device, above 0")
    used, is_same = _with_mfu(rows, found)
    dtype, tf32 = _arithmetic(used)
    peak = found.peak_flops(dtype, tf32=tf32)
    if peak is None:
        dtype = "float32"
        peak = found.float32 * 1e12
    share, origin, why = _mfu(mfu, rows, used, is_same=is_same)
    return Hardware(
        device=" ".join(found.words),
        peak_flops=peak,
        dtype=dtype,
        memory_bytes=found.memory_bytes,
        mfu=share,
        mfu_from=origin,
        why=why,
        price_per_hour=price_per_hour,
    )


def budget_from(
    budget_flops: float | None, gpu_hours: float | None, money: float | None, machine: Hardware | None
) -> int:
    """Whole booked FLOPs from exactly one of the three. Raises ``ValueError`` where that is not what is given."""
    given = {"--budget": budget_flops, "--gpu-hours": gpu_hours, "--money": money}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        words = f"{wording.listing(named)} are" if named else "no budget is"
        raise ValueError(f"{words} given: give one of --budget, --gpu-hours, --money")
    [name] = named
    value = given[name]
    assert value is not None
    if name == "--budget":
        if not 1 <= value <= 1e30:
            raise ValueError(f"--budget is {value:g}: give FLOPs from 1 to 1e30, such as 1e12")
        return round(value)
    if machine is None:
        raise ValueError(f"{name} is {value:g} without a device: give --device, such as --device H100")
    if name == "--money" and machine.price_per_hour is None:
        raise ValueError(f"--money is {value:g} without a price: give --price, of an hour of {machine.device}")
    hours = value if name == "--gpu-hours" else value / (machine.price_per_hour or 1)
    flops = hours * HOUR_SECONDS * machine.flops_per_second
    if not 1 <= flops <= 1e30:
        raise ValueError(f"{name} is {value:g}: give an amount above 0 that buys up to 1e30 FLOPs")
    return round(flops)


def amount(value: float) -> str:
    """Hours or money with three digits."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _with_mfu(rows: pd.DataFrame | None, device: Device) -> tuple[pd.DataFrame | None, bool]:
    """Complete rows with an MFU, and whether they are of this device; ``None`` without any."""
    if rows is None:
        return None, False
    known = rows[(rows["state"] == TrialState.COMPLETE) & rows["mfu"].notna()]
    if not len(known):
        return None, False
    same = known[[find_device(str(name)) == device for name in known["device"]]]
    return (same, True) if len(same) else (known, False)


def _mfu(
    mfu: float | None, rows: pd.DataFrame | None, used: pd.DataFrame | None, *, is_same: bool
) -> tuple[float, Literal["given", "measured", "assumed"], str]:
    if mfu is not None:
        return mfu, "given", "given"
    if used is not None:
        trials = f"{len(used)} trial{'s' if len(used) != 1 else ''}"
        elsewhere = "" if is_same else f" on {used['device'].mode().iloc[0]}"
        return float(used["mfu"].median()), "measured", f"the median of {trials}{elsewhere}"
    devices = [] if rows is None else sorted({str(device) for device in rows["device"]})
    where = wording.listing(devices) if devices else "no device"
    return ASSUMED_MFU, "assumed", f"assumed: the sweep ran on {where}, whose peak is not known; --mfu gives another"


def _arithmetic(used: pd.DataFrame | None) -> tuple[Dtype, bool]:
    """What most of the trials with an MFU computed in, and whether with TF32; bfloat16 where there are none."""
    if used is None:
        return "bfloat16", False
    placement = json.loads(used["placement"].mode().iloc[0])
    return placement["dtype"], placement["tf32"]
