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
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from trainer.devices import find_device
from trainer.trial import Environment, Placement

PACKAGES = ("isoflop", "torch", "transformers", "tokenizers", "peft", "numpy")
"""Packages whose version can change a loss."""


def environment(placement: Placement) -> Environment:
    """The record of this process's machine and software under ``placement``."""
    return Environment(
        host=socket.gethostname(),
        device=device_name(placement),
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


def peak_memory_bytes(placement: Placement) -> int:
    """Most memory used so far: of the device for CUDA, else of this process since it started."""
    if placement.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
