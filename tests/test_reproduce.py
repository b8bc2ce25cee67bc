"""A recorded trial trained again: bit for bit from an honest row, another from a changed one, refused without data."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isoflop
from sweeps.columns import CURVE_SCHEMA, SCHEMA, contradictions, to_row
from sweeps.plan import DataFacts, plan, studies
from sweeps.reading import read_spec
from sweeps.reproduction import Verdict, compare
from sweeps.store import Store
from tests.sweeps.examples import result_of, trial_spec
from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl
from trainer.data import DataSource
from trainer.loop import train
from trainer.prepare import Prepared, prepare
from trainer.result import CheckedLoss, TrialResult, TrialState
from trainer.trial import Placement, TrialFiles, TrialSpec

SPEC = """
name: tiny
data: {{source: {pairs}}}
models: [{model}]
methods: [full, lora: {{rank: 2, alpha: 4}}]
budgets_flops: [2e9]
trials: 1
fixed: {{batch_size: 16, max_length: 16, gradient_clipping: 1}}
search: {{learning_rate: 1e-2, temperature: 0.05, weight_decay: 0.01}}
evaluation: {{num_pairs: 32, num_candidates: 16}}
limits: {{min_steps: 5, max_epochs: 50}}
"""
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, pairs, a model, and a store with one full and one LoRA trial, the full one with weights."""
    folder = tmp_path_factory.mktemp("reproduce")
    save_tokenizer(folder / "model")
    save_decoder(folder / "model")
    write_jsonl(folder / "pairs.jsonl", make_pairs(900))
    (folder / "spec.yaml").write_text(SPEC.format(pairs=folder / "pairs.jsonl", model=folder / "model"))
    spec = read_spec(str(folder / "spec.yaml"))
    [name] = spec.models
    prepared = prepare(
        DataSource(source=spec.data.source),
        [name],
        max_length=16,
        cache=folder / "cache",
        report=lambda *_: None,
    )
    store = Store.create(folder / "store", spec, prepared.to_json())
    for trial in _trials(spec, prepared):
        kept = str(store.weights(trial.trial_id)) if trial.method.kind == "full" else ""
        store.record(_train(prepared, trial, folder, kept))
    return folder


def _trials(spec, prepared: Prepared) -> list[TrialSpec]:  # type: ignore[no-untyped-def]
    shapes = {name: model.shape for name, model in prepared.models.items()}
    facts = DataFacts(num_train_pairs=10**6, tokens_per_pair=prepared.statistics.tokens_per_pair, measured=True)
    revisions = {name: model.revision for name, model in prepared.models.items()}
    found = studies(spec, plan(spec, facts, shapes), data=prepared.manifest.hash, revisions=revisions, shapes=shapes)
    given = {"learning_rate": 1e-2, "temperature": 0.05, "weight_decay": 0.01}
    return [study.trial(0, study.fixed.with_searched(**given)) for study in found]


def _train(prepared: Prepared, trial: TrialSpec, folder: Path, weights: str = "") -> TrialResult:
    model = prepared.models[trial.model]
    files = TrialFiles(
        tokens=model.tokens, model=model.path, checkpoints=str(folder / "ck" / trial.trial_id), weights=weights
    )
    return train(trial, Placement(chunk_tokens=256), files, lambda _: None)


@pytest.fixture
def ask(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    monkeypatch.setenv("ISOFLOP_CACHE", str(home / "cache"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", "reproduce", *words])
        with pytest.raises(SystemExit) as ended:
            isoflop.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def _id(store: Path, kind: str) -> str:
    [trial_id] = [i for i in Store.open(store).trial_ids() if kind in i]
    return trial_id


def _everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_honest_row_is_reproduced_bit_for_bit_and_nothing_is_written(home: Path, ask: Ask, kind: str) -> None:
    store = home / "store"
    before = _everything(store)
    status, out, _ = ask(str(store), "--trial", _id(store, kind), "--json")
    found = json.loads(out)
    assert (status, found["verdict"]) == (0, "bit for bit")
    names = {line["name"] for line in found["compared"]}
    assert {"loss", "accuracy", "tokens", "steps", "booked_flops", "train_loss", "curve, gradient_norm"} <= names
    assert ("weights (SHA-256)" in names) == (kind == "full"), "weights are compared where they were kept"
    assert all(line["same"] for line in found["compared"])
    assert _everything(store) == before


def test_a_row_with_another_learning_rate_is_told_different(home: Path, ask: Ask, tmp_path: Path) -> None:
    """Changed throughout, id and all: only training tells."""
    store = Store.open(shutil.copytree(home / "store", tmp_path / "store"))
    honest = store.read_trial(_id(store.root, "lora"))  # type: ignore[arg-type]
    curve = store.read_curve(honest.spec.trial_id)
    hyperparameters = replace(honest.spec.hyperparameters, learning_rate=2e-2)
    lie = replace(honest, spec=replace(honest.spec, hyperparameters=hyperparameters))
    store.record(lie)
    pq.write_table(
        pa.Table.from_pandas(curve, schema=CURVE_SCHEMA),
        tmp_path / "store" / "curves" / f"{lie.spec.trial_id}.parquet",
    )
    status, out, _ = ask(str(store.root), "--trial", lie.spec.trial_id)
    assert status == 1
    assert "trained again: different. " in out and "curve, learning_rate at step" in out
    assert "nothing excuses it" in out


def test_a_column_that_contradicts_the_spec_is_named(home: Path, ask: Ask, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(home / "store", tmp_path / "store"))
    trial_id = _id(store.root, "full")  # type: ignore[arg-type]
    path = tmp_path / "store" / "trials" / f"{trial_id}.parquet"
    [row] = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"learning_rate": 0.5}], schema=SCHEMA), path)
    status, out, _ = ask(str(store.root), "--trial", trial_id)
    assert status == 1
    assert "contradicts its own spec in learning_rate" in out


def test_versions_that_differ_are_named(home: Path, ask: Ask, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(home / "store", tmp_path / "store"))
    recorded = store.read_trial(_id(store.root, "lora"))  # type: ignore[arg-type]
    versions = json.dumps({**json.loads(recorded.environment.versions), "torch": "1.13.0"})
    old = replace(recorded, environment=replace(recorded.environment, versions=versions))
    pq.write_table(to_row(old), tmp_path / "store" / "trials" / f"{old.spec.trial_id}.parquet")
    status, out, _ = ask(str(store.root), "--trial", old.spec.trial_id)
    assert status == 0
    assert "torch: 1.13.0 in the row, " in out


def test_without_its_data_or_model_a_trial_is_refused(
    home: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, trial = str(home / "store"), _id(home / "store", "full")
    (home / "cache" / "tokens").rename(home / "cache" / "away")
    try:
        status, out, err = ask(store, "--trial", trial)
    finally:
        (home / "cache" / "away").rename(home / "cache" / "tokens")
    assert (status, out) == (2, "")
    assert "was trained on data" in err and "nothing prepared" in err and "isoflop data" in err

    weights = home / "model" / "model.safetensors"
    honest = weights.read_bytes()
    weights.write_bytes(honest[:-4] + b"\0\0\0\1")
    try:
        status, _, err = ask(store, "--trial", trial)
    finally:
        weights.write_bytes(honest)
    assert status == 2 and "revision" in err and len(err.strip().splitlines()) == 1


def test_other_data_under_the_same_name_are_refused(home: Path, ask: Ask, tmp_path: Path) -> None:
    """The store was moved to where other pairs were prepared."""
    store = shutil.copytree(home / "store", tmp_path / "store")
    record = json.loads((store / "prepared.json").read_text())
    record["manifest"]["content"]["train"] = "other"
    (store / "prepared.json").write_text(json.dumps(record))
    status, _, err = ask(str(store), "--trial", _id(store, "full"))
    assert status == 2 and "was trained on data" in err and "here is data" in err


def test_a_failed_trial_is_refused(home: Path, ask: Ask, tmp_path: Path) -> None:
    store = Store.open(shutil.copytree(home / "store", tmp_path / "store"))
    honest = store.read_trial(_id(store.root, "lora"))  # type: ignore[arg-type]
    failed = replace(honest, spec=replace(honest.spec, seed=7), state=TrialState.FAILED, metrics=None, error="broken")
    store.record(failed)
    status, _, err = ask(str(store.root), "--trial", failed.spec.trial_id)
    assert status == 2 and "ended FAILED: choose one of COMPLETE, PRUNED, DIVERGED" in err


def _pair() -> tuple[TrialResult, TrialResult]:
    recorded = replace(result_of(trial_spec()), num_resumes=0, num_out_of_memory=0)
    return recorded, recorded


def _with_loss(result: TrialResult, factor: float) -> TrialResult:
    assert result.metrics is not None and result.train_loss is not None
    metrics = replace(result.metrics, loss=result.metrics.loss * factor)
    return replace(result, metrics=metrics)


@pytest.mark.parametrize(
    ("factor", "dtype", "verdict"),
    [
        (1.0, "float32", Verdict.SAME),
        (1 + 1e-12, "float32", Verdict.ROUNDING),
        (1 + 9e-4, "float32", Verdict.ROUNDING),
        (1 + 2e-3, "float32", Verdict.DIFFERENT),
        (1 + 2e-3, "bfloat16", Verdict.ROUNDING),
        (1 + 1e-6, "float64", Verdict.DIFFERENT),
    ],
)
def test_what_is_called_rounding(factor: float, dtype: str, verdict: Verdict) -> None:
    recorded, again = _pair()
    recorded = replace(recorded, placement=Placement(dtype=dtype))  # type: ignore[arg-type]
    assert compare(recorded, _with_loss(again, factor)).verdict is verdict


def test_another_number_of_tokens_is_no_rounding() -> None:
    recorded, again = _pair()
    fewer = replace(again, spending=replace(again.spending, tokens=again.spending.tokens - 1))
    assert compare(recorded, fewer).verdict is Verdict.DIFFERENT


def test_other_weights_alone_are_rounding_and_a_ruined_rank_is_not() -> None:
    recorded, again = _pair()
    assert compare(recorded, again, weights=("ab", "cd")).verdict is Verdict.ROUNDING
    assert recorded.metrics is not None
    worse = replace(again, metrics=replace(recorded.metrics, accuracy=recorded.metrics.accuracy / 2))
    assert compare(recorded, worse).verdict is Verdict.DIFFERENT


def test_a_diverged_trial_is_compared_by_where_it_diverged() -> None:
    recorded = result_of(trial_spec(), state=TrialState.DIVERGED)
    last = replace(recorded.curve[-1], train_loss=math.nan)
    recorded = replace(recorded, curve=(*recorded.curve[:-1], last))
    assert compare(recorded, recorded).verdict is Verdict.SAME
    later = replace(recorded, spending=replace(recorded.spending, steps=recorded.spending.steps + 1))
    assert compare(recorded, later).verdict is Verdict.DIFFERENT


def test_what_excuses_a_difference_is_said() -> None:
    recorded, again = _pair()
    moved = _with_loss(again, 1 + 1e-6)
    assert "nothing excuses it" in compare(recorded, moved).sentences()[-1]
    smaller = replace(recorded, num_out_of_memory=1)
    assert "ran out of memory" in compare(smaller, moved).sentences()[-1]
    elsewhere = replace(moved, environment=replace(moved.environment, device="cpu arm64"))
    assert "device: cpu in the row, cpu arm64 here." in compare(recorded, elsewhere).sentences()


def test_what_was_written_contradicts_nothing() -> None:
    [row] = to_row(result_of(trial_spec())).to_pylist()
    assert contradictions(row) == ()
    assert contradictions(row | {"temperature": 0.06, "budget_flops": 1.0}) == ("budget_flops", "temperature")


def test_losses_on_the_way_are_compared() -> None:
    recorded = replace(result_of(trial_spec()), checked=(CheckedLoss(share=0.25, loss=4.0),))
    assert compare(recorded, recorded).verdict is Verdict.SAME
    moved = compare(recorded, replace(recorded, checked=(CheckedLoss(share=0.25, loss=4.1),)))
    assert [line.name for line in moved.lines if not line.is_same] == ["loss at 0.25 of the budget"]
    assert moved.verdict is Verdict.DIFFERENT
    assert compare(recorded, replace(recorded, checked=())).verdict is Verdict.DIFFERENT
