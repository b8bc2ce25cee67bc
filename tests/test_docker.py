"""The containers: what the image is made of, how a node starts, and, where an engine runs, a cluster at work."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
COMPOSE = (ROOT / "docker/compose.yml").read_text()
SPEC = """
name: contained
data: {source: nano}
models: [nano-3k]
methods: [full]
budgets_flops: [4e10]
trials: 4
search: {learning_rate: {of: pretraining, low: 0.5, high: 2.0}, lag: 4}
fixed: {batch_size: 32, max_length: 32}
evaluation: {num_pairs: 256, num_candidates: 64}
limits: {min_steps: 5, max_epochs: 80}
"""
COMPARED = ["trial_id", "state", "learning_rate", "booked_flops", "steps", "loss", "train_loss"]
ROWS = f"""
import glob, json, sys
import pandas as pd
files = sorted(glob.glob(sys.argv[1] + "/trials/*.parquet"))
print(pd.concat(map(pd.read_parquet, files))[{COMPARED}].to_json(orient="records", double_precision=15))
"""
CHECKPOINTS = """
import json, pathlib, sys
newest = {}
for record in pathlib.Path(sys.argv[1], "checkpoints").glob("*/step-*/record.json"):
    trial = record.parts[-3]
    newest[trial] = max(newest.get(trial, 0), record.stat().st_mtime)
print(json.dumps(newest))
"""
REACH = "import socket, sys; socket.create_connection((sys.argv[1], 443), timeout=5)"
PATIENCE_SECONDS = 900


def copied(stage: str) -> set[str]:
    """What a stage of the Dockerfile copies out of the repository."""
    lines = stage.splitlines()
    words = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from=" not in line]
    return {word for line in words for word in line if not word.startswith("--")}


def test_the_image_has_every_package_and_the_builder_is_given_it() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    needed = {package.split(".")[0] for package in setuptools["packages"]}
    needed |= {f"{module}.py" for module in setuptools["py-modules"]}
    stages = [
        copied(stage) for stage in DOCKERFILE.split("\nFROM ") if " AS cpu-build" in stage or " AS gpu-build" in stage
    ]
    assert len(stages) == 2
    for stage in stages:
        assert stage >= needed | {"pyproject.toml", "constraints.txt"}
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert admitted == copied(DOCKERFILE)
    assert all((ROOT / path).exists() for path in admitted)


def test_the_gpu_image_has_the_cuda_that_torch_was_built_with() -> None:
    """DeepSpeed's operators are compiled with the image's compiler, against torch."""
    versions = {part.split("-")[0].rsplit(".", 1)[0] for part in DOCKERFILE.split("nvidia/cuda:")[1:]}
    indexes = {part.split()[0] for part in DOCKERFILE.split("download.pytorch.org/whl/cu")[1:]}
    assert len(versions) == 1
    assert indexes == {versions.pop().replace(".", "")}


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., list[str]]:
    """``docker/node`` with a stand-in for ``ray`` that says what it was asked for."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    token = tmp_path / "token"
    token.write_text("secret")

    def started(*command: str, **environment: str) -> list[str]:
        given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_AUTH_TOKEN_PATH": str(token), **environment}
        done = subprocess.run([str(ROOT / "docker/node"), *command], env=given, capture_output=True, text=True)
        return done.stdout.splitlines() if done.returncode == 0 else [done.stderr]

    return started


def test_a_node_starts_as_head_or_worker_with_the_processors_it_is_told(node: Callable[..., list[str]]) -> None:
    head = node("head", NODE_ADDRESS="172.28.77.2", NODE_CPUS="0")
    assert {"--head", "--block", "--node-ip-address=172.28.77.2", "--num-cpus=0"} < set(head)
    worker = node("worker", "head:6379", NODE_CPUS="")
    assert {"--block", "--address=head:6379"} < set(worker)
    assert not [word for word in worker if "head" in word.split("=")[0] or "cpus" in word]
    assert node("printf", "%s\n", "other") == ["other"]


def test_a_node_without_its_token_or_its_head_does_not_start(node: Callable[..., list[str]]) -> None:
    assert "give the container the token file" in node("head", RAY_AUTH_TOKEN_PATH="")[0]
    assert "/nowhere cannot be read" in node("worker", "head:6379", RAY_AUTH_TOKEN_PATH="/nowhere")[0]
    assert "give the head address" in node("worker")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Containers:
    """A head and two workers."""

    command: tuple[str, ...]
    environment: dict[str, str]
    token: str

    def compose(self, *arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            [*self.command, *arguments], env=self.environment, capture_output=True, text=True, input=given
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def inside(self, *command: str, service: str = "head") -> str:
        return self.compose("exec", "-T", service, *command)

    def launch(self, store: str) -> subprocess.Popen[str]:
        launch = ("isoflop", "launch", "/stores/spec.yaml", "--on", "auto", "--store", store)
        return subprocess.Popen([*self.command, "exec", "-T", "head", *launch], env=self.environment, text=True)

    def rows(self, store: str) -> pd.DataFrame:
        found = pd.DataFrame(json.loads(self.inside("python", "-c", ROWS, store)))
        return found.sort_values("trial_id", ignore_index=True)

    def checkpoints(self, store: str) -> dict[str, float]:
        """When each trial that has begun wrote its newest checkpoint."""
        found: dict[str, float] = json.loads(self.inside("python", "-c", CHECKPOINTS, store))
        return found

    def workers(self) -> list[str]:
        return self.compose("ps", "--quiet", "worker").split()


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def compose_program() -> tuple[str, ...]:
    """Compose, where it and an engine are there; else the test is skipped with the reason."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers: start one, or set DOCKER_HOST")
    for program in (("docker", "compose"), ("docker-compose",)):
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*program, "version"], capture_output=True).returncode == 0:
                return program
    pytest.skip("neither docker compose nor docker-compose is installed")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """The cluster that compose.yml describes, under a name, with secrets and at a port of the test's own."""
    program = compose_program()
    folder = tmp_path_factory.mktemp("containers")
    (folder / "secrets").mkdir()
    (folder / "secrets/grafana").touch()  # Compose asks for the secrets of services that are not started, too
    token = folder / "secrets/ray-token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.chown(token, 1000, -1)
    own = COMPOSE.replace("name: isoflop\n", "", 1).replace("127.0.0.1:8265:8265", "127.0.0.1::8265", 1)
    own = own.replace("file: secrets/", f"file: {folder}/secrets/")
    (folder / "compose.yml").write_text(own)
    project = f"isoflop-{secrets.token_hex(3)}"
    command = (*program, "--file", f"{folder}/compose.yml", "--project-directory", f"{ROOT}/docker")
    environment = {**os.environ, "NODE_CPUS": "1", "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"}
    cluster = Containers(
        command=(*command, "--project-name", project), environment=environment, token=token.read_text()
    )
    try:
        cluster.compose("up", "--build", "--detach", "head", "worker")
        wait_for(lambda: all(state(worker, "Health.Status") == "healthy" for worker in cluster.workers()), "health")
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "5")


def state(container: str, field: str) -> str:
    return docker("inspect", "--format", f"{{{{.State.{field}}}}}", container)


def wait_for(what: Callable[[], bool], meaning: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"never came: {meaning}"
        time.sleep(1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_containers_have_no_rights_no_way_out_and_ask_for_the_token(containers: Containers) -> None:
    outside = socket.gethostbyname("pypi.org")
    for service in ("head", "worker"):
        status = containers.inside("cat", "/proc/1/status", service=service).splitlines()
        granted = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        assert int(granted["CapBnd"], 16) == 0
        assert granted["NoNewPrivs"] == "1"
        assert "0" not in granted["Uid"].split()
        with pytest.raises(AssertionError, match=r"timed out|[Uu]nreachable"):
            containers.inside("python", "-c", REACH, outside, service=service)
    published = containers.compose("port", "head", "8265")
    assert published.startswith("127.0.0.1:")
    jobs = f"http://{published}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(jobs, timeout=30)
    asked = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {containers.token}"})
    assert urllib.request.urlopen(asked, timeout=30).status == 200
    assert containers.token not in containers.compose("logs", "--no-color")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_workers_that_are_stopped_and_killed_lose_nothing(containers: Containers) -> None:
    containers.compose("exec", "-T", "head", "sh", "-c", "cat > /stores/spec.yaml", given=SPEC)
    assert containers.launch("/stores/whole").wait(timeout=PATIENCE_SECONDS) == 0
    whole = containers.rows("/stores/whole")
    assert list(whole["state"]) == ["COMPLETE"] * 4

    store, workers = "/stores/disturbed", containers.workers()
    sweep = containers.launch(store)
    wait_for(lambda: len(containers.checkpoints(store)) >= 2, "checkpoints of two trials")
    stopped_at = time.time()
    docker("stop", "--time", "45", *workers)
    left = containers.checkpoints(store)
    assert left
    assert min(left.values()) >= stopped_at, "a trial was not told that its machine goes"

    docker("start", *workers)
    wait_for(lambda: max(containers.checkpoints(store).values()) > max(left.values()), "trials that go on")
    docker("kill", workers[0])
    docker("start", workers[0])
    assert sweep.wait(timeout=PATIENCE_SECONDS) == 0
    pd.testing.assert_frame_equal(containers.rows(store), whole, check_exact=True)
