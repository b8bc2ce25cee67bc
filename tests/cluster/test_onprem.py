"""Machines of one's own: the scripts that their shells run, with a stand-in for ssh that runs them on this machine.

Each host is a home folder of its own. The Ray that is started is real, and only it is ended.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import jobs
from cluster.local import ENVIRONMENT
from cluster.onprem import OnPrem, bring_up, take_down, tunnel_command
from cluster.target import RayAddress
from tests.cluster.head import free_ports

TOKEN = "t" * 64
SSH = """#!/bin/sh
# ssh [options] -- HOST COMMAND: the command, as the host's shell would run it.
while [ "$1" != -- ]; do shift; done
host=$2; shift 2
[ "$host" != nobody ] || { echo "Could not resolve hostname nobody" >&2; exit 255; }
mkdir -p "HOMES/$host"
cd "HOMES/$host"
HOME="HOMES/$host" exec sh -c "$*"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OnPrem]:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH.replace("HOMES", str(tmp_path)))
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    port, dashboard = free_ports(2)
    yield OnPrem(
        name="test",
        head="head",
        head_address="127.0.0.1",
        workers=(),
        user="me",
        ssh_port=22,
        python=sys.executable,
        port=port,
        dashboard_port=dashboard,
        environment={"MY_SETTING": "it's $HOME; true"},
        ssh=(str(ssh),),
    )
    pid = tmp_path / "head/.isoflop/test.pid"
    if pid.exists():
        with suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_head_is_started_once_asks_for_the_token_and_is_ended(
    cluster: OnPrem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", *ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    told: list[str] = []
    bring_up(cluster, TOKEN, told.append)
    bring_up(cluster, TOKEN, told.append)
    assert told == ["head: Ray started", "head: Ray runs already"]
    token = tmp_path / "head/.isoflop/ray-token"
    assert token.read_text() == TOKEN and token.stat().st_mode & 0o777 == 0o600
    group = int((tmp_path / "head/.isoflop/test.pid").read_text())

    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    address = RayAddress(address=f"http://127.0.0.1:{cluster.dashboard_port}")
    client = wait_for_a_client(address, tmp_path)
    assert jobs.sweep_jobs(client) == []
    ours = [process for process in psutil.process_iter() if belongs(process, tmp_path, group)]
    assert any("raylet" in process.name() for process in ours)
    environment = psutil.Process(group).children()[0].environ()
    assert environment["MY_SETTING"] == "it's $HOME; true"
    assert environment["RAY_AUTH_MODE"] == "token" and TOKEN not in environment.values()

    take_down(cluster, told.append)
    assert told[-1] == "head: Ray ended"
    assert psutil.wait_procs(ours, timeout=20)[1] == []
    take_down(cluster, told.append)
    assert told[-1] == "head: no Ray of this cluster"


def test_the_number_of_a_process_of_another_life_of_the_machine_is_not_believed(
    cluster: OnPrem, tmp_path: Path
) -> None:
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    number = tmp_path / "head/.isoflop/test.pid"
    number.parent.mkdir(parents=True)
    number.write_text(f"{stranger.pid}\n")
    told: list[str] = []
    try:
        take_down(cluster, told.append)
        assert told == ["head: no Ray of this cluster"] and stranger.poll() is None and not number.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_host_that_cannot_be_reached_is_named(cluster: OnPrem) -> None:
    from dataclasses import replace

    with pytest.raises(
        ValueError, match=r"host 'nobody' failed \(Could not resolve hostname nobody\): try 'ssh nobody'"
    ):
        bring_up(replace(cluster, head="nobody"), TOKEN, lambda words: None)


def test_the_tunnel_ends_at_loopback_on_both_sides(cluster: OnPrem) -> None:
    command = tunnel_command(cluster, 12345)
    assert f"127.0.0.1:12345:127.0.0.1:{cluster.dashboard_port}" in command
    assert command[-2:] == ["--", "head"] and "-N" in command


def wait_for_a_client(address: RayAddress, folder: Path) -> jobs.Client:
    deadline = time.monotonic() + 90
    while True:
        try:
            return jobs.connect(address, folder)
        except ValueError:
            assert time.monotonic() < deadline, (folder / "head/.isoflop/test.log").read_text()
            time.sleep(1)


def belongs(process: psutil.Process, folder: Path, group: int) -> bool:
    with suppress(psutil.Error):
        return process.pid == group or process.environ().get("RAY_AUTH_TOKEN_PATH", "").startswith(str(folder))
    return False
