"""The decision's commands, from the command line to a sweep that can be launched."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import isoflop
from cluster.answers import write_report_of
from sweeps.columns import SCHEMA
from sweeps.plan import DataFacts, plan
from sweeps.reading import read_spec
from sweeps.score_row import ScoreRow
from sweeps.scores import write_score
from sweeps.store import Store
from tests.analysis.law_rows import parabola_law
from tests.cluster.fake import train
from tests.cluster.sweep import filled_store, make_world, prepared_for, studies_of
from trainer.ladder import SHAPES
from trainer.trial import Placement, TrialFiles

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled_store(tmp_path / "stores" / "fake", make_world(tmp_path / "world", seconds=0.0))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ask:
    """Call a command on the store ``fake``: its exit status, and what it wrote."""
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(verb: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", verb, "fake", *arguments])
        with pytest.raises(SystemExit) as ended:
            isoflop.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def ask(store: Store, call: Ask) -> Ask:
    return call


@pytest.fixture
def ask_lawful(lawful: Store, call: Ask) -> Ask:
    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gpu-hours", "1e-9", "--device", "H100"),
        ("--money", "2e-9", "--price", "2", "--device", "H100"),
        ("--gpu-hours", "1e-9", "--device", "H100", "--mfu", "0.35"),
    ],
)
def test_hours_and_money_are_a_budget(ask: Ask, arguments: tuple[str, ...]) -> None:
    status, out, _ = ask("recommend", *arguments, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["budget_flops"] == pytest.approx(1e-9 * 3600 * 989e12 * 0.35, rel=1e-6)
    assert found["hardware"]["gpu_hours"] == pytest.approx(1e-9, rel=1e-6)


def test_a_life_is_told_in_words_and_json(ask: Ask) -> None:
    served = ("--budget", "4e9", "--queries", "1000", "--documents", "2000", "--reembed", "1", "--months", "3")
    _, out, _ = ask("recommend", *served)
    assert "Served over 3 months: 3,000 queries" in out
    life = json.loads(ask("recommend", *served, "--json")[1])["lifetime"]
    assert (life["num_queries"], life["num_document_embeddings"]) == (3000, 4000)
    assert life["recommended"]["index_bytes"] == 2000 * 8 * 4
    assert json.loads(ask("recommend", "--budget", "4e9", "--json")[1])["lifetime"] is None


def test_the_emitted_sweep_is_one_planned_cell(ask: Ask, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    status, out, _ = ask("recommend", "--budget", "4e9", "--emit", str(path))
    assert status == 0 and f"sweep: {path}" in out
    spec = read_spec(path)
    found = json.loads(ask("recommend", "--budget", "4e9", "--json")[1])
    planned = plan(spec, DataFacts(num_train_pairs=1000, tokens_per_pair=49.0, measured=True), SHAPES)
    assert [(c.cell.model, c.cell.method.label, c.cell.budget_flops) for c in planned.cells] == [
        (found["model"], found["method"], 4_000_000_000)
    ]
    assert spec.data == store.spec.data
    before = path.read_text()
    status, _, err = ask("recommend", "--budget", "1e9", "--emit", str(path))
    assert (status, path.read_text()) == (2, before)
    assert "--emit" in err and "give another file" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no budget is given"),
        (("--budget", "1e9", "--gpu-hours", "1", "--device", "H100"), "--budget and --gpu-hours are given"),
        (("--gpu-hours", "1"), "--gpu-hours is 1 without a device"),
        (("--budget", "1e9", "--price", "2"), "--price or --mfu is given without a device"),
        (("--budget", "1e9", "--device", "abacus"), "--device is 'abacus'"),
        (("--budget", "1e9", "--max-params", "3"), "--max-params 3 leaves no model"),
        (("--budget", "1e9", "--max-latency", "3"), "--max-latency is 3 without a device"),
        (("--budget", "1e9", "--reembed", "3"), "nothing is served"),
        (("--budget", "1e9", "--emit", "nowhere/one.yaml"), "give a file in a folder that is there"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(ask: Ask, arguments: tuple[str, ...], words: str) -> None:
    if not arguments:
        arguments = ("--json",)
    status, out, err = ask("recommend", *arguments)
    assert (status, out) == (2, "")
    assert words in err and len(err.strip().splitlines()) == 1


def test_next_says_why_it_cannot(ask: Ask) -> None:
    # One model: a store that has no law of the size.
    status, out, err = ask("next", "--flops", "1e10")
    assert (status, out) == (2, "")
    assert "no method has laws of size and loss yet" in err
    assert ask("next", "--flops", "0")[0] == 2
    assert ask("next", "--flops", "1e10", "--of", "speed")[0] == 2


LADDER = """
name: fake
data: nano
models: [nano-1k, nano-3k, nano-7k, nano-14k, nano-25k, nano-85k]
methods: [full]
budgets_flops: [4e10, 1.2e11, 3.6e11]
trials: 1
fixed: {batch_size: 64}
search: {learning_rate: 0.01}
"""


@pytest.fixture
def lawful(tmp_path: Path) -> Store:
    """A store whose losses follow a law with optima inside the grid."""
    spec, world, loss = read_spec(LADDER), make_world(tmp_path / "world", seconds=0.0), parabola_law()
    store = Store.create(tmp_path / "stores" / "fake", spec, prepared_for(spec, world).to_json())
    for study in studies_of(spec):
        trial = study.trial(0, spec.fixed.with_searched(learning_rate=0.01, temperature=0.025, weight_decay=0.1))
        files = TrialFiles(tokens=str(world), model=trial.model, checkpoints=str(store.checkpoints(trial.trial_id)))
        result = train(trial, Placement(), files, lambda _: None)
        assert result.metrics is not None
        metrics = replace(result.metrics, loss=loss(trial.method, trial.budget_flops, SHAPES[trial.model]))
        store.record(replace(result, metrics=metrics))
    return store


@pytest.mark.parametrize("of", ["loss", "size"])
def test_next_names_cells_that_tell_more(lawful: Store, ask_lawful: Ask, of: str) -> None:
    status, out, _ = ask_lawful("next", "--flops", "1e12", "--of", of, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["quantity"], found["target_budget_flops"]) == (of, 720_000_000_000)
    assert 0 < found["flops"] <= 1e12
    assert found["relative_sd_after"] < found["relative_sd_before"]
    assert {cell["model"] for cell in found["cells"]} <= set(lawful.spec.models)
    words = ask_lawful("next", "--flops", "1e12", "--of", of, "--budget", "1e12")[1]
    assert "at 1.0e12 FLOPs is known to" in words


def test_a_store_with_laws_is_decided_in_full(lawful: Store, ask_lawful: Ask) -> None:
    found = json.loads(
        ask_lawful("recommend", "--budget", "1e12", "--queries", "1e7", "--max-width", "24", "--json")[1]
    )
    assert found["model"] == "nano-14k"
    assert [bite["kind"] for bite in found["bites"]][:2] == ["max_width", "largest_model"]
    assert [one["model"] for one in found["alternatives"]] == ["nano-7k"]
    assert found["lifetime"]["optimum"]["loss"] <= found["loss"]
    assert all(option["embedding_width"] <= 24 for option in found["lifetime"]["front"])


def test_the_columns_that_hardware_is_measured_by_are_the_store_s() -> None:
    assert {"mfu", "device", "dtype", "placement", "state"} <= set(SCHEMA.names)


def test_the_emitted_sweep_s_report_shows_foretold_beside_measured(
    lawful: Store, ask_lawful: Ask, tmp_path: Path
) -> None:
    path = tmp_path / "one.yaml"
    assert ask_lawful("recommend", "--budget", "1e12", "--emit", str(path))[0] == 0
    foretold = json.loads(ask_lawful("recommend", "--budget", "1e12", "--json")[1])
    # The one cell runs: the stand-in trains it, and the law that the store followed says its loss.
    spec, world, loss = read_spec(path), tmp_path / "world", parabola_law()
    ran = Store.create(tmp_path / "stores" / spec.name, spec, prepared_for(spec, world).to_json())
    [study] = studies_of(spec)
    space = {name: dimension.value for name, dimension in study.space.dimensions.items()}  # type: ignore[union-attr]
    trial = study.trial(0, spec.fixed.with_searched(**space))
    files = TrialFiles(tokens=str(world), model=trial.model, checkpoints=str(ran.checkpoints(trial.trial_id)))
    result = train(trial, Placement(), files, lambda _: None)
    assert result.metrics is not None
    measured = loss(trial.method, trial.budget_flops, SHAPES[trial.model])
    ran.record(replace(result, metrics=replace(result.metrics, loss=measured)))
    page = write_report_of(ran, None)
    [line] = pd.read_csv(page.parent / "figures" / "expected.csv").to_dict("records")
    assert line["predicted"] == pytest.approx(foretold["loss"])
    assert line["measured"] == pytest.approx(measured)
    assert line["trial_ids"] == trial.trial_id
    # Without noise the law foretells its own loss.
    assert line["predicted"] == pytest.approx(measured, rel=0.02)
    assert f"Sweep fake foretold a loss of {foretold['loss']:.3f}" in page.read_text()


def _score(store: Store, trial_id: str, task: str, score: float) -> None:
    row = ScoreRow(
        trial_id=trial_id,
        task=task,
        task_type="Retrieval",
        score=score,
        main_metric="ndcg_at_10",
        metrics="{}",
        dataset_revision="r",
        mteb_version="2",
        weights_hash="w",
        seconds=1.0,
        finished_at="2026-11-22T10:00:00+00:00",
    )
    write_score(store, row)


def test_what_a_loss_is_worth_is_told_where_trials_have_scores(lawful: Store, ask_lawful: Ask) -> None:
    assert json.loads(ask_lawful("recommend", "--budget", "1e12", "--json")[1])["expected_score"] is None
    rows = lawful.read_trials()
    for trial_id, loss in zip(rows["trial_id"], rows["loss"], strict=True):
        _score(lawful, trial_id, "A", 0.1 + 2 * math.exp(-0.5 * loss))
        _score(lawful, trial_id, "B", 0.1 + 2 * math.exp(-0.5 * loss))
    status, out, _ = ask_lawful("recommend", "--budget", "1e12", "--json")
    found = json.loads(out)
    expected = found["expected_score"]
    assert status == 0 and expected["task"] == "mean of all tasks"
    assert expected["score"] == pytest.approx(0.1 + 2 * math.exp(-0.5 * found["loss"]), abs=0.02)
    # The link is exact, so what is open is what the loss leaves open.
    low, high = (0.1 + 2 * math.exp(-0.5 * end) for end in reversed(found["loss_interval"]))
    assert expected["interval"] == pytest.approx([low, high], abs=0.05)
    assert "expect a mean evaluation score of" in ask_lawful("recommend", "--budget", "1e12")[1]


def test_one_scored_trial_foretells_no_score(lawful: Store, ask_lawful: Ask) -> None:
    _score(lawful, min(lawful.trial_ids()), "A", 0.5)
    status, out, _ = ask_lawful("recommend", "--budget", "1e12")
    assert status == 0 and "No score can be foretold: 1 scored trial is too few for a curve." in out
