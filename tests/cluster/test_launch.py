"""Sweeps as jobs of a real Ray head: one job for a store; followed, left, found, stopped, capped, started again."""

from __future__ import annotations

import io
import shlex
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

from cluster import doctor, jobs, launch, listing, logs, stopping
from cluster.bounds import Bounds
from cluster.driver import driver_of
from cluster.order import Order
from cluster.target import RayAddress
from sweeps.reading import read_spec
from sweeps.store import Store
from tests.cluster import fake
from tests.cluster.head import Head, end_group, head
from tests.cluster.launcher import WAY
from tests.cluster.sweep import SPEC, make_world, same_rows

PATIENCE_SECONDS = 240
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
    # A command line loads Ray for one cluster; here another test module may have loaded it for its own.
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(a_head.token_file))
    return jobs.connect(RayAddress(address=a_head.address), a_head.token_file.parent)


def order_for(
    folder: Path,
    *,
    seconds: float,
    faults: dict[str, str] | None = None,
    bounds: Bounds = UNBOUNDED,
    row_seconds: float = 1.0,
) -> Order:
    make_world(folder / "cache" / "world", seconds=seconds, faults=faults, row_seconds=row_seconds)
    return Order(spec=LAUNCHED, store=str(folder / "store"), cache=str(folder / "cache"), bounds=bounds)


def send(client: jobs.Client, order: Order, *, detach: bool) -> tuple[int | None, str]:
    """Launch as the command line does: exit status and what a person reads."""
    told = io.StringIO()
    console = Console(file=told, width=200)
    status = launch.launch_on(client, read_spec(order.spec), order, WAY, detach=detach, console=console)
    return status, told.getvalue()


def test_a_sweep_is_submitted_left_found_and_followed_to_its_end(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=0.3)
    status, told = send(client, order, detach=True)
    assert status is None
    first = jobs.live_job(client, order.store)
    assert first is not None and f"submitted: job {first.job_id}" in told
    assert (first.sweep, first.attempt, first.spec) == ("fake", 1, read_spec(LAUNCHED).hash)

    status, told = send(client, order, detach=False)
    assert status == 0
    assert f"already at work: job {first.job_id}" in told
    assert f"{NUM_TRIALS} of {NUM_TRIALS} trials" in told
    assert "report: " in told
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)
    [ended] = [job for job in jobs.sweep_jobs(client) if job.store == order.store]
    assert ended.status == "SUCCEEDED"
    assert ended.progress.startswith(f"{NUM_TRIALS} of {NUM_TRIALS} trials; 100% of")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_that_is_killed_is_started_again_and_nothing_is_lost(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=1.0)
    with Launcher(client, order) as launcher:
        first = wait_for(lambda: jobs.live_job(client, order.store))
        wait_for(lambda: num_rows(order) >= 1)
        driver_process(order).kill()
        wait_for(lambda: "the driver died with status -9, and is started again" in launcher.told)
        wait_for(lambda: num_rows(order) >= 2)
        driver_process(order).parent().kill()
        wait_for(lambda: "started again: job" in launcher.told)
        status = launcher.end()
    assert status == 0, launcher.told
    attempts = [(job.attempt, job.status) for job in jobs.sweep_jobs(client) if job.store == order.store]
    assert attempts == [(1, "FAILED"), (2, "SUCCEEDED")]
    assert first is not None and f"job {first.job_id}" in launcher.told
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_leaves_the_sweep_alone_and_stop_ends_it(client: jobs.Client, tmp_path: Path) -> None:
    order = order_for(tmp_path, seconds=0.3, faults={"full/0": "slow"})
    with Launcher(client, order) as launcher:
        wait_for(lambda: num_rows(order) >= 1)
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.end() == 0
    assert "detached, and the sweep goes on" in launcher.told
    job = jobs.live_job(client, order.store)
    assert job is not None and job.is_live

    with pytest.raises(ValueError, match="names no job that runs"):
        stopping.stop("another", client.get_address())
    assert f"stopped: job {job.job_id}" in stopping.stop(order.store, client.get_address())
    assert jobs.live_job(client, order.store) is None
    assert jobs.job_of(client, job.job_id).status == "STOPPED"
    assert "nothing is lost" in client.get_job_logs(job.job_id), "the driver had no time to end by itself"
    rows = num_rows(order)
    assert 0 < rows < NUM_TRIALS

    status, _ = send(client, replace(order, bounds=Bounds(max_gpu_hours=1e3)), detach=False)
    assert status == 0
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)


def test_a_cap_ends_the_sweep_with_a_status_of_its_own(client: jobs.Client, tmp_path: Path) -> None:
    # Each row says twenty device seconds, and what runs counts as it goes: twelve reach the cap, of 24 trials, fewer
    # where processes take long to start.
    many = LAUNCHED.replace("trials: 3", "trials: 12")
    bounds = Bounds(max_cost=240 / 3600, price_per_hour=1.0)
    order = replace(order_for(tmp_path, seconds=0.1, bounds=bounds, row_seconds=20.0), spec=many)
    status, told = send(client, order, detach=False)
    assert status == 3, told
    assert "--max-cost is 0.0666667" in told and "every row is kept" in told
    before = num_rows(order)
    assert 0 < before < 24
    ended = jobs.sweep_jobs(client)[-1]
    assert (ended.status, ended.exit_status, ended.attempt) == ("FAILED", 3, 1)
    status, told = send(client, order, detach=False)
    assert (status, num_rows(order)) == (3, before), f"a reached cap lets nothing start: {told}"


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
    jobs.stop_job(client, job)


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


def test_a_running_trial_s_log_is_found_by_its_name(
    client: jobs.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_for(tmp_path, seconds=1.5)
    send(client, order, detach=True)
    world = Path(order.cache) / "world"
    [trial, *_] = wait_for(lambda: sorted(path.name for path in (world / "log").glob("*")))
    told = io.StringIO()
    logs.show(Store.open(Path(order.store)), trial[:-4], client.get_address(), Console(file=told, width=200))
    assert f"this process begins {trial}" in told.getvalue()
    with pytest.raises(ValueError, match="which has no row and does not run"):
        logs.show(Store.open(Path(order.store)), "9.9e9", client.get_address(), Console(file=told, width=200))
    job = jobs.live_job(client, order.store)
    assert job is not None
    assert [entry.job_id for entry in listing.jobs_on(client.get_address()) if entry.is_live] == [job.job_id]
    jobs.stop_job(client, job)


def test_a_job_that_the_head_has_forgotten_is_not_waited_for(client: jobs.Client) -> None:
    assert jobs.follow(client, "of-another-life-1", lambda text: None) is None


WORKERS = """
import ray, time

@ray.remote(num_cpus=0)
class Rank:
    def speak(self, rank):
        print("worker", rank, "speaks", flush=True)

ray.init()
ranks = [Rank.options(name=f"4.0e10-nano-3k-full-abc/rank{i}").remote() for i in range(2)]
ray.get([actor.speak.remote(i) for i, actor in enumerate(ranks)])
time.sleep(600)
"""


def test_the_workers_of_a_trial_are_found_by_trial_and_rank(client: jobs.Client) -> None:
    job_id = client.submit_job(entrypoint=shlex.join([sys.executable, "-c", WORKERS]))
    try:
        address = RayAddress(address=client.get_address())

        def written() -> list[tuple[str, list[str]]] | None:
            found = list(logs.log_of(address, "4.0e10-nano-3k"))
            return found if len(found) == 2 and all("speaks" in "".join(lines) for _, lines in found) else None

        found = wait_for(written)
        assert [name.partition(" ")[0] for name, _ in found] == [
            "4.0e10-nano-3k-full-abc/rank0",
            "4.0e10-nano-3k-full-abc/rank1",
        ]
        for rank, (_, lines) in enumerate(found):
            assert any(f"worker {rank} speaks" in line for line in lines)
            assert not any(f"worker {1 - rank} speaks" in line for line in lines)
        assert not list(logs.log_of(address, "4.0e10-nano-7k"))
    finally:
        client.stop_job(job_id)


def test_the_doctor_asks_every_machine_by_a_job(client: jobs.Client, tmp_path: Path) -> None:
    findings = doctor.examine(client.get_address(), str(tmp_path / "store"), None, Console(file=io.StringIO()))
    found = {finding.what: finding for finding in findings}
    assert doctor.is_well(findings)
    assert found["token"].words == "asked for, and ours is accepted"
    assert found["storage"].words.startswith(str(tmp_path / "store"))
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_sweeps_share_the_slots(client: jobs.Client, tmp_path: Path) -> None:
    """The first takes both slots; the second gets its own as trials of the first end, and both go on."""
    first = replace(order_for(tmp_path, seconds=0.6), spec=LAUNCHED.replace("trials: 3", "trials: 20"))
    later = LAUNCHED.replace("[1e9, 4e9]", "[2e9, 8e9]")
    second = replace(first, spec=later, store=str(tmp_path / "second"))
    send(client, first, detach=True)
    wait_for(lambda: num_rows(first) >= 1)
    assert send(client, second, detach=False)[0] == 0
    job = jobs.live_job(client, first.store)
    assert job is not None, "the second had to wait for the whole of the first"
    same_rows(Store.open(Path(second.store)).read_trials(), later)
    between = num_rows(first)
    wait_for(lambda: num_rows(first) > between + 1)
    jobs.stop_job(client, job)

    late = Store.open(Path(second.store)).trial_ids()
    told = list(enumerate(fake.order(Path(first.cache) / "world")))
    begun = [at for at, (who, what, *_) in told if what == "start" and who in late]
    assert len(begun) == len(late), "a trial of the second was run twice"
    beside = [at for at, (who, what, *_) in told if what == "start" and who not in late and begun[0] < at < begun[-1]]
    assert beside, "the first had to wait for the whole of the second"
    running: set[str] = set()
    for _, (who, what, *rest) in told:
        if what == "start":
            assert rest[0] == "0" and who not in running, "a trial was stopped for another sweep"
            running.add(who)
        elif rest == ["4"]:
            running.discard(who)
        assert len(running) <= 2, "more trials than slots"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_address_of_a_ray_client_server_serves_as_well(client: jobs.Client, a_head: Head, tmp_path: Path) -> None:
    """It is asked where the dashboard is, which takes the jobs."""
    order = order_for(tmp_path, seconds=1.5)
    near = jobs.connect(RayAddress(address=a_head.ray_address), a_head.token_file.parent)
    assert near.get_address() == a_head.address
    assert send(near, order, detach=True)[0] is None
    [job] = [job for job in listing.jobs_on(a_head.ray_address) if job.is_live]
    assert job.store == order.store
    world = Path(order.cache) / "world"
    [trial, *_] = wait_for(lambda: sorted(path.name for path in (world / "log").glob("*")))
    told = io.StringIO()
    logs.show(Store.open(Path(order.store)), trial, a_head.ray_address, Console(file=told, width=200))
    assert f"this process begins {trial}" in told.getvalue()
    assert f"stopped: job {job.job_id}" in stopping.stop(order.store, a_head.ray_address)
    assert send(near, order, detach=False)[0] == 0
    same_rows(Store.open(Path(order.store)).read_trials(), LAUNCHED)

    far = a_head.ray_address.replace("127.0.0.1", node_address(client))
    with pytest.raises(ValueError, match=r"on that machine's loopback: open a tunnel with 'ssh -N -L"):
        jobs.connect(RayAddress(address=far), tmp_path)


def node_address(client: jobs.Client) -> str:
    """By which other machines reach the head."""
    from ray.util.state import list_nodes

    [node] = list_nodes(address=client.get_address())
    return str(node.node_ip)


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
