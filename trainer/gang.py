"""A trial's workers as processes of this machine: start them, pass on what they report, and leave none behind.

Knows how workers meet, and that they live and die together. Never knows what a worker does in a step. Workers on
several machines are started by whoever places them there, and call ``trainer.loop.train_worker`` themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from trainer.failure import Failure, cause
from trainer.result import CurvePoint, TrialResult
from trainer.trial import Placement, Stopped, TrialFiles, TrialSpec

CAUSE_SECONDS = 1.0
"""When a worker fails, how long to listen for others: the first to speak may only have lost its connection to them."""


def train_together(
    spec: TrialSpec, placement: Placement, files: TrialFiles, report: Callable[[CurvePoint], None]
) -> TrialResult:
    """``trainer.loop.train_worker`` on each of the placement's workers, every one a fresh process.

    Raises ``Stopped`` where ``report`` did, once the checkpoint is written; what a worker raised where that is an
    ``OSError``, a ``ValueError`` or ``torch.OutOfMemoryError``; and ``WorkerError`` where one failed otherwise. The
    others are ended first.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[SpawnProcess] = []
    pipes: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="isoflop-gang-") as meeting_place:
        try:
            for rank in range(placement.num_workers):
                pipe, theirs = context.Pipe()
                arguments = (spec, placement, files, rank, Path(meeting_place), theirs)
                worker = context.Process(target=_work, args=arguments, name=f"{spec.trial_id}/{rank}")
                worker.start()
                theirs.close()
                workers.append(worker)
                pipes.append(pipe)
            return _attend(pipes, report)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


def _attend(pipes: list[Connection], report: Callable[[CurvePoint], None]) -> TrialResult:
    """Answer each point that the leading worker reports until there is a result, or one of the workers fails."""
    stopped: Stopped | None = None
    while True:
        messages = _heard(pipes, None)
        if any(isinstance(message, Failure) for message in messages):
            messages += _heard(pipes, CAUSE_SECONDS)
            failures = [message for message in messages if isinstance(message, Failure)]
            raise cause(failures).exception
        # All but failures come from the worker that leads, one at a time.
        [message] = messages
        match message:
            case CurvePoint():
                try:
                    report(message)
                except Stopped as reason:
                    stopped = reason
                pipes[0].send(stopped is None)
            case TrialResult():
                return message
            case Stopped():
                raise stopped or message


def _heard(pipes: list[Connection], timeout: float | None) -> list[object]:
    """What the workers say next, one message from each that speaks within ``timeout`` seconds."""
    messages: list[object] = []
    for pipe in wait(pipes, timeout):
        assert isinstance(pipe, Connection)
        try:
            messages.append(pipe.recv())
        except (EOFError, ConnectionResetError):
            messages.append(Failure(rank=pipes.index(pipe), text="", died=True))
    return messages


def _work(
    spec: TrialSpec, placement: Placement, files: TrialFiles, rank: int, meeting_place: Path, pipe: Connection
) -> None:
    """The whole life of a worker's process."""
    # Whoever started it answers these for all workers, and tells it to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(meeting_place,), daemon=True).start()
    # What DeepSpeed asks its launcher for.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(placement.num_workers)}

    from trainer.loop import train_worker  # the loop starts gangs
    from trainer.world import join

    def report(point: CurvePoint) -> None:
        pipe.send(point)
        if not pipe.recv():
            raise Stopped

    try:
        if placement.device == "cuda":
            torch.cuda.set_device(rank % torch.cuda.device_count())
        world = join(placement, rank=rank, address=f"file://{meeting_place}/workers")
        result = train_worker(spec, placement, files, report, world)
        if world.leads:
            pipe.send(result)
    except Stopped as stopped:
        if rank == 0:
            pipe.send(stopped)
    except Exception as error:  # the process ends here, and its parent has to know of what
        pipe.send(Failure.of(error, rank))
    # Another worker may still be busy with their last collective: the parent ends all at once.
    _wait_for_parent()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])


def _end_with_parent(meeting_place: Path) -> None:
    """A parent that was killed cannot end its workers, and they would train on for nobody."""
    _wait_for_parent()
    shutil.rmtree(meeting_place, ignore_errors=True)
    os._exit(1)
