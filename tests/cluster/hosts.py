"""Several hosts on one machine, for tests of a real Ray cluster: each with its own address, processes and folder.

A host is a network namespace on a bridge that leads nowhere else, with a process namespace of its own: to kill the
first process of that is to cut the power. Needs root and ``ip``. Folders of the machine are seen by all hosts, as
shared storage is; only Ray's own is private.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local import ENVIRONMENT, HEALTH

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
DRAIN_SECONDS = 20
START_SECONDS = 240
LOOKOUT = """
import sys, time
from ray._raylet import GcsClient
client, deadline = None, time.monotonic() + float(sys.argv[2])
for line in sys.stdin:
    while True:
        try:
            client = client or GcsClient(address=sys.argv[1])
            alive = sum(node.state == 0 for node in client.get_all_node_info().values())
            break
        except Exception:  # the head is not there yet, or busy
            if time.monotonic() > deadline:
                raise
    deadline = time.monotonic() + float(sys.argv[2])
    print(alive, flush=True)
"""


def why_not() -> str:
    """Why this machine cannot have several hosts; empty where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "network namespaces need ip and unshare"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return "this machine does not let its root make namespaces" if tried.returncode else ""


@dataclass(kw_only=True)
class Host:
    """One host; ``power`` is the process whose end is the end of all of its processes."""

    name: str
    address: str
    folder: Path
    environment: dict[str, str]
    power: subprocess.Popen[bytes] | None = None
    others: list[subprocess.Popen[Any]] = field(default_factory=list)
    is_up: bool = False
    """Whether its node was started and has not been lost since."""

    @property
    def disk(self) -> Path:
        """Where the host itself sees its folder; there, each of them sees its own."""
        return self.folder.parent / "ray"

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Run a command on this host, in a process namespace of its own; its output goes to a file."""
        inside = 'mount --bind "$0" "$1" && shift && exec "$@"'
        entered = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        entered += ["--mount-proc", "sh", "-c", inside, str(self.folder), str(self.disk)]
        log = (self.folder / f"{Path(command[0]).name}.log").open("ab")
        process = subprocess.Popen(
            [*entered, *command], env={**self.environment, **environment}, stdout=log, stderr=log, cwd=REPOSITORY
        )
        self.others.append(process)
        return process

    def start_ray(self, *options: str) -> None:
        """A Ray node here; it has started when the others see it."""
        command = [RAY, "start", f"--node-ip-address={self.address}", *options]
        command += [f"--temp-dir={self.disk}", "--object-store-memory=100000000", "--block"]
        self.power = self.start([*command, "--disable-usage-stats"])
        self.is_up = True

    def boot(self) -> None:
        """The machine without a Ray; its first process reaps what others leave."""
        sign = self.folder / "on"
        sign.unlink(missing_ok=True)
        self.power = self.start(["sh", "-c", 'touch "$0"; while :; do sleep 1; done', str(self.disk / "on")])
        deadline = time.monotonic() + START_SECONDS
        while not sign.exists():
            assert time.monotonic() < deadline, (self.folder / "sh.log").read_text()
            time.sleep(0.05)

    def enter(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Run a command beside the Ray node of this host, as somebody who has logged in."""
        assert self.power is not None
        entered = ["nsenter", "--target", str(child_of(self.power)), "--mount", "--net", "--pid"]
        process = subprocess.Popen([*entered, *command], env=self.environment, cwd=REPOSITORY, text=True, **options)
        self.others.append(process)
        return process

    def cut_power(self) -> None:
        """SIGKILL to every process of the Ray node, at once; they are gone, and so are their ports."""
        assert self.power is not None
        self.is_up = False
        # The first process of the host's own goes last, after all others.
        first = _children(self.power)
        self.power.kill()
        self.power.wait()
        deadline = time.monotonic() + START_SECONDS
        while any(Path(f"/proc/{child}").exists() for child in first):
            assert time.monotonic() < deadline, f"{first} did not end within {START_SECONDS} seconds"
            time.sleep(0.02)

    def notice(self) -> None:
        """What a cloud does before it takes a spot machine back: SIGTERM to ``ray start --block``."""
        assert self.power is not None
        self.is_up = False
        os.kill(child_of(self.power), signal.SIGTERM)

    def cut_link(self) -> None:
        self.is_up = False
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend_link(self) -> None:
        _ip("-n", self.name, "link", "set", "eth0", "up")


@dataclass(kw_only=True)
class Hosts:
    """A head without CPUs for trials, and workers."""

    head: Host
    workers: list[Host]
    folder: Path
    num_cpus: int
    num_gpus: int
    lookout: subprocess.Popen[str] | None = None
    """Says how many nodes are alive when asked by a line: a process, because only the hosts see each other."""

    def start_head(self) -> None:
        """Let the head begin, also one that was lost: it remembers nothing."""
        self.head.start_ray("--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false")
        _wait_for_port(self.head)
        self.lookout = self.head.enter(
            [sys.executable, "-c", LOOKOUT, f"{self.head.address}:{PORT}", str(START_SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.wait()

    def lose_head(self) -> None:
        """Cut the head's power and start it again; it does not know its workers, which join as new nodes."""
        for host in (self.head, *self.workers):
            host.is_up = False
        self.head.cut_power()
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)

    def start_worker(self, worker: Host) -> None:
        """Let a worker join, also one that was lost: as a new node."""
        if worker.power is not None:
            worker.cut_power()
            worker.mend_link()
            # A node that was cut off a moment ago still counts, and would pass for the one that starts now.
            self.wait()
        shutil.rmtree(worker.folder)
        worker.folder.mkdir()
        worker.start_ray(
            f"--address={self.head.address}:{PORT}", f"--num-cpus={self.num_cpus}", f"--num-gpus={self.num_gpus}"
        )
        self.wait()

    def num_nodes(self) -> int:
        """Nodes that the cluster takes for alive."""
        assert self.lookout is not None and self.lookout.stdin is not None and self.lookout.stdout is not None
        self.lookout.stdin.write("?\n")
        self.lookout.stdin.flush()
        return int(self.lookout.stdout.readline())

    def wait(self) -> None:
        """Until the cluster sees the hosts that are up, and none that was lost."""
        wanted = sum(host.is_up for host in (self.head, *self.workers))
        deadline = time.monotonic() + START_SECONDS
        while (found := self.num_nodes()) != wanted:
            assert time.monotonic() < deadline, f"{found} nodes instead of {wanted} after {START_SECONDS} seconds"
            time.sleep(0.1)


def child_of(process: subprocess.Popen[Any]) -> int:
    """The process that one that made a process namespace, or entered one, has started there."""
    [child] = _children(process)
    return child


def _children(process: subprocess.Popen[Any]) -> list[int]:
    """None where it has ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


@contextmanager
def several_hosts(num_workers: int = 2, *, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[Hosts]:
    """A running cluster; every process, namespace and folder of it is gone at the end."""
    with bare_hosts(num_workers, num_cpus=num_cpus, num_gpus=num_gpus) as hosts:
        hosts.start_head()
        for worker in hosts.workers:
            # One after the other: two at once on a busy machine have been seen to time out.
            hosts.start_worker(worker)
        yield hosts


@contextmanager
def bare_hosts(num_workers: int, *, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[Hosts]:
    """Hosts that see each other, and no process on them; all of them are gone at the end."""
    # Not under a test's own folder: the paths of Ray's sockets have to be short.
    folder = Path(tempfile.mkdtemp(prefix="iso-"))
    tag = secrets.token_hex(3)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    (folder / "ray").mkdir()
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **HEALTH,
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS),
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(folder),
    }
    environment.pop("RAY_ADDRESS", None)
    made = [
        Host(name=f"iso{tag}{i}", address=f"10.78.0.{i + 1}", folder=folder / f"host{i}", environment=environment)
        for i in range(num_workers + 1)
    ]
    hosts = Hosts(head=made[0], workers=made[1:], folder=folder, num_cpus=num_cpus, num_gpus=num_gpus)
    bridge = f"iso{tag}br"
    try:
        _connect(made, bridge)
        yield hosts
    finally:
        for host in made:
            for process in host.others:
                process.kill()
                process.wait()
        for name in (*(host.name for host in made), bridge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _connect(hosts: Sequence[Host], bridge: str) -> None:
    _ip("netns", "add", bridge)
    _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
    _ip("-n", bridge, "link", "set", "br0", "up")
    for i, host in enumerate(hosts):
        host.folder.mkdir()
        _ip("netns", "add", host.name)
        _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", bridge, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip("-n", bridge, "link", "set", f"port{i}", "master", "br0", "up")
        _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.name, "link", "set", "eth0", "up")
        # Ray asks the routes which address is its own.
        _ip("-n", host.name, "route", "add", "default", "via", "10.78.0.254")


def _wait_for_port(host: Host) -> None:
    asked = ["ip", "netns", "exec", host.name, "sh", "-c", f"grep -q ':{PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(asked, capture_output=True).returncode:
        assert time.monotonic() < deadline, (host.folder / "ray.log").read_text()
        time.sleep(0.3)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
