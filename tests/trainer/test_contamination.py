"""Texts of tasks that were put into train, and n-grams against a count by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.world import WORDS, make_pairs, write_jsonl
from trainer import contamination
from trainer.contamination import measure_contamination, ngrams, problems
from trainer.data import DataManifest, DataSource
from trainer.pair_cache import prepare_pairs
from trainer.shards import read_texts
from trainer.splits import word_hashes


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataManifest, Path]:
    root = tmp_path_factory.mktemp("contamination")
    source = DataSource(source=str(write_jsonl(root / "pairs.jsonl", make_pairs(1200))))
    return prepare_pairs(source, root / "cache", silent)


def fresh(count: int, num_words: int = 20) -> list[str]:
    rng = random.Random(7)
    return [" ".join(rng.choices(WORDS, k=num_words)) for _ in range(count)]


@pytest.mark.parametrize("num_processes", [0, 2])
def test_each_kind_of_contamination_is_told_apart(train: tuple[DataManifest, Path], num_processes: int) -> None:
    manifest, pairs = train
    queries, positives = read_texts(pairs, "train")
    clean = fresh(40)
    partly = " ".join(positives[9].split()[:14] + clean[0].split()[:2])  # 7 of 9 8-grams, two 13-grams
    touched = " ".join(positives[8].split()[:13] + clean[1].split())  # one 13-gram, 6 of 26 8-grams
    tasks = [
        ("whole", [positives[5].upper(), queries[6], *clean[:8]]),
        ("partly", [partly, touched, *clean[:8]]),
        ("clean", clean),
        ("twice", [clean[3], clean[3] + "!", "", "  "]),
    ]
    found = measure_contamination(pairs, manifest, tasks, report=silent, num_processes=num_processes)
    whole, part, none, twice = found
    assert (whole.num_texts, whole.exact, whole.contaminated) == (10, 0.2, 0.2)
    assert whole.short == pytest.approx(0.1) and whole.eight_grams == pytest.approx(0.1)
    assert (part.exact, part.eight_grams, part.contaminated) == (0, 0.1, 0.1)
    assert part.thirteen_grams == pytest.approx(0.2)
    assert part.evidence[0].text == partly and part.evidence[0].train == positives[9]
    assert part.evidence[0].share == pytest.approx(7 / 9)
    assert {whole.evidence[0].train, whole.evidence[1].train} == {positives[5], queries[6]}
    assert none.contaminated == none.eight_grams == 0 and not none.evidence
    assert twice.num_texts == 1, "the same words count once"
    assert [sentence.split()[5] for sentence in problems(found, 0.15)] == ["whole"]
    assert "20.00% of the texts of whole stand in train" in problems(found, 0.01)[0]


def test_of_very_many_texts_an_even_sample_is_looked_for(
    train: tuple[DataManifest, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, pairs = train
    monkeypatch.setattr(contamination, "MOST_TEXTS", 10)
    (found,) = measure_contamination(pairs, manifest, [("large", fresh(95))], report=silent, num_processes=0)
    assert (found.num_texts, found.num_looked_for) == (95, 10)


def test_no_texts_are_no_error(train: tuple[DataManifest, Path]) -> None:
    manifest, pairs = train
    (found,) = measure_contamination(pairs, manifest, [("empty", [])], report=silent, num_processes=0)
    assert found.num_texts == 0 and found.contaminated == 0


def test_ngrams_are_those_inside_one_text() -> None:
    texts = ["a b c d", "a b", "", "b c d a b c"]
    grams, owners = ngrams(*word_hashes(texts), 3)
    truth = [tuple(text.split()[i : i + 3]) for text in texts for i in range(len(text.split()) - 2)]
    assert owners.tolist() == [0, 0, 3, 3, 3, 3]
    equal = grams[:, None] == grams[None, :]
    np.testing.assert_array_equal(equal, [[one == other for other in truth] for one in truth])
