"""Where a trial runs, for its row: host, device, versions, commit, the device's peak.

Knows the machine and the installed packages. Never knows a trial.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from trainer.devices import find_device
from trainer.result import Environment
from trainer.trial import Placement

PACKAGES = ("isoflop", "torch", "transformers", "tokenizers", "peft", "deepspeed", "numpy")
"""Packages whose version can change a loss."""


def environment(placement: Placement | None) -> Environment:
    """The record of this process's machine and software under ``placement``.

    Without one, for a trial that died on a machine that is not known: host and device stay empty.
    """
    return Environment(
        host=socket.gethostname() if placement else "",
        device=device_name(placement) if placement else "",
        versions=json.dumps({name: _version(name) for name in PACKAGES}),
        git_commit=_git_commit(),
    )


def device_name(placement: Placement) -> str:
    """The GPU's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if placement.device == "cuda" else f"cpu {platform.machine()}"


def peak_flops(placement: Placement) -> float | None:
    """The device's peak over all workers in FLOPs a second, ``None`` where it is not known (every CPU)."""
    if placement.device == "cpu":
        return None
    device = find_device(device_name(placement))
    peak = device.peak_flops(placement.dtype, tf32=placement.tf32) if device else None
    return peak * placement.num_workers if peak else None


def forget_peak_memory(placement: Placement) -> None:
    """Begin to measure anew: a process may have trained a larger trial before."""
    if placement.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        # proc(5): 5 resets the peak of the resident set. Where /proc cannot be written the peak is the process's.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(placement: Placement) -> int:
    """Most memory used since ``forget_peak_memory``: of the device for CUDA, else of this process."""
    if placement.device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def _git_commit() -> str:
    """Commit of this checkout, with ``-dirty`` where files differ; empty outside a checkout or without git."""
    git = ["git", "-C", str(Path(__file__).parent), "-c", f"safe.directory={Path(__file__).parent.parent}"]
    try:
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()
