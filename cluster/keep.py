"""Starts a job's driver again where it dies, a few times: also where nobody follows the job.

``python -m cluster.keep MODULE ARGUMENTS...`` runs the module as a child. Knows exit statuses and signals alone.
Standard library only. Never knows what a driver does.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

FINAL = frozenset({0, 1, 2, 3})
"""A driver's exit statuses after which another start changes nothing: done, a trial failed, refused, at its cap."""
DIED = 70
"""Exit status of a driver after an exception that nobody foresaw (``EX_SOFTWARE``), and of the keeper at the end."""
MAX_DEATHS = 4
"""In a row."""
LONG_SECONDS = 600.0
"""A driver that lived so long did not die of what it was started with."""
PAUSE_SECONDS = 2.0
PR_SET_PDEATHSIG = 1
"""``linux/prctl.h``"""


def keep(command: Sequence[str]) -> int:
    """Run ``command`` until it ends with a final status, is stopped by SIGTERM, or has died too often; its status."""
    stopped: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        # Ray signals the driver as well, which ends by itself.
        stopped.append(number)

    before = signal.signal(signal.SIGTERM, note)
    deaths = 0
    try:
        while True:
            started = time.monotonic()
            # A driver that outlived its keeper would hold the store against the next one.
            status = subprocess.Popen(command, preexec_fn=_die_with_parent).wait()
            if status in FINAL or stopped:
                return status if status >= 0 else 128 - status
            deaths = 1 if time.monotonic() - started > LONG_SECONDS else deaths + 1
            if deaths == MAX_DEATHS:
                print(
                    f"isoflop: the driver died {deaths} times in a row, the last time with status {status}", flush=True
                )
                return DIED
            print(f"isoflop: the driver died with status {status}, and is started again", flush=True)
            time.sleep(PAUSE_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(keep([sys.executable, "-m", *sys.argv[1:]]))
