"""Data sets of mteb's tasks on a loopback Hub: the real repositories' names and layouts, with rows that are made up.

The layouts are those that the repositories have at the commits of ``trainer/tasks.py``: compressed JSON lines, JSON in
one row, Parquet, and configurations in a README, as each of them was published.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.world import WORDS

Rows = Sequence[Mapping[str, object]]
SIDES = 6


def write_tasks(datasets: Path) -> None:
    """One task of each type in the paper's list, and two more layouts."""
    clustering(datasets / "mteb" / "medrxiv-clustering-s2s")
    retrieval(datasets / "mteb" / "arguana")
    sts(datasets / "mteb" / "biosses-sts")
    sts22(datasets / "mteb" / "sts22-crosslingual-sts")
    summarization(datasets / "mteb" / "summeval")
    banking(datasets / "mteb" / "banking77")
    amazon(datasets / "mteb" / "AmazonReviewsClassification")
    pairs(datasets / "mteb" / "sprintduplicatequestions-pairclassification")
    reranking(datasets / "mteb" / "StackOverflowDupQuestions")


TASKS = {
    "MedrxivClusteringS2S": "Clustering",
    "ArguAna": "Retrieval",
    "BIOSSES": "STS",
    "STS22": "STS",
    "SummEval": "Summarization",
    "Banking77Classification": "Classification",
    "AmazonReviewsClassification": "Classification",
    "SprintDuplicateQuestions": "PairClassification",
    "StackOverflowDupQuestions": "Reranking",
}
FAST = ("BIOSSES", "StackOverflowDupQuestions")
"""Without a Hub the second is what would silently become another task."""


def text(topic: int, number: int) -> str:
    """A text of a topic: some of the topic's words, and some of its own."""
    rng = random.Random(f"{topic} {number}")
    return " ".join([*rng.sample(WORDS[6 * topic : 6 * topic + 6], 3), *rng.sample(WORDS, 2)])


def clustering(folder: Path) -> None:
    """A line is one set of texts to be grouped."""
    lines = [
        {
            "sentences": [text(topic, 10 * part + i) for topic in range(SIDES) for i in range(8)],
            "labels": [f"topic {topic}" for topic in range(SIDES) for i in range(8)],
        }
        for part in range(3)
    ]
    compressed(folder / "test.jsonl.gz", lines)


def retrieval(folder: Path) -> None:
    """Documents, queries and relevance each as a configuration of JSON lines."""
    documents = [{"_id": f"d{t}-{i}", "title": "", "text": text(t, i)} for t in range(SIDES) for i in range(10)]
    queries = [{"_id": f"q{t}-{i}", "text": text(t, i)} for t in range(SIDES) for i in range(5)]
    relevant = [
        {"query-id": f"q{t}-{i}", "corpus-id": f"d{t}-{i + 1}", "score": 1.0} for t in range(SIDES) for i in range(5)
    ]
    _lines(folder / "corpus.jsonl", documents)
    _lines(folder / "queries.jsonl", queries)
    _lines(folder / "qrels" / "test.jsonl", relevant)
    _readme(
        folder,
        {
            "default": {"test": "qrels/test.jsonl"},
            "corpus": {"corpus": "corpus.jsonl"},
            "queries": {"queries": "queries.jsonl"},
        },
    )


def sts(folder: Path) -> None:
    compressed(folder / "test.jsonl.gz", _graded(0, 4))


def sts22(folder: Path) -> None:
    """A folder for each language, and all of them in one configuration; a text may be empty."""
    for language in ("en", "de", "de-en"):
        rows = [{"lang": language, **row} for row in _graded(1, 4)]
        _lines(folder / "data" / "test" / f"{language}.jsonl", [*rows, {**rows[0], "sentence1": "", "score": 1.0}])
    _readme(folder, {"default": {"test": "data/test/*.jsonl"}})


def summarization(folder: Path) -> None:
    rows = [
        {
            "machine_summaries": [text(topic, i) for i in range(4)] + [text((topic + 1) % SIDES, 0)],
            "human_summaries": [text(topic, i) for i in range(4, 7)],
            "relevance": [3.0 + i / 4 for i in range(4)] + [1.0],
            "coherence": [2.0] * 5,
            "text": text(topic, 7),
            "id": f"dm-test-{topic}",
        }
        for topic in range(SIDES)
    ]
    _parquet(folder / "data" / "test-00000-of-00001.parquet", rows)


def banking(folder: Path) -> None:
    for split, numbers in (("train", range(12)), ("test", range(12, 20))):
        rows = [
            {"text": text(topic, i), "label": topic, "label_text": f"topic_{topic}"}
            for topic in range(SIDES)
            for i in numbers
        ]
        _lines(folder / f"{split}.jsonl", rows)


def amazon(folder: Path) -> None:
    """A configuration for each language, with a validation split beside test."""
    for language in ("en", "de"):
        for split, numbers in (("train", range(12)), ("validation", range(12, 14)), ("test", range(14, 20))):
            rows = [
                {"id": f"{language}-{topic}-{i}", "text": text(topic, i), "label": topic, "label_text": str(topic)}
                for topic in range(5)
                for i in numbers
            ]
            _lines(folder / language / f"{split}.jsonl", rows)
    splits = ("train", "validation", "test")
    _readme(folder, {name: {split: f"{name}/{split}.jsonl" for split in splits} for name in ("en", "de")})


def pairs(folder: Path) -> None:
    """A whole split is one row of three lists, as in 2022."""
    places = [(topic, i) for topic in range(SIDES) for i in range(10)]
    columns = {
        "sent1": [text(t, i) for t, i in places for _ in range(2)],
        "sent2": [other for t, i in places for other in (text(t, i + 1), text((t + 1) % SIDES, i))],
        "labels": [label for _ in places for label in (1, 0)],
    }
    for split in ("validation", "test"):
        compressed(folder / f"{split}.json.gz", [columns])


def reranking(folder: Path) -> None:
    """Parquet configurations with a list of candidates for each query."""
    for split in ("train", "test"):
        queries = [{"_id": f"{split}_query{t}", "text": text(t, 0)} for t in range(SIDES)]
        corpus, relevant, ranked = [], [], []
        for query, topic in zip(queries, range(SIDES), strict=True):
            found = [(f"apositive_{query['_id']}_{i:05}", text(topic, i), 1) for i in (1, 2)]
            found += [(f"negative_{query['_id']}_{i:05}", text((topic + i) % SIDES, i), 0) for i in (1, 2, 3, 4)]
            corpus += [{"_id": name, "text": words, "title": ""} for name, words, _ in found]
            relevant += [{"query-id": query["_id"], "corpus-id": name, "score": grade} for name, _, grade in found]
            ranked.append({"query-id": query["_id"], "corpus-ids": [name for name, _, _ in found]})
        for config, rows in {"corpus": corpus, "queries": queries, "data": relevant, "top_ranked": ranked}.items():
            _parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
    names = {"corpus": "corpus", "default": "data", "queries": "queries", "top_ranked": "top_ranked"}
    _readme(folder, {name: {s: f"{of}/{s}-*" for s in ("train", "test")} for name, of in names.items()})


def _graded(low: int, high: int) -> list[dict[str, object]]:
    """Pairs whose texts share fewer words the lower their score is."""
    rng = random.Random(0)
    rows: list[dict[str, object]] = []
    for number in range(60):
        grade = low + number % (high - low + 1)
        words = rng.sample(WORDS, 8)
        kept = words[: 2 * grade]
        other = [*kept, *rng.sample(WORDS, 8 - len(kept))]
        rows.append({"sentence1": " ".join(words), "sentence2": " ".join(other), "score": float(grade)})
    return rows


def _lines(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def compressed(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a time in it, so that the repository's commit is that of its rows.
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))


def _parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _readme(folder: Path, configs: Mapping[str, Mapping[str, str]]) -> None:
    lines = ["---", "configs:"]
    for name, files in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, path in files.items() for line in (f"  - split: {split}", f"    path: {path}")]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
