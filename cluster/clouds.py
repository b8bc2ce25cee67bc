"""A cluster that a file describes: brought up, reached by a tunnel, and taken down.

Knows Ray's cluster launcher for clouds and our own for machines reached by ssh. Never knows what runs on the cluster.
"""

from __future__ import annotations

import importlib.util
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster import onprem
from cluster.clusterfile import ONPREM, read_cluster_file
from cluster.local import access_token
from cluster.order import OWN_MODULES
from cluster.target import RayAddress

NEEDS = {"aws": ("boto3", "boto3"), "gcp": ("googleapiclient", "google-api-python-client")}
"""Module and package by which Ray's launcher speaks to a cloud."""
TUNNEL_SECONDS = 90.0
LOOK_SECONDS = 0.5
TOKEN_MOUNT, SOURCE_MOUNT = "~/.isoflop/ray-token", "~/isoflop"

Say = Callable[[str], None]


class ClusterOfFile:
    """The cluster of one file. Raises ``ValueError`` where the file is wrong."""

    def __init__(self, path: Path, cache: Path) -> None:
        fields = read_cluster_file(path)
        package = NEEDS.get(fields["provider"]["type"])
        if package and importlib.util.find_spec(package[0]) is None:
            raise ValueError(f"{path} needs {package[1]} on this machine: install it with 'pip install {package[1]}'")
        self._token = access_token(cache)
        self._own = onprem.on_prem(fields, path) if fields["provider"]["type"] == ONPREM else None
        self._fields = fields

    @property
    def python(self) -> str:
        """The interpreter on its head."""
        return self._own.python if self._own else "python"

    def bring_up(self, say: Say) -> None:
        """Start what does not run yet. A cluster of this name that is up is left as it is: sweeps may run there."""
        if self._own:
            onprem.bring_up(self._own, self._token.read_text(), say)
            return
        from ray.autoscaler import sdk

        with self._filled() as filled:
            if self._is_up(filled):
                say(f"cluster {self._fields['cluster_name']} is up, and is left as it is")
            else:
                sdk.create_or_update_cluster(filled)

    def take_down(self, say: Say) -> None:
        """End its machines; on machines of one's own, the Ray that was started there."""
        if self._own:
            onprem.take_down(self._own, say)
            return
        from ray.autoscaler import sdk

        with self._filled() as filled:
            sdk.teardown_cluster(filled)

    @contextmanager
    def reached(self) -> Iterator[RayAddress]:
        """Its dashboard at a port of this machine, by a tunnel that is closed at the end."""
        port = _free_port()
        with self._filled() as filled:
            command = (
                onprem.tunnel_command(self._own, port)
                if self._own
                else [sys.executable, "-m", "ray.scripts.scripts", "dashboard", filled, "--port", str(port)]
            )
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                _wait_for(port, process, command)
                yield RayAddress(address=f"http://127.0.0.1:{port}")
            finally:
                process.terminate()
                process.wait()

    @contextmanager
    def _filled(self) -> Iterator[str]:
        """A file for Ray's launcher with this person's token and this checkout in their places."""
        mounts = dict(self._fields.get("file_mounts", {}))
        mounts.update({name: str(place) for name, place in self._places().items() if name in mounts})
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
            yaml.safe_dump({**self._fields, "file_mounts": mounts}, file)
            file.flush()
            yield file.name

    def _places(self) -> dict[str, Path]:
        return {TOKEN_MOUNT: self._token, SOURCE_MOUNT: OWN_MODULES}

    def _is_up(self, filled: str) -> bool:
        from ray.autoscaler import sdk

        try:
            return bool(sdk.get_head_node_ip(filled))
        except RuntimeError:  # what Ray raises where it finds no head
            return False


def _wait_for(port: int, process: subprocess.Popen[str], command: list[str]) -> None:
    deadline = time.monotonic() + TUNNEL_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            last: list[Any] = process.stderr.read().strip().splitlines()[-1:] or ["no reason given"]
            raise ValueError(f"the tunnel to the head ended ({last[0]}): try '{shlex.join(command)}'")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(LOOK_SECONDS)
    raise ValueError(f"the tunnel to the head did not open in {TUNNEL_SECONDS:g} seconds: try '{shlex.join(command)}'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
