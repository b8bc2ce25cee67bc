"""The reproducibility sheet: all that is needed is in it, the same text every time, and nothing in it is markup."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.paper import card_of
from sweeps.document import Code, Section, Table, to_latex, to_markdown
from sweeps.reading import read_spec
from sweeps.score_row import ScoreRow
from sweeps.scores import write_score
from sweeps.store import Store
from tests.cluster.sweep import SPEC, filled_store, make_world
from trainer.result import TrialState

WIDE = SPEC.replace("budgets_flops: [1e9, 4e9]", "budgets_flops: [1e3, 1e9, 4e9]").replace(
    "min_steps: 0", "min_steps: 2"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve trials, one of them diverged; the smallest budget is left out."""
    world = make_world(tmp_path / "world", seconds=0.0, faults={"bias/2": "diverge"})
    return filled_store(tmp_path / "store", world, WIDE)


def cells_of(text: str, heading: str) -> list[list[str]]:
    """The lines of the first table under a heading."""
    part = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_it_says_what_a_reader_needs(store: Store) -> None:
    text = card_of(store, latex=False)
    rows = store.read_trials()
    done = rows[rows["state"] == "COMPLETE"]
    assert store.spec.hash in text
    assert json.loads(store.prepared)["models"]["nano-1k"]["revision"] in text
    assert set(rows["data"]).pop() in text
    best = cells_of(text, "Best trial of every cell")[:4]
    for budget, method in (("1.0e9", "full"), ("4.0e9", "bias")):
        own = done[(done["budget_flops"] == float(budget)) & (done["method"] == method)].sort_values("loss").iloc[0]
        [line] = [line for line in best if line[:2] == [budget, method]]
        assert line[3] == own["trial_id"][-12:]
        assert line[5] == f"{own['loss']:.4f}"
        assert line[7] == f"{own['learning_rate']:.4g}"
        assert own["trial_id"].replace("_", "\\_") in text
    assert "0.0001 to 0.1" in text, "the searched range"
    assert cells_of(text, "Trials by ending")[-1] == ["all", "all", "10", "0", "2", "0", "12"]
    assert {line[0] for line in cells_of(text, "What did not complete")} == {"DIVERGED"}
    assert "gradient norm nan" in text
    assert len(cells_of(text, "What was left out")) == 2, "the two cells of the smallest budget"
    [_, total] = cells_of(text, "Hardware and compute")[:2]
    assert float(total[3]) == pytest.approx(rows["device_seconds"].sum() / 3600, rel=1e-3)
    assert float(total[4]) == pytest.approx(rows["booked_flops"].sum(), rel=1e-5)
    assert f"isoflop reproduce STORE --trial {done.sort_values('loss')['trial_id'].iloc[0]}" in text
    yaml = text.split("```yaml\n")[1].split("```")[0]
    assert read_spec(yaml) == store.spec


def test_the_same_store_gives_the_same_text_wherever_it_lies(store: Store, tmp_path: Path) -> None:
    text = card_of(store, latex=False)
    moved = store.root.rename(tmp_path / "elsewhere")  # type: ignore[union-attr]
    assert card_of(Store.open(moved), latex=False) == text
    assert str(tmp_path) not in text


def test_seconds_of_trials_without_a_row_are_told(store: Store) -> None:
    recorded = min(store.trial_ids())
    store.write_unrecorded({recorded: 7200.0, "gone": 3600.0})
    assert "Trials that have no row have used 1 device hours more." in card_of(store, latex=False)


def test_scores_are_in_it_where_there_are_any(store: Store) -> None:
    first, second, *_ = sorted(store.trial_ids())
    for trial_id, score in ((first, 0.25), (second, 0.5)):
        row = ScoreRow(
            trial_id=trial_id,
            task="NanoTask",
            task_type="Retrieval",
            score=score,
            main_metric="ndcg_at_10",
            metrics="{}",
            dataset_revision="abc",
            mteb_version="2.26",
            weights_hash="w",
            seconds=1.0,
            finished_at="2026-11-22T10:00:00+00:00",
        )
        write_score(store, row)
    [line] = cells_of(card_of(store, latex=False), "Evaluation scores")
    plain = ["NanoTask", "Retrieval", "ndcg\\_at\\_10", "abc", "2.26", "2", "0.5000", second.replace("_", "\\_")]
    assert line == plain


def test_a_searched_rank_is_in_it_with_its_range_and_the_best_of_each_cell(tmp_path: Path) -> None:
    text = SPEC.replace("[full, bias]", "[full, {lora: {rank: {low: 1, high: 8}, alpha: [8, 16]}}]")
    store = filled_store(tmp_path / "ranks", make_world(tmp_path / "world", seconds=0.0), text)
    sheet = card_of(store, latex=False)
    [full, lora, *_] = cells_of(sheet, "Search space and fixed hyperparameters")
    assert (full[0], lora[0]) == ("full", "lora (rank 1 to 8, alpha 8 or 16)")
    assert [line[1] for line in cells_of(sheet, "Trials by ending")] == ["full", "lora", "full", "lora", "all"]
    methods = [line[1] for line in cells_of(sheet, "Best trial of every cell")[:4]]
    assert [m.split("-")[0] for m in methods] == ["full", "lora", "full", "lora"]
    assert all(method == "full" or method.startswith("lora-r") for method in methods)


def test_an_empty_store_has_a_sheet(store: Store) -> None:
    for trial_id in store.trial_ids():
        (store.root / "trials" / f"{trial_id}.parquet").unlink()  # type: ignore[union-attr]
    text = card_of(store, latex=False)
    assert "--trial ID" in text and "Every trial that was begun and recorded is complete." in text


def test_an_error_cannot_become_markup(store: Store) -> None:
    failed = store.read_trial(min(store.trial_ids()))
    error = "Traceback\n| a | b |\n<script>alert(1)</script> `x` $y$ \\input{secret} 100 % & #"
    spec = replace(failed.spec, seed=99)
    store.record(replace(failed, spec=spec, state=TrialState.FAILED, metrics=None, train_loss=None, error=error))
    markdown, latex = card_of(store, latex=False), card_of(store, latex=True)
    [line] = [line for line in cells_of(markdown, "What did not complete") if line[0] == "FAILED"]
    assert line[2].startswith("\\<script\\>") and len(line) == 3
    assert "\\input{secret}" not in latex and "\\textbackslash{}input\\{secret\\}" in latex
    assert "100 \\% \\& \\#" in latex and "\\$y\\$" in latex


def test_tables_in_latex_have_as_many_columns_as_headings() -> None:
    table = Table(headings=("a_b", "n"), lines=(("x & y", "1"), ("z", "2")))
    text = to_latex("T", [Section(heading="H", blocks=(table, Code(text="a\\end{verbatim}b")))])
    assert "\\begin{longtable}{lr}" in text and "a\\_b & n \\\\" in text and "x \\& y & 1 \\\\" in text
    assert text.count("\\end{verbatim}") == 1


def test_code_is_not_left_by_backticks_in_it() -> None:
    text = to_markdown("T", [Section(heading="H", blocks=(Code(text="a\n```\nb", language="sh"),))])
    assert "\n````sh\na\n```\nb\n````\n" in text


def test_neither_torch_nor_ray_is_loaded(store: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from sweeps.store import Store; from cluster.paper import card_of; "
        f"card_of(Store.open(Path({str(store.root)!r})), latex=True); "
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
