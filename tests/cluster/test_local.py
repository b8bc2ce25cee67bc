"""What a local Ray is started with. Its dashboard is asked in test_tune.py; that it dies with its
driver is shown in test_killed.py."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from cluster import local


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = local.access_token(tmp_path / "cache")
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert local.access_token(tmp_path / "cache").read_text() == token
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
    ],
)
def test_the_quota_of_a_control_group(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert local._quota(tmp_path) == expected


def test_processors_are_those_this_process_may_use() -> None:
    assert 1 <= local.available_cpus() <= len(os.sched_getaffinity(0))
