"""A Ray on machines of one's own, over ssh: started, found again and ended.

Knows the hosts of a cluster file and the few shell scripts that they run. Each host keeps one process group for this
cluster, by which it is ended: ``ray stop`` would end every Ray on the machine. Never installs anything, and never
knows a sweep.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from cluster.local import HEALTH, OBJECT_STORE_BYTES

SSH_SECONDS = 30
END_SECONDS = 40
"""That a machine's Ray has to drain; then it is killed."""


class _Fields(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class _Head(_Fields):
    host: str
    address: str


class _Worker(_Fields):
    host: str


class _Ssh(_Fields):
    user: str = ""
    port: int = 22


class _Ports(_Fields):
    cluster: int = 6379
    dashboard: int = 8265


class _File(_Fields):
    cluster_name: str = pydantic.Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    provider: dict[str, str]
    head: _Head
    workers: list[_Worker] = []
    ssh: _Ssh = _Ssh()
    python: str = pydantic.Field(pattern="^/")
    ports: _Ports = _Ports()
    environment: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class OnPrem:
    """A cluster of one's own machines."""

    name: str
    head: str
    """Its name for ssh."""
    head_address: str
    """By which workers reach it."""
    workers: tuple[str, ...]
    user: str
    ssh_port: int
    python: str
    port: int
    dashboard_port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    ssh: tuple[str, ...] = ("ssh",)

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.head, *self.workers)


def on_prem(fields: Mapping[str, Any], path: Path) -> OnPrem:
    """The cluster of a file. Raises ``ValueError`` with one sentence that names the field."""
    try:
        file = _File.model_validate(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg'].lower()}; see cluster/onprem.yaml") from error
    for host in (file.head.host, *(worker.host for worker in file.workers)):
        if host.startswith("-"):
            raise ValueError(f"{path}: host is {host!r}, which ssh would read as an option: give a host's name")
    return OnPrem(
        name=file.cluster_name,
        head=file.head.host,
        head_address=file.head.address,
        workers=tuple(worker.host for worker in file.workers),
        user=file.ssh.user,
        ssh_port=file.ssh.port,
        python=file.python,
        port=file.ports.cluster,
        dashboard_port=file.ports.dashboard,
        environment=file.environment,
    )


def bring_up(cluster: OnPrem, token: str, say: Callable[[str], None]) -> None:
    """Start Ray on every host on which this cluster's does not run yet, the head first, one after another.

    Raises ``ValueError`` where a host cannot be reached or Ray does not stay up there.
    """
    for host in cluster.hosts:
        # By standard input: a command line can be read by everyone on the host.
        _run(cluster, host, "umask 077; mkdir -p ~/.isoflop; cat > ~/.isoflop/ray-token", stdin=token)
        told = _run(cluster, host, _start_script(cluster, is_head=host == cluster.head))
        say(f"{host}: {told.strip()}")


def take_down(cluster: OnPrem, say: Callable[[str], None]) -> None:
    """End this cluster's Ray on every host, the head last."""
    for host in reversed(cluster.hosts):
        told = _run(cluster, host, _end_script(cluster), seconds=SSH_SECONDS + END_SECONDS)
        say(f"{host}: {told.strip()}")


def tunnel_command(cluster: OnPrem, local_port: int) -> list[str]:
    """What forwards a port of this machine to the head's dashboard, as long as it runs."""
    forward = f"127.0.0.1:{local_port}:127.0.0.1:{cluster.dashboard_port}"
    return [*_ssh(cluster), "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, "--", cluster.head]


def _start_script(cluster: OnPrem, *, is_head: bool) -> str:
    where = (
        f"--head --port={cluster.port} --node-ip-address={shlex.quote(cluster.head_address)} "
        f"--dashboard-host=127.0.0.1 --dashboard-port={cluster.dashboard_port} --num-cpus=0 --num-gpus=0"
        if is_head
        else f"--address={shlex.quote(f'{cluster.head_address}:{cluster.port}')}"
    )
    settings = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **HEALTH, **cluster.environment}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    ray = f"{shlex.quote(cluster.python)} -m ray.scripts.scripts"
    # A Ray that fails at its start, or whose head is away for a while, is started again.
    return f"""set -eu
umask 077
cd
pid=.isoflop/{cluster.name}.pid
if {_runs(cluster)}; then echo "Ray runs already"; exit 0; fi
cat > .isoflop/{cluster.name}.sh <<'END'
export {exports}
export RAY_AUTH_TOKEN_PATH="$HOME/.isoflop/ray-token" PATH="$(dirname {shlex.quote(cluster.python)}):$PATH"
ulimit -n 65536 2>/dev/null || true
trap 'ended=1; kill -TERM "$ray" 2>/dev/null' TERM
ended=0
while [ "$ended" = 0 ]; do
  {ray} start --block --disable-usage-stats --object-store-memory={4 * OBJECT_STORE_BYTES} {where} &
  ray=$!
  wait "$ray" || true
  [ "$ended" = 1 ] && wait "$ray"
  sleep 3
done
END
setsid nohup sh .isoflop/{cluster.name}.sh > .isoflop/{cluster.name}.log 2>&1 < /dev/null &
echo $! > "$pid"
sleep 5
kill -0 "$(cat "$pid")"
echo "Ray started"
"""


def _end_script(cluster: OnPrem) -> str:
    return f"""set -u
cd
pid=.isoflop/{cluster.name}.pid
if ! {_runs(cluster)}; then rm -f "$pid"; echo "no Ray of this cluster"; exit 0; fi
group=$(cat "$pid")
kill -TERM "$group" 2>/dev/null
left={END_SECONDS}
while kill -0 "$group" 2>/dev/null && [ "$left" -gt 0 ]; do sleep 1; left=$((left - 1)); done
kill -KILL -- "-$group" 2>/dev/null
rm -f "$pid"
echo "Ray ended"
"""


def _runs(cluster: OnPrem) -> str:
    """A condition of the shell: the process of ``$pid`` is the one that was started here.

    The file outlives a machine's restart, after which another process may have its number.
    """
    return f"""grep -qsF .isoflop/{cluster.name}.sh "/proc/$(cat "$pid" 2>/dev/null)/cmdline\""""


def _ssh(cluster: OnPrem) -> list[str]:
    user = ["-l", cluster.user] if cluster.user else []
    return [*cluster.ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", str(cluster.ssh_port), *user]


def _run(cluster: OnPrem, host: str, script: str, *, stdin: str | None = None, seconds: float = SSH_SECONDS) -> str:
    """What the script says on the host. The script goes by standard input, unless that is something else."""
    command: Sequence[str] = [*_ssh(cluster), "--", host, "sh -s" if stdin is None else script]
    try:
        done = subprocess.run(
            command, input=script if stdin is None else stdin, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"host {host!r} did not answer in {seconds:g} seconds: try 'ssh {host}'") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(
            f"host {host!r} failed ({last[0]}): try 'ssh {host}', and see ~/.isoflop/{cluster.name}.log there"
        )
    return done.stdout
