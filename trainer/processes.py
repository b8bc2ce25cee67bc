"""Work spread over fresh processes, with progress on the way.

Knows how to start workers that inherit nothing (a process that holds torch threads or a device must not fork), how to
add up what they have done, and that no worker outlives the process that started it. Never knows what the work is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for_connections
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

POLL_SECONDS = 0.2

_done: Any = None
_stop: Any = None
_progress_here: Callable[[int], None] | None = None


def num_usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    num_processes: int,
    progress: Callable[[int], None],
) -> list[Result]:
    """``function`` of every task, in the order of the tasks, over ``num_processes`` spawned workers; 0: in this one.

    ``function`` must be importable and calls ``tick(amount)`` now and then; ``progress`` gets the sum over all workers
    several times a second. An exception in a worker, or its death, ends the others and is raised here.
    """
    if not num_processes or not tasks:
        return _here(function, tasks, progress)
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    workers = min(num_processes, len(tasks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(done, stop)) as pool:
        try:
            futures = [pool.submit(function, task) for task in tasks]
            pending = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=POLL_SECONDS)
                for future in finished:
                    future.result()
                progress(done.value)
        except BaseException:  # Ctrl-C, too, must leave no worker behind
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def tick(amount: int) -> None:
    """Add ``amount`` to what this worker has done; ends the worker when the others have been given up."""
    if _progress_here:
        _progress_here(amount)
        return
    if _stop.is_set():
        raise SystemExit(1)
    with _done.get_lock():
        _done.value += amount


def _here(function: Callable[[Task], Result], tasks: Sequence[Task], progress: Callable[[int], None]) -> list[Result]:
    global _progress_here
    done = 0

    def add(amount: int) -> None:
        nonlocal done
        done += amount
        progress(done)

    _progress_here = add
    try:
        return [function(task) for task in tasks]
    finally:
        _progress_here = None


def _start(done: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = done, stop
    # Ctrl-C reaches the whole process group: the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_connections([parent.sentinel])
    os._exit(1)
