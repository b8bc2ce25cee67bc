"""A function on several workers at once, each a fresh process of a real process group."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from trainer.trial import Placement
from trainer.world import World, join


def on_workers(function: Callable[..., Any], num_workers: int, meeting_place: Path, *arguments: Any) -> list[Any]:
    """``function(world, *arguments)`` on each worker; what each returned, by rank."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for rank in range(num_workers):
        pipe, theirs = context.Pipe()
        address = f"file://{meeting_place}"
        worker = context.Process(target=_work, args=(function, num_workers, rank, address, theirs, arguments))
        worker.start()
        theirs.close()
        pipes.append(pipe)
        workers.append(worker)
    try:
        return [pipe.recv() for pipe in pipes]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _work(
    function: Callable[..., Any], num_workers: int, rank: int, address: str, pipe: Connection, arguments: tuple[Any]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)}
    torch.set_num_threads(1)
    world: World = join(Placement(num_workers=num_workers), rank=rank, address=address)
    pipe.send(function(world, *arguments))
    pipe.recv()  # until the test kills it: no worker may leave while another still talks to it
