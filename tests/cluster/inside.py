"""A job's driver with the stand-in trainer: ``cluster/inside.py`` with its data and its training exchanged.

The stand-in's world is the folder ``world`` in the order's cache.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cluster import inside
from cluster.drive import drive
from cluster.order import Order
from sweeps.reading import read_spec
from tests.cluster.sweep import prepared_for


def carry_out(order: Order) -> None:
    world = Path(order.cache) / "world"
    drive(
        read_spec(order.spec),
        Path(order.store),
        Console(width=200),
        bounds=order.bounds,
        ground_of=inside.ground_for(order),
        prepare=lambda spec, console: prepared_for(spec, world),
        train="tests.cluster.fake:train",
    )


if __name__ == "__main__":
    inside.main(carry_out)
