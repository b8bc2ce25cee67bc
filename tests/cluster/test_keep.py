"""A driver that dies is started again, a few times; one that ends or is stopped is not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import keep


def child(folder: Path, what: str) -> list[str]:
    """A process that counts its starts in ``folder`` and then does ``what``, with ``n`` as the count."""
    code = f"import os, signal, sys, time; from pathlib import Path; p = Path({str(folder / 'starts')!r})\n"
    code += "n = int(p.read_text()) + 1 if p.exists() else 1\np.write_text(str(n))\n"
    return [sys.executable, "-c", code + what]


def starts(folder: Path) -> int:
    return int((folder / "starts").read_text())


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_an_ending_is_handed_on(tmp_path: Path, status: int) -> None:
    assert keep.keep(child(tmp_path, f"sys.exit({status})")) == status
    assert starts(tmp_path) == 1


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(70)", "sys.exit(-1)"])
def test_a_death_is_followed_by_another_start(tmp_path: Path, death: str) -> None:
    assert keep.keep(child(tmp_path, f"if n < 3: {death}")) == 0
    assert starts(tmp_path) == 3


def test_too_many_deaths_in_a_row_are_the_end(tmp_path: Path) -> None:
    assert keep.keep(child(tmp_path, "sys.exit(70)")) == keep.DIED
    assert starts(tmp_path) == keep.MAX_DEATHS


def test_deaths_after_a_long_life_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "LONG_SECONDS", 0.0)
    assert keep.keep(child(tmp_path, "sys.exit(70 if n < 8 else 0)")) == 0
    assert starts(tmp_path) == 8


def test_a_stopped_driver_is_not_started_again(tmp_path: Path) -> None:
    """Ray sends SIGTERM to the job's processes, the keeper and the driver."""
    waits = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(60)"
    module = tmp_path / "waiting.py"
    module.write_text(child(tmp_path, waits)[2])
    process = subprocess.Popen([sys.executable, "-m", "cluster.keep", "waiting"], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    [driver] = psutil.Process(process.pid).children()
    process.terminate()
    driver.terminate()
    assert process.wait(timeout=30) == 143
    assert starts(tmp_path) == 1


def test_a_driver_does_not_outlive_its_keeper(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(child(tmp_path, "time.sleep(60)")[2])
    process = subprocess.Popen([sys.executable, "-m", "cluster.keep", "waiting"], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    [driver] = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert psutil.wait_procs([driver], timeout=20)[1] == []
