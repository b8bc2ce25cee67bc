"""A Ray head of a test's own on this machine, with a token, free ports and a folder of its own.

It is ended by its process group: ``ray stop`` would end every Ray on the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.local import ENVIRONMENT, access_token

PATIENCE_SECONDS = 90
CACHE = Path(tempfile.gettempdir()) / "isoflop-tests"
"""With the token of every Ray that tests start: a process reads its token once."""
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    address: str
    """Of its dashboard."""
    ray_address: str
    """Of its Ray Client server."""
    token_file: Path
    process: subprocess.Popen[str]


@contextmanager
def head(folder: Path, num_cpus: int = 2) -> Iterator[Head]:
    """A head that answers; gone at the end. Its log lies in ``folder``."""
    token_file = access_token(CACHE)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    # Sockets have short names, and pytest's folders have long ones.
    temporary = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--{name}={port}" for name, port in ports.items()),
        *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"),
        *(f"--temp-dir={temporary}", f"--num-cpus={num_cpus}", "--dashboard-host=127.0.0.1"),
    ]
    # Jobs run the head's `python`, which on a real head is the one that Ray is installed in.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, **ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token_file), "PATH": path}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(name, None)
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        _wait_until_it_answers(address, process, folder / "head.log")
        client = f"ray://127.0.0.1:{ports['ray-client-server-port']}"
        yield Head(address=address, ray_address=client, token_file=token_file, process=process)
    finally:
        end_group(process)
        shutil.rmtree(temporary, ignore_errors=True)


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads a group, and its group: what it asks to end by itself first, then all at once."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def _wait_until_it_answers(address: str, process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
        except urllib.error.HTTPError as error:
            if error.code == 401:  # it asks for the token: it is up
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text())
