"""A launcher in a process of its own, to be signalled: ``python -m tests.cluster.launcher ADDRESS FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from cluster import jobs, launch
from cluster.dispatch import HEAD_SECONDS
from cluster.order import PACKAGES, Order
from cluster.target import RayAddress
from sweeps.reading import read_spec

WAY = launch.Way(
    on="http://127.0.0.1:8265",
    python=sys.executable,
    entry="tests.cluster.inside",
    packages=(*PACKAGES, "tests/cluster"),
)


def main() -> None:
    address, path = sys.argv[1:]
    order = Order.read(Path(path))
    client = jobs.connect(RayAddress(address=address), Path(order.cache), patience_seconds=HEAD_SECONDS)
    console = Console(width=200)
    sys.exit(launch.launch_on(client, read_spec(order.spec), order, WAY, detach=False, console=console))


if __name__ == "__main__":
    main()
