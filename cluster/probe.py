"""What each machine of a cluster is like, asked on the machine itself: ``python -m cluster.probe`` is the doctor's job.

Knows how a task is sent to every machine, and what it looks at there. Never judges what it finds
(``cluster/doctor.py``).
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MARK = "isoflop-doctor "
"""Begins the line of the job's log that carries the facts as JSON."""
ORDER = "doctor.json"
PACKAGES = ("ray", "torch", "transformers", "peft", "deepspeed", "pyarrow", "optuna")
HUB_SECONDS = 10
PATIENCE_SECONDS = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What is to be looked at beside the machines themselves."""

    folders: tuple[str, ...]
    """Store and cache: each has to be the same folder everywhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """One machine, as a process of Ray on it sees it."""

    host: str
    address: str
    versions: dict[str, str]
    """Of Python and packages; empty where one is missing."""
    gpus: tuple[str, ...]
    cuda_error: str
    """Of a small product on each GPU; empty where all is well, or where there is none."""
    nccl: str
    """Version; empty where torch has none."""
    deepspeed_error: str
    """Of its import."""
    unseen: tuple[str, ...]
    """Folders in which this machine does not see what the head has written, or cannot write."""
    error: str = ""
    """Why the machine could not be asked; everything else is then empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFacts:
    """A cluster, as its head sees it."""

    machines: tuple[MachineFacts, ...]
    unwritable: dict[str, str]
    """Folders that the head cannot write, and why."""
    hub_error: str
    """Of a question to the Hub from the head; empty where it answers."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClusterFacts:
        fields = json.loads(text)
        machines = tuple(
            MachineFacts(**one | {name: tuple(one[name]) for name in ("gpus", "unseen")})
            for one in fields.pop("machines")
        )
        return cls(machines=machines, **fields)


def ask_cluster(questions: Questions) -> ClusterFacts:
    """Ask every machine of the Ray that this process is connected to, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = f".isoflop-doctor-{uuid.uuid4().hex}"
    unwritable = {folder: error for folder in questions.folders if (error := _write(Path(folder), mark))}
    asked = [folder for folder in questions.folders if folder not in unwritable]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0, max_retries=0)(ask_machine)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            node["NodeManagerAddress"], asked, mark
        )
        for node in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=PATIENCE_SECONDS)
    machines = tuple(_answer(node, answer) for node, answer in zip(nodes, answers, strict=True))
    for folder in asked:
        for path in Path(folder).glob(f"{mark}*"):
            path.unlink()
    return ClusterFacts(machines=machines, unwritable=unwritable, hub_error=_hub_error())


def ask_machine(address: str, folders: list[str], mark: str) -> MachineFacts:
    """The facts of the machine that this process is on."""
    gpus, cuda_error, nccl = _gpus()
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return MachineFacts(
        host=socket.gethostname(),
        address=address,
        versions=versions,
        gpus=gpus,
        cuda_error=cuda_error,
        nccl=nccl,
        deepspeed_error=_deepspeed_error(),
        unseen=tuple(
            folder
            for folder in folders
            if not (Path(folder) / mark).exists() or _write(Path(folder), f"{mark}-{uuid.uuid4().hex}")
        ),
    )


def _answer(node: dict[str, object], answer: object) -> MachineFacts:
    import ray

    try:
        facts: MachineFacts = ray.get(answer, timeout=0)
        return facts
    except (ray.exceptions.RayError, TimeoutError) as error:
        reason = "it did not answer" if isinstance(error, TimeoutError) else str(error).strip().splitlines()[-1]
        return MachineFacts(
            host=str(node.get("NodeManagerHostname", "")),
            address=str(node.get("NodeManagerAddress", "")),
            versions={},
            gpus=(),
            cuda_error="",
            nccl="",
            deepspeed_error="",
            unseen=(),
            error=reason,
        )


def _gpus() -> tuple[tuple[str, ...], str, str]:
    import torch

    version_of: Callable[[], tuple[int, ...]] = torch.cuda.nccl.version
    nccl = ".".join(map(str, version_of())) if torch.cuda.is_available() else ""
    names = tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    try:
        for number in range(len(names)):
            matrix = torch.ones(64, 64, device=f"cuda:{number}")
            assert float((matrix @ matrix)[0, 0]) == 64
    except RuntimeError as error:
        return names, str(error).splitlines()[0], nccl
    return names, "", nccl


def _deepspeed_error() -> str:
    """In a process of its own: compilers and drivers fail in their own ways."""
    done = subprocess.run([sys.executable, "-c", "import deepspeed"], capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _write(folder: Path, name: str) -> str:
    """Write a small file; why it could not be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("written by isoflop doctor")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _hub_error() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def main() -> None:
    """As a job: the facts, as one line of its log."""
    from cluster.join import joined_ray

    questions = Questions(folders=tuple(json.loads(Path(ORDER).read_text(encoding="utf-8"))["folders"]))
    with joined_ray():
        print(MARK + ask_cluster(questions).to_json(), flush=True)


if __name__ == "__main__":
    main()
