"""What Ray knows of its nodes: what they have, which of them will go, and what dead drivers have left on them.

Knows the calls for this that Ray keeps private, all of them here. Never knows a trial or a sweep.

A spot notice becomes a drain: ``ray start --block`` answers SIGTERM with one (``RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S``
says how long the node has), and so does ``ray drain-node``. From then on nothing new is placed there.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.placement import Machine

NOTICE_SECONDS = 5.0
"""A process of a node that was killed is missed at once, the node itself up to some seconds later."""
_LOOK_SECONDS = 0.25


class MachineLostError(Exception):
    """A trial ended because its machines go, not because of itself: it goes on elsewhere, and nothing is counted."""


def machines() -> tuple[Machine, ...]:
    """The machines that trials can be placed on, as Ray sees them."""
    going = leaving()
    found = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and node["NodeID"] not in going and "CPU" in has:
            gpus = [kind.removeprefix("accelerator_type:") for kind in has if kind.startswith("accelerator_type:")]
            found.append(
                Machine(
                    num_cpus=has["CPU"],
                    memory_bytes=int(has["memory"]),
                    num_gpus=has.get("GPU", 0),
                    gpu=next(iter(gpus), ""),
                )
            )
    return tuple(found)


def own_node() -> str:
    """The id of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def alive() -> frozenset[str]:
    """The ids of the nodes that live."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def leaving() -> frozenset[str]:
    """The ids of the nodes that drain: they live, and will go soon."""
    return frozenset(state.get_draining_nodes())


def are_lost(nodes: Collection[str], patience_seconds: float = NOTICE_SECONDS) -> bool:
    """Whether one of ``nodes`` is gone or going, or is so within ``patience_seconds``."""
    deadline = time.monotonic() + patience_seconds
    while True:
        if not alive().issuperset(nodes) or leaving().intersection(nodes):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)


def remove_leftovers() -> int:
    """Remove the placement groups whose driver is dead, and say how many: they hold what nobody can use.

    Ray removes them itself in most cases; a driver killed at a bad moment has been seen to leave some, and a later
    sweep then started no trial for minutes.
    """
    found = 0
    for record in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(record)
        is_left = group.creator_job_dead and not group.is_detached
        if is_left and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            found += 1
    return found
