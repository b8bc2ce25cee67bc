"""Who drives a store: one process at a time, and none after a death."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cluster import driver


def test_the_driver_is_known_while_it_drives_and_forgotten_after(tmp_path: Path) -> None:
    assert not driver.is_driven(tmp_path)
    with driver.driving(tmp_path):
        assert driver.is_driven(tmp_path)
        assert driver.driver_of(tmp_path) is None
        driver.announce(tmp_path, "http://127.0.0.1:8265")
        known = driver.driver_of(tmp_path)
        assert known is not None
        assert (known.pid, known.host, known.dashboard) == (os.getpid(), socket.gethostname(), "http://127.0.0.1:8265")
    assert not driver.is_driven(tmp_path)
    assert driver.driver_of(tmp_path) is None


def test_a_second_driver_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PATIENCE_SECONDS", 0.0)
    with driver.driving(tmp_path):
        driver.announce(tmp_path, "")
        with (
            pytest.raises(ValueError, match=f"is being filled by process {os.getpid()} on"),
            driver.driving(tmp_path),
        ):
            pass
        assert driver.is_driven(tmp_path)
    with driver.driving(tmp_path):
        pass


def test_what_a_dead_driver_left_is_not_believed(tmp_path: Path) -> None:
    driver.announce(tmp_path, "http://127.0.0.1:8265")
    assert driver.driver_of(tmp_path) is None
    with driver.driving(tmp_path):
        assert driver.driver_of(tmp_path) is None


def test_a_store_that_nobody_may_write_can_be_looked_at(tmp_path: Path) -> None:
    with driver.driving(tmp_path):
        pass
    (tmp_path / driver.LOCK).chmod(0o444)
    tmp_path.chmod(0o555)
    assert not driver.is_driven(tmp_path)
    tmp_path.chmod(0o755)
