"""The speed benchmarks run, write what docs/speed.md says they write, and give no figure for a wrong trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu, trainers
from benchmarks.contestants import Batch, Contestant, DisagreementError, Shared, bge_batch, check, contestants, share
from trainer.encoder import Encoder
from trainer.ladder import SHAPES
from trainer.trial import Full

DOCS = Path(__file__).parent.parent / "docs" / "speed.md"
NANO = SHAPES["nano-1k"]


@pytest.fixture(autouse=True)
def as_many_threads_after_as_before() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shared() -> Shared:
    return share(NANO, Full(), "cpu")


@pytest.fixture(scope="module")
def entrants(shared: Shared) -> tuple[Contestant, ...]:
    return contestants(shared, chunk_tokens=128, large_chunk_tokens=16384)


def documented_fields(file: str) -> set[str]:
    """The first column of the table under the heading that names ``file``."""
    section = DOCS.read_text().split(f"`{file}`:")[1].split("\n## ")[0].split("\n### ")[0]
    return {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}


def fields(record: Any, path: str = "") -> set[str]:
    """Dotted names of the leaves; elements of a list share their names. A median with its range is one leaf."""
    match record:
        case {"median": _, "low": _, "high": _}:
            return {path}
        case dict():
            return {name for key, value in record.items() for name in fields(value, f"{path}.{key}".strip("."))}
        case list():
            return {name for value in record for name in fields(value, path)}
    return {path}


def test_trainers_writes_what_the_docs_say(tmp_path: Path) -> None:
    file = tmp_path / "trainers.json"
    trainers.main(["--quick", "--output", str(file)])
    records = json.loads(file.read_text())
    assert fields(records) == documented_fields("trainers.json")
    assert {row["contestant"] for row in records[0]["seconds"]} == {
        "paper",
        "paper, one pass",
        "ST cached",
        "ST, one pass",
        "ours, recompute",
        "ours",
    }
    assert records[0]["largest_difference"]["embedding"] < 1e-5


def test_a_setting_measured_again_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    file = tmp_path / "trainers.json"
    for setting in ("14m", "70m", "14m"):
        trainers.keep({"model": setting, "method": "full", "num_pairs": 2}, file)
    assert [record["model"] for record in json.loads(file.read_text())] == ["70m", "14m"]


def test_gpu_writes_what_the_docs_say_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--quick", "--output", str(file)])
    records = json.loads(file.read_text())
    assert fields(records) == documented_fields("gpu.json")
    assert [record["method"] for record in records] == ["full", "freeze-0.5", "bias", "lora-r32"]
    for record in records:
        assert [row["contestant"] for row in record["contestants"] if row["fits"]] == [
            "ST cached",
            "ST, one pass",
            "ours, recompute",
            "ours",
        ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [[], ["--quick"], ["--device", "cpu"]])
def test_gpu_refuses_in_one_sentence_without_a_gpu(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="--quick") as refused:
        gpu.main(arguments)
    assert "\n" not in str(refused.value)


def test_gpu_drops_a_trainer_that_does_not_fit(shared: Shared, entrants: tuple[Contestant, ...]) -> None:
    def too_large(batch: Batch) -> Tensor:
        raise torch.OutOfMemoryError

    greedy = replace(entrants[0], name="greedy", backward=too_large)
    optimizer = torch.optim.SGD(shared.trained, lr=0.0)
    steps = gpu.measure([greedy, entrants[-1]], shared, optimizer, bge_batch(4, NANO.vocab_size), repeats=2)
    assert [len(steps[name].seconds) for name in ("greedy", "ours")] == [0, 2]


def test_the_batch_has_the_lengths_of_the_papers_data() -> None:
    batch = bge_batch(20_000, 4096)
    mean = [sum(map(len, side)) / len(side) for side in (batch.queries, batch.positives)]
    assert mean == pytest.approx([14, 64], abs=0.5)
    assert max(map(len, batch.positives)) == 75


def last_token(shared: Shared, entrant: Contestant) -> Contestant:
    pooled = replace(shared, encoder=Encoder(shared.encoder.backbone, "last"))
    return contestants(pooled, chunk_tokens=128, large_chunk_tokens=16384)[-1]


def one_negative_less(shared: Shared, entrant: Contestant) -> Contestant:
    return replace(
        entrant,
        backward=lambda batch: entrant.backward(Batch(queries=batch.queries[1:], positives=batch.positives[1:])),
    )


def gradient_twice(shared: Shared, entrant: Contestant) -> Contestant:
    def backward(batch: Batch) -> Tensor:
        entrant.backward(batch)
        return entrant.backward(batch)

    return replace(entrant, backward=backward)


def no_gradient_of_the_embedding(shared: Shared, entrant: Contestant) -> Contestant:
    def backward(batch: Batch) -> Tensor:
        loss = entrant.backward(batch)
        shared.encoder.backbone.get_input_embeddings().weight.grad = None
        return loss

    return replace(entrant, backward=backward)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (last_token, "embedding"),
        (one_negative_less, "loss"),
        (gradient_twice, "gradient"),
        (no_gradient_of_the_embedding, "gradient"),
    ],
)
def test_a_wrong_trainer_is_found_out(
    shared: Shared,
    entrants: tuple[Contestant, ...],
    wrong: Callable[[Shared, Contestant], Contestant],
    what: str,
) -> None:
    batch = bge_batch(12, NANO.vocab_size)
    check(entrants, shared, batch)
    with pytest.raises(DisagreementError, match=f"its {what} differs"):
        check([*entrants, wrong(shared, entrants[-1])], shared, batch)


def test_no_ratio_is_given_where_a_trainer_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_wrong_one(shared: Shared, **budgets: int) -> tuple[Contestant, ...]:
        *others, last = contestants(shared, **budgets)
        return (*others, gradient_twice(shared, last))

    monkeypatch.setattr(trainers, "contestants", with_a_wrong_one)
    with pytest.raises(SystemExit, match="no ratio of their times is given"):
        trainers.main(["--quick", "--output", str(tmp_path / "trainers.json")])
    assert not (tmp_path / "trainers.json").exists()
