"""A running sweep as a real Prometheus sees it, and every query of the Grafana dashboard against it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.local import access_token
from cluster.metrics import GAUGES, MOST_TRIALS, values
from cluster.progress import RunningTrial, SweepProgress
from tests.cluster.head import CACHE
from tests.cluster.sweep import SPEC, drive, make_world
from tests.sweeps.examples import trial_spec
from trainer.result import TrialState

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docker/grafana/isoflop.json").read_text())
QUERIES = {
    f"{panel['title']}: {target['expr']}": target["expr"].replace("$sweep", ".*")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
GPU_SWEEP = SPEC + "resources: {gpus_per_trial: 1, max_gpus_per_trial: 1}\n"
PATIENCE_SECONDS = 120


def progress(**changed: Any) -> SweepProgress:
    empty = SweepProgress(
        num_trials=4000,
        states=Counter({TrialState.COMPLETE: 3, TrialState.FAILED: 1}),
        running=(),
        spent_flops=5,
        planned_flops=20,
        best=(),
        seconds=1.0,
        remaining_seconds=None,
    )
    return replace(empty, **changed)


def running(number: int) -> RunningTrial:
    return RunningTrial(spec=trial_spec(number), share=0.5, loss=None, tokens_per_second=100.0, mfu=0.4)


def test_the_states_add_up_and_what_is_unknown_has_no_series() -> None:
    shown = values(progress(running=(running(0), running(1))))
    assert set(shown) == set(GAUGES)
    assert shown["trials"] == {"complete": 3, "pruned": 0, "diverged": 0, "failed": 1, "running": 2, "waiting": 3994}
    assert shown["flops"] == {"planned": 20, "spent": 5}
    assert shown["remaining_seconds"] == shown["best_loss"] == shown["trial_loss"] == {}
    assert shown["trial_mfu"] == {trial_spec(n).trial_id: 0.4 for n in (0, 1)}


def test_the_number_of_series_is_bounded_however_many_trials_run() -> None:
    shown = values(progress(running=tuple(running(n) for n in range(3000)), remaining_seconds=1.0))
    assert sum(map(len, shown.values())) == 9 + 3 * MOST_TRIALS
    assert shown["trials"]["running"] == 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Prometheus:
    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that the expression is now; nothing while the server is not up."""
        try:
            with urllib.request.urlopen(
                f"{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
            ) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except urllib.error.URLError as error:
            assert not isinstance(error, urllib.error.HTTPError), f"{expression}: {error.read().decode()}"
            return []


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Path]:
    """The session folder of a Ray that takes one processor for an H100: only there is a peak known."""
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(access_token(CACHE))
    import ray

    context = ray.init(
        address="local", num_cpus=2, num_gpus=1, resources={"accelerator_type:H100": 1}, include_dashboard=True,
        object_store_memory=128 * 2**20, log_to_driver=False, logging_level="error",
    )  # fmt: skip
    try:
        yield Path(context.address_info["session_dir"])
    finally:
        ray.shutdown()


@pytest.fixture
def prometheus(session: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """Started with the configuration that comes with isoflop, pointed at this Ray's own list of nodes."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    config = (ROOT / "docker/prometheus.yml").read_text()
    assert config.count("/tmp/ray/") == config.count("scrape_interval: 10s") == 1
    own = config.replace("/tmp/ray/", f"{session}/").replace("scrape_interval: 10s", "scrape_interval: 2s")
    (tmp_path / "prometheus.yml").write_text(own)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/prometheus"]
    with (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield Prometheus(address=f"http://{address}")
        finally:
            process.terminate()
            process.wait()


def wait_for(what: Callable[[], Any], meaning: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"never came: {meaning}"
        time.sleep(0.5)


def test_every_query_of_the_dashboard_returns_data_while_a_sweep_runs(prometheus: Prometheus, tmp_path: Path) -> None:
    """The first row has to be there for a best loss and an estimate, and a trial has to run for its own series."""
    world = make_world(tmp_path / "world", seconds=2.0)
    seen: list[SweepProgress] = []
    enough, ended = threading.Event(), threading.Event()

    def see(progress: SweepProgress) -> None:
        seen.append(progress)
        if enough.is_set():
            raise _EnoughError

    def run() -> None:
        with contextlib.suppress(_EnoughError):
            drive(tmp_path / "store", world, GPU_SWEEP, on_progress=see)
        ended.set()

    sweep = threading.Thread(target=run)
    sweep.start()
    try:
        _check_queries(prometheus, seen, ended)
    finally:
        enough.set()
        sweep.join()


class _EnoughError(Exception):
    pass


def _check_queries(prometheus: Prometheus, seen: list[SweepProgress], ended: threading.Event) -> None:
    missing = dict(QUERIES)

    def all_there() -> bool:
        for name in [name for name, query in missing.items() if prometheus.query(query)]:
            del missing[name]
        assert not ended.is_set(), f"the sweep ended, and these never returned data: {missing}"
        return not missing

    wait_for(all_there, "data for every query")
    assert len(QUERIES) >= 12
    by_state = prometheus.query('max by (state) (ray_isoflop_trials{sweep="fake"})')
    assert sum(float(series["value"][1]) for series in by_state) == seen[-1].num_trials
    shown = {series["metric"]["trial"] for series in prometheus.query("ray_isoflop_trial_share")}
    assert shown <= {trial.spec.trial_id for p in seen for trial in p.running}
    # One processor in place of the GPU: one trial at a time, and that which ran before it is forgotten in time.
    assert 1 <= len(shown) <= 3
