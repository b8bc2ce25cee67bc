"""What a plan costs before anything is spent: GPU-hours and money, from booked FLOPs and what a device does in an hour.

Knows a plan, the rows of a store that measured how much of a device's peak each model reaches, and a price. Pure; never
knows Ray, a file, or what machines there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sweeps.plan import Cell, Plan
from trainer.devices import find_device

if TYPE_CHECKING:
    import pandas as pd

    from analysis.hardware import Hardware

ASSUMED_DEVICE = "H100"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a person says of the devices; what is left out is measured, or else assumed."""

    device: str | None = None
    mfu: float | None = None
    price_per_hour: float | None = None

    @property
    def known_price(self) -> float | None:
        """Of an hour of one device: the one that is given, or that of a device that is given."""
        if self.price_per_hour is not None or self.device is None:
            return self.price_per_hour
        found = find_device(self.device)
        return None if found is None else found.dollars_per_hour


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of a whole plan, and of each of its cells. Device time of trials alone: idle machines cost more."""

    hardware: Hardware
    """The device, with the MFU over all models."""
    cell_hours: Mapping[Cell, float]
    """GPU-hours by cell, in the plan's order."""
    price_from: Literal["given", "assumed", "unknown"]
    device_from: Literal["given", "assumed"]

    @property
    def hours(self) -> dict[int, float]:
        """GPU-hours by budget, cheapest first."""
        budgets = dict.fromkeys((cell.budget_flops for cell in self.cell_hours), 0.0)
        for cell, hours in self.cell_hours.items():
            budgets[cell.budget_flops] += hours
        return budgets

    @property
    def gpu_hours(self) -> float:
        return sum(self.cell_hours.values())

    @property
    def money(self) -> float | None:
        return self.paid(self.gpu_hours)

    @property
    def currency(self) -> str | None:
        """Of list prices; ``None`` where a person gave the price, in what they pay with."""
        return "dollars" if self.price_from == "assumed" else None

    def paid(self, gpu_hours: float) -> float | None:
        """What so many hours cost; ``None`` without a price."""
        price = self.hardware.price_per_hour
        return None if price is None else gpu_hours * price

    def sentence(self) -> str:
        """For a person, with what it rests on."""
        from analysis.hardware import amount

        on, price = self.hardware, self.hardware.price_per_hour
        words = f"about {amount(self.gpu_hours)} GPU-hours of {on.device}"
        if self.money is not None and price is not None:
            rough = ", a rough list price" if self.price_from == "assumed" else ""
            unit = f" {self.currency}" if self.currency else ""
            words += f", or {amount(self.money)}{unit} at {amount(price)} an hour{rough}"
        assumed = [
            option
            for option, is_assumed in (
                ("--device", self.device_from == "assumed"),
                ("--price", self.price_from != "given"),
                ("--mfu", on.mfu_from == "assumed"),
            )
            if is_assumed
        ]
        mend = f"; {', '.join(assumed)} say otherwise" if assumed else ""
        return f"{words}, at {100 * on.mfu:.2g} % of its {on.dtype} peak ({on.mfu_from}){mend}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.hardware.device,
            "dtype": self.hardware.dtype,
            "mfu": self.hardware.mfu,
            "mfu_from": self.hardware.mfu_from,
            "price_per_hour": self.hardware.price_per_hour,
            "price_from": self.price_from,
            "gpu_hours": self.gpu_hours,
            "money": self.money,
            "currency": self.currency,
            "gpu_hours_by_budget": {str(budget): hours for budget, hours in self.hours.items()},
        }


def cost(plan: Plan, rates: Rates, rows: pd.DataFrame | None = None) -> Cost:
    """Hours and money of the plan on one kind of device.

    ``rows`` are those of a store, or none: a model whose MFU they have counts with its own, the others with the median
    of all. Raises ``ValueError`` for a device that is not known, and for a share or price that is none.
    """
    from analysis.hardware import hardware

    device, price = rates.device or ASSUMED_DEVICE, rates.price_per_hour
    found = find_device(device)
    listed = found.dollars_per_hour if found else None
    paid = listed if price is None else price
    overall = hardware(rows, device, mfu=rates.mfu, price_per_hour=paid)
    own = {}
    if rows is not None:
        own = {
            model: hardware(rows[rows["model"] == model], device, mfu=rates.mfu, price_per_hour=paid)
            for model in set(rows.loc[rows["mfu"].notna(), "model"])
        }
    return Cost(
        hardware=overall,
        cell_hours={planned.cell: own.get(planned.cell.model, overall).hours(planned.flops) for planned in plan.cells},
        price_from="unknown" if paid is None else "assumed" if price is None else "given",
        device_from="assumed" if rates.device is None else "given",
    )
