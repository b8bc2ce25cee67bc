"""The paper's tasks from a loopback Hub: real names, commits and layouts, made-up rows; then the same without a Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import LoopbackHub
from tests.mteb_hub import FAST, TASKS, compressed, write_tasks
from trainer.task_data import load
from trainer.tasks import PAPER15, make_task, revision_of

DEAD_ENDPOINT = "http://127.0.0.1:9"
SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import torch
from tests.scored import scored_store
from tests.trainer.test_scoring import opened
from trainer.scoring import score
from trainer.tasks import fetch, make_task
torch.set_num_threads(1)
how, folder, *names = sys.argv[1:]
if how == "fetch":
    fetch(names, lambda *_: None)
elif how == "newest":
    from datasets import load_dataset
    print(json.dumps([load_dataset(name)["test"][0] for name in names]))
else:
    store = scored_store(Path(folder), seeds=(1,))
    model = opened(store, min(store.trial_ids()))
    print(json.dumps([asdict(score(model, make_task(name))) for name in names]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    write_tasks(root / "datasets")
    with LoopbackHub(root) as running:
        yield running


def run(
    how: str, folder: Path, home: Path, endpoint: str, names: tuple[str, ...], **more: str
) -> list[dict[str, object]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **more}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(folder), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [] if how == "fetch" else json.loads(done.stdout.splitlines()[-1])


def fetched_and_scored(hub: LoopbackHub, tmp_path: Path, names: tuple[str, ...]) -> list[dict[str, object]]:
    """Scores without a Hub, after the data were fetched; the Hub is asked for the pinned commits and nothing later."""
    home = tmp_path / "home"
    hub.requests.clear()
    run("fetch", tmp_path, home, hub.url, names)
    for name in names:
        assert any(revision_of(name) in path for _, path in hub.requests), name
    num_requests = len(hub.requests)
    scores = run("score", tmp_path / "one", home, DEAD_ENDPOINT, names, HF_HUB_OFFLINE="1")
    assert len(hub.requests) == num_requests
    return scores


def check(scores: list[dict[str, object]], names: tuple[str, ...]) -> None:
    assert [score["task"] for score in scores] == list(names)
    assert {score["task"]: score["task_type"] for score in scores} == {name: TASKS[name] for name in names}
    assert {score["task"]: score["dataset_revision"] for score in scores} == {name: revision_of(name) for name in names}
    for score in scores:
        # Even noise knows words that two texts share; and no main metric is at its limit.
        assert isinstance(score["score"], float) and 0.05 < score["score"] < 0.999, score["task"]
        metrics = json.loads(str(score["metrics"]))
        assert list(metrics) == ["test"] and len(metrics["test"]) == 1, "one split, one subset"
        assert metrics["test"][0]["hf_subset"] in ("default", "en")


def test_two_types_are_evaluated_without_a_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    check(fetched_and_scored(hub, tmp_path, FAST), FAST)


@pytest.mark.slow
def test_every_type_of_the_papers_list_online_and_offline(hub: LoopbackHub, tmp_path: Path) -> None:
    names = tuple(TASKS)
    assert {TASKS[name] for name in names} == {pinned.kind for pinned in PAPER15}
    scores = fetched_and_scored(hub, tmp_path, names)
    check(scores, names)
    online = run("score", tmp_path / "two", tmp_path / "home of another", hub.url, names)
    for there, here in zip(online, scores, strict=True):
        assert {**there, "seconds": 0} == {**here, "seconds": 0}


@pytest.mark.slow
def test_what_another_has_cached_since_is_not_taken_for_the_pinned_commit(tmp_path: Path) -> None:
    """``datasets`` takes what it has cached last where there is no connection, whatever revision is asked for."""
    home, names = tmp_path / "home", ("BIOSSES",)
    write_tasks(tmp_path / "datasets")
    with LoopbackHub(tmp_path) as hub:
        before = fetched_and_scored(hub, tmp_path, names)
        newer = [{"sentence1": "newer", "sentence2": "rows", "score": float(i % 5)} for i in range(20)]
        compressed(tmp_path / "datasets" / "mteb" / "biosses-sts" / "test.jsonl.gz", newer)
        [row] = run("newest", tmp_path, home, hub.url, ("mteb/biosses-sts",))
        assert row["sentence1"] == "newer"
    after = run("score", tmp_path / "again", home, DEAD_ENDPOINT, names, HF_HUB_OFFLINE="1")
    assert {**after[0], "seconds": 0} == {**before[0], "seconds": 0}


def test_a_cache_with_a_file_missing_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    revision = revision_of("BIOSSES")
    repository = tmp_path / "datasets--mteb--biosses-sts"
    data = repository / "snapshots" / revision / "test.jsonl.gz"
    compressed(data, [{"sentence1": "a b", "sentence2": "c", "score": 1.0}])
    record = {"commit": revision, "files": {"test.jsonl.gz": data.stat().st_size}}
    (repository / f"isoflop-{revision}.json").write_text(json.dumps(record))
    task = make_task("BIOSSES")
    load(task)
    assert task.dataset["test"]["sentence2"][:] == ["c"] and task.metadata.dataset["path"] == "mteb/biosses-sts"
    data.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="isoflop evaluate --prefetch"):
        load(make_task("BIOSSES"))


def test_what_was_not_fetched_is_one_sentence(hub: LoopbackHub, tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": DEAD_ENDPOINT, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    script = "from trainer.task_data import load; from trainer.tasks import make_task; load(make_task('BIOSSES'))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("ValueError: task BIOSSES needs 'mteb/biosses-sts' at d3fb88f8f02e, which is not in")
        and "--prefetch" in last
    )
