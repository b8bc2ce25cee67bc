"""Sweeps as jobs of a real Ray head: one job for a store; followed, left, found, stopped, capped, started again."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from rich.console import Console

from cluster import jobs, launch
from cluster.bounds import Bounds
from cluster.driver import driver_of
from cluster.order import Order
from cluster.target import RayAddress
from sweeps.spec import read_spec
from sweeps.store import Store
from tests.cluster.head import Head, end_group, head
from tests.cluster.launcher import WAY
from tests.cluster.sweep import SPEC, make_world, same_rows

PATIENCE_SECONDS = 90
T = TypeVar("T")
UNBOUNDED = Bounds()
# Processes used again: each trial would wait seconds for its own.
LAUNCHED = SPEC.replace("[full, bias]", "[full]") + "resources: {reuse_actors: true}\n"
NUM_TRIALS = 6


@pytest.fixture(scope="module")
def a_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head(tmp_path_factory.mktemp("head")) as up:
        yield up


@pytest.fixture
def client(a_head: Head, monkeypatch: pytest.MonkeyPatch) -> jobs.Client:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(a_head.token_file))
    return jobs.connect(RayAddress(address=a_head.address), a_head.token_file.parent)


def order_for(
    folder: Path, *, seconds: float, faults: dict[str, str] | None = None, bounds: Bounds = UNBOUNDED
) -> Order:
    make_world(folder / "cache" / "world", seconds=seconds, faults=faults)
    return Order(spec=LAUNCHED, store=str(folder / "store"), cache=str(folder / "cache"), bounds=bounds)


def send(client: jobs.Client, order: Order, *, detach: bool) -> tuple[int, str]:
    """Launch as the command line does: exit status and what a person reads."""
    told = io.StringIO()
    console = Console(file=told, width=200)
    status = launch.launch_on(client, read_spec(order.spec), order, WAY, detach=detach, console=console)
    return status, told.getvalue()


def test_a_sweep_is_submitted_left_found_and_followed_to_its_end(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=0.3)
    status, told = send(client, order, detach=True)
    assert status == 0
    first = jobs.live_job(client, order.store)
    assert first is not None and f"submitted: job {first.job_id}" in told
    assert (first.sweep, first.attempt, first.spec) == ("fake", 1, read_spec(LAUNCHED).hash)

    status, told = send(client, order, detach=False)
    assert status == 0
    assert f"already at work: job {first.job_id}" in told
    assert f"{NUM_TRIALS} of {NUM_TRIALS} trials" in told
    assert "report: " in told
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)
    assert [job.status for job in jobs.sweep_jobs(client) if job.store == order.store] == ["SUCCEEDED"]


def test_a_driver_that_is_killed_is_started_again_and_nothing_is_lost(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=0.3)
    with Launcher(client, order) as launcher:
        first = wait_for(lambda: jobs.live_job(client, order.store))
        wait_for(lambda: num_rows(order) >= 1)
        driver_process(order).kill()
        wait_for(lambda: "started again: job" in launcher.told)
        status = launcher.end()
    assert status == 0, launcher.told
    attempts = [(job.attempt, job.status) for job in jobs.sweep_jobs(client) if job.store == order.store]
    assert attempts == [(1, "FAILED"), (2, "SUCCEEDED")]
    assert first is not None and f"job {first.job_id}" in launcher.told
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)


def test_ctrl_c_leaves_the_sweep_alone_and_stop_ends_it(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=0.3, faults={"full/0": "slow"})
    with Launcher(client, order) as launcher:
        wait_for(lambda: num_rows(order) >= 1)
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.end() == 0
    assert "detached, and the sweep goes on" in launcher.told
    job = jobs.live_job(client, order.store)
    assert job is not None and job.is_live

    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ValueError, match="names no job that runs"):
        launch.stop_sweep(client, "another", console)
    launch.stop_sweep(client, order.store, console)
    assert jobs.live_job(client, order.store) is None
    assert jobs.job_of(client, job.job_id).status == "STOPPED"
    assert "nothing is lost" in client.get_job_logs(job.job_id), "the driver had no time to end by itself"
    rows = num_rows(order)
    assert 0 < rows < NUM_TRIALS

    status, _ = send(client, replace(order, bounds=Bounds(max_gpu_hours=1e3)), detach=False)
    assert status == 0
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)


def test_a_cap_ends_the_sweep_with_a_status_of_its_own(client: jobs.Client, tmp_path: Path) -> None:
    # Each row says one device second: the third reaches the cap, whatever else runs then.
    order = order_for(tmp_path, seconds=0.05, bounds=Bounds(max_cost=3 / 3600, price_per_hour=1.0))
    status, told = send(client, order, detach=False)
    assert status == 3
    assert "--max-cost is 0.000833333" in told and "every row is kept" in told
    assert 0 < num_rows(order) < NUM_TRIALS
    ended = jobs.sweep_jobs(client)[-1]
    assert (ended.status, ended.exit_status, ended.attempt) == ("FAILED", 3, 1)
    before = num_rows(order)
    assert send(client, order, detach=False)[0] == 3
    assert num_rows(order) == before, "a reached cap lets nothing start"
    assert send(client, replace(order, bounds=Bounds()), detach=False)[0] == 0
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)


def test_a_store_has_one_job(client: jobs.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_for(tmp_path, seconds=0.3)
    send(client, order, detach=True)
    other = LAUNCHED.replace("trials: 3", "trials: 4")
    with pytest.raises(ValueError, match="of another spec"):
        send(client, replace(order, spec=other), detach=True)
    job = jobs.live_job(client, order.store)
    assert job is not None
    # A launcher that looked before the first job was there asks for its id, and is given the first job.
    seen = jobs.sweep_jobs
    looks = iter([lambda client: []])
    monkeypatch.setattr(jobs, "sweep_jobs", lambda client: next(looks, seen)(client))
    assert jobs.submit(client, read_spec(LAUNCHED), order).job_id == job.job_id
    jobs.stop(client, job)


def test_a_job_carries_what_is_named_and_no_secret(
    client: jobs.Client, a_head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SETTING", "shown")
    monkeypatch.setenv("MY_OTHER", "not shown")
    monkeypatch.setenv("HF_TOKEN", "hidden")
    order = order_for(tmp_path, seconds=0.3)
    with pytest.raises(ValueError, match="'HF_TOKEN', which looks like a secret"):
        jobs.submit(client, read_spec(LAUNCHED), order, names=["HF_TOKEN"])
    job = jobs.submit(client, read_spec(LAUNCHED), order, names=["MY_SETTING"], python="false")
    jobs.follow(client, job.job_id, lambda text: None)
    record = repr(client.get_job_info(job.job_id))
    assert "shown" in record and "not shown" not in record and "hidden" not in record
    assert a_head.token_file.read_text() not in record + client.get_job_logs(job.job_id)


class Launcher:
    """``launch_on`` in a process of its own, to be signalled."""

    def __init__(self, client: jobs.Client, order: Order) -> None:
        self._folder = Path(order.cache)
        order.write(self._folder)
        command = [
            sys.executable,
            "-m",
            "tests.cluster.launcher",
            client.get_address(),
            str(self._folder),
        ]
        self.process = subprocess.Popen(
            command, stdout=self._log().open("w"), stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        end_group(self.process)

    @property
    def told(self) -> str:
        return self._log().read_text()

    def end(self) -> int:
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def _log(self) -> Path:
        return self._folder / "launcher.log"


def num_rows(order: Order) -> int:
    return len(list((Path(order.store) / "trials").glob("*.parquet")))


def driver_process(order: Order) -> psutil.Process:
    """The driver that holds the store: it has written down who it is."""
    known = wait_for(lambda: driver_of(Path(order.store)))
    return psutil.Process(known.pid)


def wait_for(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found
