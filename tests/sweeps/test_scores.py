"""Scores in the store: one object a trial and task, read back as they were, and which trials are meant by a choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.reading import read_spec
from sweeps.score_row import SCORE_SCHEMA, ScoreRow
from sweeps.scores import read_score, read_scores, write_score
from sweeps.store import Store, StoreError
from sweeps.weights import choose_trials
from tests.sweeps.examples import SPEC
from tests.sweeps.test_weights import of, save
from trainer.result import TrialState
from trainer.trial import Bias, Full

ROW = ScoreRow(
    trial_id="1e10-a",
    task="SICK-R",
    task_type="STS",
    score=0.5,
    main_metric="cosine_spearman",
    metrics="{}",
    dataset_revision="20a6d6",
    mteb_version="2.26.24",
    weights_hash="ab",
    seconds=1.5,
    finished_at="2026-11-22T02:00:00+00:00",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "example", read_spec(SPEC), "{}")


def test_a_score_is_read_back_as_it_was(store: Store) -> None:
    others = [ROW, replace(ROW, task="BIOSSES", score=None), replace(ROW, trial_id="1e10-b")]
    for row in [*others, ROW]:
        write_score(store, row)
    write_score(store, replace(ROW, trial_id="bm25"), "baselines")
    assert [read_score(store, row.trial_id, row.task) for row in others] == others
    assert read_score(store, "1e10-a", "STS22") is None
    found = read_scores(store)
    assert list(found.columns) == SCORE_SCHEMA.names
    assert list(zip(found["trial_id"], found["task"], strict=True)) == [
        ("1e10-a", "BIOSSES"),
        ("1e10-a", "SICK-R"),
        ("1e10-b", "SICK-R"),
    ]
    assert found["score"].isna().tolist() == [True, False, False]
    assert read_scores(store, "baselines")["trial_id"].tolist() == ["bm25"]
    assert (store.root / "scores" / "1e10-a" / "SICK-R.parquet").is_file()


def test_without_scores_the_table_is_empty_and_typed(store: Store) -> None:
    found = read_scores(store)
    assert found.empty and list(found.columns) == SCORE_SCHEMA.names and found["score"].dtype == float


def test_a_damaged_score_is_missing_to_an_evaluation_and_a_sentence_to_a_reader(store: Store) -> None:
    write_score(store, ROW)
    (store.root / "scores" / "1e10-a" / "SICK-R.parquet").write_bytes(b"half")
    assert read_score(store, "1e10-a", "SICK-R") is None
    with pytest.raises(StoreError, match="delete this file and ask for it again"):
        read_scores(store)


@pytest.mark.parametrize("name", ["../SICK", "a/b", ".hidden", ""])
def test_a_name_is_never_a_path(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is none"):
        write_score(store, replace(ROW, task=name))


def test_what_each_choice_means(store: Store) -> None:
    best, other = of(1, 2.0, method=Full()), of(2, 3.0, method=Bias())
    worse, failed = of(3, 2.5, method=Full(), model="nano-14k"), of(4, 1.0, state=TrialState.DIVERGED)
    ids = [save(store, result) for result in (best, other, worse)]
    store.record(failed)

    def chosen(which: str) -> tuple[list[str], list[str]]:
        found = choose_trials(store, which)  # type: ignore[arg-type]  # one of three words
        return [result.spec.trial_id for result in found.results], list(found.without_weights)

    assert chosen("best") == ([ids[0]], [])
    assert chosen("frontier") == ([ids[0], ids[1]], [])
    assert chosen("all") == ([ids[0], ids[2], ids[1]], [])
    store.remove_weights(ids[0])
    assert chosen("frontier") == ([ids[1]], [ids[0]]), "what has no weights is named, and the next best is no frontier"
    assert chosen("all") == ([ids[2], ids[1]], [ids[0]])
    for trial_id in ids:
        store.remove_weights(trial_id)
    for which in ("best", "frontier", "all"):
        with pytest.raises(ValueError, match=r"resources\.keep_weights"):
            chosen(which)
