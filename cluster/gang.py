"""A trial's workers as actors in the bundles of its placement group, on one machine or several.

Knows how the workers meet, how the trial hears what the leading one reports, and when the end of a worker is the end of
its machine. They die with the trial: Ray ends actors whose owner is gone. Never knows what a worker does in a step.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.carry import carried
from cluster.nodes import MachineLostError, are_lost, own_node
from trainer.failure import Failure, cause
from trainer.result import CurvePoint, TrialResult
from trainer.trial import Placement, Stopped, TrialFiles, TrialSpec

POLL_SECONDS = 0.5
CAUSE_SECONDS = 15.0
"""How long to listen for a death when a worker fails, which may only have lost its connection to one that died: longer
than a lost node takes to be noticed."""
_SIOCGIFADDR = 0x8915
_LOCAL_RANK = "0"
"""Ray shows a worker only the device that is its own."""


class Rank:
    """One worker of a trial. Its methods run beside each other: ``train`` takes as long as the trial."""

    def __init__(self) -> None:
        self._points: list[CurvePoint] = []
        self._stopping = threading.Event()
        self._meeting: Any = None

    def node(self) -> str:
        return own_node()

    def open_meeting(self) -> tuple[str, int]:
        """Let the others meet here: this worker's address and a port."""
        from trainer.world import open_meeting

        self._meeting = open_meeting(ray.util.get_node_ip_address())
        return self._meeting.host, self._meeting.port

    def train(
        self, spec: TrialSpec, placement: Placement, files: TrialFiles, rank: int, meeting: tuple[str, int]
    ) -> TrialResult | Failure | None:
        """The whole trial, as worker ``rank``; nothing where it was stopped."""
        network = interface_of(ray.util.get_node_ip_address())
        os.environ.setdefault("GLOO_SOCKET_IFNAME", network)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", network)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": _LOCAL_RANK, "WORLD_SIZE": str(placement.num_workers)}

        from trainer.loop import train_worker
        from trainer.world import join_meeting

        try:
            world = join_meeting(placement, rank=rank, meeting=self._meeting or meeting)
            with carried(files, name=f"{spec.trial_id}-{rank}", send=world.leads) as here:
                return train_worker(spec, placement, here, self._report, world)
        except Stopped:
            return None
        except Exception as error:  # the trial has to know of what, and this process waits to be ended
            return Failure.of(error, rank)

    def points(self) -> list[CurvePoint]:
        """What was reported since the last call."""
        taken, self._points = self._points, []
        return taken

    def stop(self) -> None:
        """Let the next step be the last: a checkpoint is written."""
        self._stopping.set()

    def _report(self, point: CurvePoint) -> None:
        self._points.append(point)
        if self._stopping.is_set():
            raise Stopped


class Gang:
    """The workers of one trial. Made in the trial's own actor, whose placement group has a bundle for each."""

    def __init__(self, trial_id: str, files: TrialFiles) -> None:
        self._trial_id, self._files = trial_id, files
        self.nodes: frozenset[str] = frozenset()
        """Where the workers are, once they have started."""

    def train(
        self, spec: TrialSpec, placement: Placement, files: TrialFiles, report: Callable[[CurvePoint], None]
    ) -> TrialResult:
        """As ``trainer.gang.train_together``; raises ``MachineLostError`` where a worker's machine is gone or going.

        The workers use the trial's files as they were given to the gang: ``files`` may be those of this machine alone.
        """
        ranks = [self._start(placement, rank) for rank in range(placement.num_workers)]
        try:
            self.nodes = frozenset(ray.get([rank.node.remote() for rank in ranks]))
            meeting = ray.get(ranks[0].open_meeting.remote())
            work = [rank.train.remote(spec, placement, self._files, i, meeting) for i, rank in enumerate(ranks)]
            return self._attend(ranks, work, report)
        except RayActorError as error:
            # One that died before or between: the same question as for one that died at work.
            raise self._end(Failure(rank=0, text=str(error), died=True)) from error
        finally:
            for rank in ranks:
                ray.kill(rank)

    def _start(self, placement: Placement, rank: int) -> Any:
        bundle = PlacementGroupSchedulingStrategy(
            ray.util.get_current_placement_group(), placement_group_bundle_index=rank
        )
        return (
            ray.remote(Rank)
            .options(
                name=f"{self._trial_id}/rank{rank}",
                num_cpus=placement.cpus_per_worker,
                num_gpus=placement.gpus_per_worker,
                max_concurrency=2,
                scheduling_strategy=bundle,
            )
            .remote()
        )

    def _attend(self, ranks: Sequence[Any], work: Sequence[Any], report: Callable[[CurvePoint], None]) -> TrialResult:
        """Pass on what the leading worker reports until every worker is done, or one of them fails."""
        stopped: Stopped | None = None
        pending = list(work)
        while True:
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
            if failures := _failures(work, done):
                raise self._end(self._cause(failures, work, pending))
            try:
                for point in ray.get(ranks[0].points.remote()):
                    report(point)
            except Stopped as reason:
                stopped = reason
                ray.get(ranks[0].stop.remote())
            if work[0] in done:
                result: TrialResult | None = ray.get(work[0])
                if result is None:
                    raise stopped or Stopped
                return result

    def _cause(self, failures: list[Failure], work: Sequence[Any], pending: list[Any]) -> Failure:
        """The failure that explains the others: a worker that only lost its connection may be heard first."""
        deadline = time.monotonic() + CAUSE_SECONDS
        while pending and not _explains(cause(failures)) and (left := deadline - time.monotonic()) > 0:
            done, pending = ray.wait(pending, num_returns=1, timeout=left)
            failures = failures + _failures(work, done)
        return cause(failures)

    def _end(self, told: Failure) -> Exception:
        """What the trial raises: its machines' end, or what went wrong."""
        if (told.died or not _explains(told)) and are_lost({*self.nodes, own_node()}):
            return MachineLostError(f"a machine of trial {self._trial_id} is gone or going")
        return told.exception


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address: what gloo and NCCL are told to use. Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise ValueError(f"address {address} of this node belongs to none of its network interfaces: give Ray another")


def _explains(failure: Failure) -> bool:
    """Whether it is more than a lost connection."""
    return failure.error is not None or failure.out_of_memory or failure.died


def _failures(work: Sequence[Any], done: Sequence[Any]) -> list[Failure]:
    """What the workers that ended say of it, where they failed."""
    found = []
    for reference in done:
        try:
            outcome = ray.get(reference)
        except RayActorError as error:
            outcome = Failure(rank=work.index(reference), text=str(error), died=True)
        if isinstance(outcome, Failure):
            found.append(outcome)
    return found
