"""The driver of a sweep as a process inside a cluster: ``python -m cluster.inside [FOLDER]``.

Knows the order it was sent with, and what its exit status means to the launcher: 0 done, 1 a trial failed, 2 refused,
3 a cap is reached, ``DIED`` for everything else that can end a driver and is worth another start. Never knows who sent
the order.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cluster.answers import say
from cluster.drive import Ground, GroundOf, drive
from cluster.join import joined_ray, sweeps_beside, wait_for_machines
from cluster.keep import DIED
from cluster.order import Order
from cluster.share import looking
from sweeps.reading import read_spec
from sweeps.remote import place
from sweeps.spec import SweepSpec
from trainer.refusal import is_ours

WIDTH = 200


def carry_out(order: Order) -> None:
    """Drive the ordered sweep on the cluster that this process is in."""
    console = Console(width=WIDTH)
    drive(read_spec(order.spec), place(order.store), console, bounds=order.bounds, ground_of=ground_for(order))


def ground_for(order: Order) -> GroundOf:
    """The cluster that this process is in, once it has a machine for a trial."""

    @contextmanager
    def ground(spec: SweepSpec, console: Console) -> Iterator[Ground]:
        wanted = {"CPU": spec.resources.cpus_per_trial, "GPU": spec.resources.gpus_per_trial}
        with joined_ray() as dashboard:
            wait_for_machines(wanted, order.wait_seconds, lambda words: say(console, words))
            with looking(sweeps_beside(wanted)) as share:
                yield Ground(dashboard=dashboard, share=share)

    return ground


def main(carry_out: Callable[[Order], None] = carry_out) -> None:
    """Read the order, carry it out, and end with a status that tells the launcher what to do."""
    order = Order.read(Path(*sys.argv[1:2]))
    try:
        carry_out(order)
    except Exception as error:  # any exception is an ending of the driver: Python's own status for it is a sweep's 1
        if isinstance(error, ValueError) and is_ours(error):
            print(f"isoflop: {error}", flush=True)
            sys.exit(2)
        traceback.print_exc()
        sys.exit(DIED)


if __name__ == "__main__":
    main()
