"""A cluster that a person names as ``--on``, reached so that it can be asked: directly, or through a tunnel.

Knows which targets can be up already. Never starts a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.target import ClusterFile, RayAddress, read_target
from trainer.prepare import default_cache


@contextmanager
def reached(on: str) -> Iterator[RayAddress]:
    """The address of the cluster, for as long as the block runs. Raises ``ValueError`` where it can be none."""
    target = read_target(on)
    if isinstance(target, RayAddress):
        yield target
    elif isinstance(target, ClusterFile):
        from cluster.clouds import ClusterOfFile

        with ClusterOfFile(target.path, default_cache()).reached() as address:
            yield address
    else:
        raise ValueError(
            f"--on is {on!r}: give the address of a Ray that is up, such as http://127.0.0.1:8265 or auto, or its "
            "cluster file"
        )
