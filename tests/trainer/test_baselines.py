"""Word matching: words of identifiers, BM25 by its own formula, TF-IDF by mteb's protocol."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.trainer.test_nano_tasks import rows
from trainer.baselines import Bm25, tfidf, words
from trainer.scoring import score
from trainer.tasks import make_task

CORPUS = [
    {"id": "a", "title": "", "text": "def readHTMLTable(path): return parse_html(path)"},
    {"id": "b", "title": "Tables", "text": "write a table to a path"},
    {"id": "c", "title": "", "text": "the quick brown fox"},
    {"id": "d", "title": "", "text": "a table of a table of contents"},
]
QUERIES = [{"id": "1", "text": "Read the HTML table"}, {"id": "2", "text": "zebra"}]


def by_hand(query: str, k1: float = 1.5, b: float = 0.75) -> dict[str, float]:
    """Robertson's BM25 with Lucene's idf, which is bm25s's default."""
    texts = {d["id"]: words(f"{d['title']} {d['text']}") for d in CORPUS}
    mean = sum(map(len, texts.values())) / len(texts)
    scores = dict.fromkeys(texts, 0.0)
    for word in words(query):
        having = sum(word in text for text in texts.values())
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for name, text in texts.items():
            count = Counter(text)[word]
            scores[name] += idf * count / (count + k1 * (1 - b + b * len(text) / mean))
    return scores


def test_identifiers_fall_apart_into_their_words() -> None:
    assert words("readHTMLTable2(snake_case, x1)") == ["read", "html", "table", "2", "snake", "case", "x", "1"]
    assert words("Über 3D-Karten, naïve") == ["Über".lower(), "3", "d", "karten", "naïve"]


def test_bm25_is_what_its_formula_gives() -> None:
    index = Bm25()
    index.index(CORPUS)
    found = index.search(QUERIES, top_k=3)
    expected = by_hand("Read the HTML table")
    assert found["1"] == pytest.approx({name: expected[name] for name in found["1"]}, rel=1e-5)
    assert set(found["1"]) == set(sorted(expected, key=lambda name: -expected[name])[:3])
    assert set(found["2"].values()) == {0.0}, "no word of it is known"
    asked = index.search(QUERIES, top_k=3, top_ranked={"1": ["c", "a"], "2": ["d"]})
    assert asked["1"] == pytest.approx({"c": expected["c"], "a": expected["a"]}, rel=1e-5)
    assert set(asked["2"]) == {"d"}


def test_both_are_evaluated_by_mteb_like_any_model() -> None:
    """The made-up pairs share their numbers and nothing else."""
    over = rows()
    texts = [text for row in over.rows for text in (row.query, row.positive)]
    for model in (Bm25(), tfidf(texts)):
        found = score(model, make_task("NanoRetrieval", over))
        assert found.score > 0.2
        assert found.main_metric == "ndcg_at_10"
    assert score(tfidf(texts), make_task("NanoPairClassification", over)).score > 0.8
