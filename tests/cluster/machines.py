"""Machines of one's own on the hosts of ``tests/cluster/hosts.py``: brought up by ``cluster/onprem.py``.

In place of ssh stands a script that enters a host's namespaces with the bare environment of a fresh login. A host's
home and Ray's files are its own disk, which outlives its power.
"""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.onprem import OnPrem, bring_up
from tests.cluster.hosts import PORT, Host, bare_hosts, child_of

DASHBOARD = "http://127.0.0.1:8265"
"""On the head."""
SSH = """#!/bin/sh
# ssh [options] -- HOST COMMAND
while [ "$1" != -- ]; do shift; done
host=$2; shift 2
exec nsenter --target "$(cat FOLDER/$host.pid)" --mount --net --pid env -i HOME=DISK PATH="$PATH" sh -c "cd; $*"
"""


@dataclass(frozen=True, kw_only=True)
class Machines:
    head: Host
    workers: list[Host]
    folder: Path
    cluster: OnPrem
    token_file: Path

    def boot(self, host: Host) -> None:
        """Power on; nothing of Ray starts by itself."""
        host.boot()
        assert host.power is not None
        (self.folder / f"{host.name}.pid").write_text(str(child_of(host.power)))

    def bring_up(self) -> list[str]:
        """What ``launch --on onprem.yaml`` does first; what a person is told."""
        told: list[str] = []
        bring_up(self.cluster, self.token_file.read_text(), told.append)
        return told

    def beside_the_head(self, command: list[str], log: Path, **environment: str) -> subprocess.Popen[str]:
        """Run a command that outlives the head and reaches its loopback, as from a laptop with a tunnel."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.head.name, *command],
            env={**self.head.environment, **environment},
            stdout=log.open("a"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.head.others.append(process)
        return process


@contextmanager
def own_machines(num_workers: int = 2) -> Iterator[Machines]:
    """Machines that are on, without a Ray; gone at the end."""
    with bare_hosts(num_workers) as hosts:
        ssh = hosts.folder / "ssh"
        ssh.write_text(SSH.replace("FOLDER", str(hosts.folder)).replace("DISK", str(hosts.head.disk)))
        ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
        machines = Machines(
            head=hosts.head,
            workers=hosts.workers,
            folder=hosts.folder,
            token_file=Path(hosts.head.environment["RAY_AUTH_TOKEN_PATH"]),
            cluster=OnPrem(
                name="own",
                head=hosts.head.name,
                head_address=hosts.head.address,
                workers=tuple(worker.name for worker in hosts.workers),
                user="me",
                ssh_port=22,
                python=sys.executable,
                port=PORT,
                dashboard_port=8265,
                # Sockets have short names; the folder is a host's own.
                environment={"RAY_TMPDIR": str(hosts.head.disk)},
                ssh=(str(ssh),),
            ),
        )
        for host in (machines.head, *machines.workers):
            machines.boot(host)
        yield machines
