"""The workers that share a trial's steps, and what they say to each other.

Knows ranks, torch's process group and the few collectives that a trial needs. Never knows a model, a loss or an engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from trainer.memory import TORCH_BUCKET_ELEMENTS
from trainer.trial import Placement

PATIENCE = timedelta(minutes=10)
"""A worker that hears nothing for so long gives up: the others are dead or cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This worker's place among the workers of its trial."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that reports and writes files."""
        return self.rank == 0

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of every worker, rank after rank: ``(counts[rank], D)`` in, ``(sum(counts), D)`` out.

        The own rows keep their graph and the others' have none. Where every worker computes one loss of all rows,
        the gradient of that loss is therefore the sum of the workers' gradients, not their mean.
        """
        if self.size == 1:
            return rows
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([rows if r == self.rank else parts[r][:count] for r, count in enumerate(counts)])

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the workers, in buckets."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        room = 0
        for tensor in tensors:
            if bucket and tensor.numel() > room:
                _add_up_bucket(bucket)
                bucket = []
            if not bucket:
                room = TORCH_BUCKET_ELEMENTS
            bucket.append(tensor)
            room -= tensor.numel()
        if bucket:
            _add_up_bucket(bucket)

    def sums(self, *numbers: int) -> list[int]:
        """Each whole number summed over the workers."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, number: int) -> int:
        """The largest of the workers' numbers."""
        return self._reduced((number,), dist.ReduceOp.MAX)[0]

    def _reduced(self, numbers: Sequence[int], operation: dist.ReduceOp.RedOpType) -> list[int]:
        if self.size == 1:
            return list(numbers)
        # On the host: the process group has a gloo side on machines with GPUs too, and no device has to be waited for.
        summed = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(summed, operation)
        return [int(number) for number in summed]


ALONE = World(rank=0, size=1)


def join(placement: Placement, *, rank: int, address: str) -> World:
    """Meet the other workers at ``address`` (``tcp://host:port`` or ``file://path``). Call it once in a process."""
    dist.init_process_group(
        _backend(placement), init_method=address, rank=rank, world_size=placement.num_workers, timeout=PATIENCE
    )
    return World(rank=rank, size=placement.num_workers)


def open_meeting(host: str) -> TCPStore:
    """A meeting point of workers on several machines, on a free port of this one, whose address is ``host``.

    It takes the port itself: one that is looked for first may be another's a moment later.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)


def join_meeting(placement: Placement, *, rank: int, meeting: TCPStore | tuple[str, int]) -> World:
    """Meet the other workers at what one of them has opened: itself there, its host and port elsewhere.

    Call it once in a process, with ``GLOO_SOCKET_IFNAME`` set: a host's own name often means its loopback.
    """
    if not isinstance(meeting, TCPStore):
        meeting = TCPStore(meeting[0], meeting[1], is_master=False, timeout=PATIENCE)
    dist.init_process_group(
        _backend(placement), store=meeting, rank=rank, world_size=placement.num_workers, timeout=PATIENCE
    )
    return World(rank=rank, size=placement.num_workers)


def _backend(placement: Placement) -> str:
    return "cpu:gloo,cuda:nccl" if placement.device == "cuda" else "gloo"


def _add_up_bucket(tensors: Sequence[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))
