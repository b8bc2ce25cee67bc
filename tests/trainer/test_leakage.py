"""Splits that stay where they are when rows are added, and leaks that were planted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.world import make_pairs, write_jsonl
from trainer import pairs as preparation
from trainer.data import DataManifest, DataSource
from trainer.leakage import measure_leakage
from trainer.pair_cache import prepare_pairs
from trainer.shards import read_texts
from trainer.splits import SPLITS


def silent(*_: object) -> None:
    pass


def splits_of(rows: list[tuple[str, str]], folder: Path) -> dict[tuple[str, str], str]:
    """Where each pair ended."""
    folder.mkdir()
    source = DataSource(source=str(write_jsonl(folder / "pairs.jsonl", rows)))
    _, pairs = prepare_pairs(source, folder / "cache", silent)
    return {pair: split for split in SPLITS for pair in zip(*read_texts(pairs, split), strict=True)}


def test_added_rows_move_no_pair_from_one_split_to_another(tmp_path: Path) -> None:
    rows = make_pairs(3000)
    before = splits_of(rows[:1200], tmp_path / "before")
    # Before, between and after the others, and in another order.
    after = splits_of([*rows[2000:], *reversed(rows[:1200]), *rows[1200:2000]], tmp_path / "after")
    moved = {pair for pair, split in before.items() if after.get(pair, split) != split}
    assert len(before) == 1200 and not moved
    # A held-out pair may be dropped where a new row of train nearly repeats it; no such row was added.
    assert before.keys() <= after.keys()


def test_of_very_many_pairs_some_are_released_into_train_and_none_is_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where held-out splits are at their limit: what was trained on never becomes held out, nor changes sides."""
    monkeypatch.setattr(preparation, "MAX_HELD_OUT_PAIRS", 60)
    rows = make_pairs(4000)
    before, after = splits_of(rows[:1500], tmp_path / "before"), splits_of(rows, tmp_path / "after")
    moves = {(split, after[pair]) for pair, split in before.items() if after[pair] != split}
    assert moves == {("validation", "train"), ("test", "train")}


@pytest.fixture
def planted(tmp_path: Path) -> tuple[DataManifest, Path]:
    """Splits whose files were changed after the preparation."""
    source = DataSource(source=str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1500))))
    manifest, pairs = prepare_pairs(source, tmp_path / "cache", silent)
    train, test = read_texts(pairs, "train"), read_texts(pairs, "test")
    words = train[1][5].split()
    test[0][0], test[1][0] = train[0][3], train[1][3]  # a whole pair
    test[0][1] = train[0][4].upper()  # a query
    test[1][2] = " ".join([*words[:-2], "quite", "other"])  # nearly a positive
    pq.write_table(pa.table({"query": test[0], "positive": test[1]}), pairs / "test.parquet")
    return manifest, pairs


def test_planted_leaks_are_found_and_nothing_else(planted: tuple[DataManifest, Path]) -> None:
    manifest, pairs = planted
    found = measure_leakage(pairs, manifest, report=silent, num_processes=0)
    leaks = {(leak.seen_in, leak.held_out, leak.side): leak for leak in found.leaks}
    num = manifest.num_pairs["test"]
    assert found.num_equal_pairs == {"train, validation": 0, "train, test": 1, "validation, test": 0}
    query, positive = leaks["train", "test", "query"], leaks["train", "test", "positive"]
    assert query.exact == pytest.approx(2 / num) and positive.exact == pytest.approx(1 / num)
    assert positive.near["0.5"] == pytest.approx(2 / num) and positive.near["0.9"] == pytest.approx(1 / num)
    near = positive.evidence[1]
    assert near.held_out.endswith("quite other") and near.seen == read_texts(pairs, "train")[1][5]
    assert near.similarity == pytest.approx(12 / 16, abs=0.02)
    assert all(leak.exact == 0 for way, leak in leaks.items() if way[:2] != ("train", "test"))
    problems = found.problems(0.01)
    assert len(problems) == 3, problems
    assert problems[0].startswith("1 pairs of test are also in train")
    assert "of the positives of test are in train at similarity 0.5 or above" in problems[2]
    assert len(found.problems(0.5)) == 1, "a pair that is in both splits is within no bound"


def test_prepared_pairs_are_within_the_bound(tmp_path: Path) -> None:
    rows = make_pairs(1200)
    copies = [(f"{query} once more", positive) for query, positive in rows[:200]]
    source = DataSource(source=str(write_jsonl(tmp_path / "pairs.jsonl", [*rows, *copies])))
    manifest, pairs = prepare_pairs(source, tmp_path / "cache", silent)
    assert manifest.dropped["near-duplicate of train in test"] > 0
    found = measure_leakage(pairs, manifest, report=silent)
    assert not [problem for problem in found.problems(0.01) if "train" in problem]
