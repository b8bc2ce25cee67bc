"""Where a sweep is to run, and which paths and options mean something there."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cluster import dispatch
from cluster.dispatch import Wish, shared_place, shared_places
from cluster.order import Order, job_environment
from cluster.target import ClusterFile, Here, Kubernetes, RayAddress, read_target
from sweeps.reading import read_spec
from tests.cluster.sweep import SPEC


def test_every_form_of_a_target(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("")
    assert read_target(None) == Here()
    assert read_target("kuberay") == Kubernetes()
    assert read_target(str(file)) == ClusterFile(path=file)
    assert read_target("auto") == RayAddress(address="auto")
    assert read_target("http://head:8265/") == RayAddress(address="http://head:8265")


@pytest.mark.parametrize(
    "on", ["head", "head:8265", "ftp://head", "http://", "nowhere.yaml", "http://user:word@head:8265", ""]
)
def test_what_is_no_target_is_refused(on: str) -> None:
    with pytest.raises(ValueError, match=r"--on is .*give http://HEAD:8265"):
        read_target(on)


@pytest.mark.parametrize(
    ("address", "crosses"),
    [
        ("auto", False),
        ("http://127.0.0.1:8265", False),
        ("http://localhost:8265", False),
        ("http://head:8265", True),
        ("https://head", False),
        ("ray://head:10001", True),
    ],
)
def test_a_token_that_leaves_the_machine_in_clear_is_known(address: str, crosses: bool) -> None:
    assert RayAddress(address=address).crosses_a_network is crosses


def test_places_that_all_nodes_see() -> None:
    spec = read_spec(SPEC)
    assert shared_places(Wish(store="/shared/stores/a/"), spec) == ("/shared/stores/a", "/shared/stores/cache")
    wish = Wish(store="s3://bucket/a", cache="/shared/cache")
    assert shared_places(wish, spec) == ("s3://bucket/a", "/shared/cache")
    with pytest.raises(ValueError, match="--cache is missing"):
        shared_places(Wish(store="s3://bucket/a"), spec)
    with pytest.raises(ValueError, match="--cache is 's3://bucket/c', and data and models are read as files"):
        shared_places(Wish(store="s3://bucket/a", cache="s3://bucket/c"), spec)
    for place in ("stores/a", "./a", "~/a", "http://host/a", ""):
        with pytest.raises(ValueError, match="which is no path or URI that is the same on all nodes"):
            shared_place("--store", place, "/shared/a")
    with pytest.raises(ValueError, match="--store is missing, and a cluster does not see this machine's folders"):
        shared_place("--store", None, "/shared/a")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(detach=True), "--detach is given, and means nothing for a launch on this machine"),
        (Wish(on="auto", down=True), "--down is given, and means nothing for --on auto"),
        (Wish(on="auto", dry_run=True), "--dry-run"),
        (Wish(on="auto", image="i"), "--image"),
        (Wish(names=("A",)), "--env"),
        (Wish(max_cost=3.0), "--max-cost is 3 without a price"),
        (Wish(max_gpu_hours=0.0), "--max-gpu-hours is 0"),
        (Wish(on="kuberay", store="/shared/a", dry_run=True), "--image is missing"),
        (Wish(on="http://127.0.0.1:1"), "--store is missing"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_started(wish: Wish, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dispatch.launch(read_spec(SPEC), wish, Console(file=io.StringIO()))


def test_a_path_of_this_machine_is_refused_for_a_job() -> None:
    spec = read_spec(SPEC.replace("data: nano", "data: pairs.jsonl"))
    with pytest.raises(
        ValueError, match=r"data\.source has 'pairs\.jsonl', which is relative to a folder of this machine"
    ):
        dispatch.launch(spec, Wish(on="auto"), Console(file=io.StringIO()))


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path))
    wish = Wish(on="http://127.0.0.1:1", store="/shared/a")
    with pytest.raises(ValueError, match="no Ray answers there: check that it is up, or open a tunnel"):
        dispatch.launch(read_spec(SPEC), wish, Console(file=io.StringIO()))


def test_an_order_arrives_as_it_was_written(tmp_path: Path) -> None:
    wish = Wish(max_cost=3.0, max_gpu_hours=2.0, rates=dispatch.Rates(price_per_hour=1.5))
    order = Order(spec=read_spec(SPEC).to_yaml(), store="/s", cache="/c", bounds=wish.bounds, wait_seconds=5.0)
    order.write(tmp_path)
    assert Order.read(tmp_path) == order
    assert read_spec(Order.read(tmp_path).spec).hash == read_spec(SPEC).hash


def test_a_job_s_environment_has_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(spec="", store="/s", cache="/c")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    found = job_environment(order, ["NCCL_SOCKET_IFNAME"])
    assert found["NCCL_SOCKET_IFNAME"] == "eth0" and found["ISOFLOP_CACHE"] == "/c"
    assert not any(name.startswith(("RAY_AUTH", "AWS")) for name in found)
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "wandb_api_key", "RAY_AUTH_TOKEN"):
        with pytest.raises(ValueError, match="looks like a secret"):
            job_environment(order, [name])
    with pytest.raises(ValueError, match="'NOT_THERE', which is not set here"):
        job_environment(order, ["NOT_THERE"])
