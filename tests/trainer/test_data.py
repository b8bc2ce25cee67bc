from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.world import WORDS, make_pairs, save_tokenizer
from trainer.data import (
    DataManifest,
    DataSource,
    Pair,
    TokenStatistics,
    open_split,
    pair_order,
    read_texts,
    write_pairs,
)
from trainer.sources import is_file, read_file
from trainer.splits import SPLITS, near_duplicates, normalised, split_of
from trainer.tokens import write_tokens

# Reading files.


@pytest.mark.parametrize(
    "row",
    [
        {"query": "what", "pos": "this"},
        {"query": "what", "pos": ["this", "that"], "neg": ["no"]},
        {"anchor": "what", "positive": "this"},
        {"query": ["what"], "pos": ["this"]},
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_every_form_of_a_pair_is_read(tmp_path: Path, row: dict[str, object], suffix: str) -> None:
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), path)
    else:
        text = f"{json.dumps(row)}\n\n{json.dumps(row)}\n".encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert is_file(str(path))
    assert list(read_file(path)) == [("what", "this")] * 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "a"}', "line 3 of {path} has no field 'pos': add it, or remove the row"),
        ('{"pos": "a"}', "line 3 of {path} has no field 'query': add it"),
        ('{"query": "a", "pos": []}', "line 3 of {path} has an empty list as 'pos': give at least one text"),
        ('{"query": "a", "pos": 7}', "line 3 of {path} has 7 as 'pos': give a text or a list of texts"),
        ('{"query": null, "pos": "a"}', "line 3 of {path} has None as 'query': give a text"),
        ('{"query": "a", "pos": "\\ud800"}', "line 3 of {path} has half a character in 'pos'"),
        ('{"query": "a", ', "line 3 of {path} is not JSON"),
        ('["a", "b"]', "line 3 of {path} is a list: write one JSON object"),
    ],
)
def test_a_bad_line_is_named_with_its_mend(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "pos": "b"}\n\n' + line + "\n")
    with pytest.raises(ValueError) as caught:
        list(read_file(path))
    assert str(caught.value).startswith(words.format(path=path))
    assert "\n" not in str(caught.value)


def test_damaged_files_and_wrong_columns_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"query": "a", "pos": "b"}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"broken.jsonl.gz is not a whole gzip file"):
        list(read_file(broken))
    columns = tmp_path / "columns.parquet"
    pq.write_table(pa.table({"anchor": ["a"], "text": ["b"]}), columns)
    with pytest.raises(ValueError, match=r"columns.parquet has no field 'positive': a pair needs 'query' and 'pos'"):
        list(read_file(columns))
    empty_list = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"query": ["a", "b"], "pos": [["x"], []]}), empty_list)
    with pytest.raises(ValueError, match=r"row 2 of .*rows.parquet has an empty list as 'pos'"):
        list(read_file(empty_list))
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"damaged.parquet is not a readable Parquet file"):
        list(read_file(damaged))
    with pytest.raises(ValueError, match=r"is not a data file: give a path that ends in .jsonl"):
        is_file(str(tmp_path))


# Splits.


def test_the_split_of_a_key_never_changes() -> None:
    keys = [f"key {i}" for i in range(20_000)]
    splits = [split_of(key) for key in keys]
    assert [split_of("torch.nn"), split_of("numpy.lib"), split_of("scipy.stats")] == ["train", "validation", "train"]
    assert abs(splits.count("test") / 20_000 - 0.05) < 0.006
    assert abs(splits.count("validation") / 20_000 - 0.05) < 0.006


def words_with_overlap(shared: int, own: int, name: str) -> str:
    return " ".join([f"shared{i}" for i in range(shared)] + [f"{name}{i}" for i in range(own)])


def test_near_duplicates_are_those_whose_words_mostly_agree() -> None:
    # 4-grams: texts of 100 words of which the first s are shared have Jaccard (s-3) / (2*97 - (s-3)).
    seen = [words_with_overlap(100, 0, "x"), *(" ".join(WORDS[i:] + WORDS[:i]) for i in range(5)), "short text"]
    texts = [
        words_with_overlap(95, 5, "y"),  # J = .90
        words_with_overlap(80, 20, "z"),  # J = .66
        words_with_overlap(40, 60, "u"),  # J = .24
        words_with_overlap(0, 100, "v"),  # J = 0
        "Short, TEXT!",
        "short texts",
    ]
    assert near_duplicates(seen, texts, lambda *_: None).tolist() == [True, True, False, False, True, False]
    assert near_duplicates([], texts, lambda *_: None).tolist() == [False] * len(texts)


# Pairs on disk.


def write(folder: Path, pairs: list[Pair], fingerprint: str = "f", source: str = "x.jsonl") -> DataManifest:
    folder.mkdir()
    return write_pairs(
        pairs,
        folder,
        source=DataSource(source=source),
        fingerprint=fingerprint,
        dropped={"earlier": 2},
        split_rule="by query",
        versions={},
        report=lambda *_: None,
    )


def keyed(texts: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(query, positive, normalised(query)) for query, positive in texts]


def test_held_out_pairs_share_no_key_and_no_text_with_train(tmp_path: Path) -> None:
    pairs = keyed(make_pairs(3000))
    # Positives of the first thousand stand under other queries too: where those fall into another split, they leak.
    copies = [Pair(f"about {query}", positive, f"about {key}") for query, positive, key in pairs[:1000]]
    manifest = write(tmp_path / "a", pairs + copies)
    sides = {text: set() for _, text, _ in pairs[:1000]}
    for pair in [*pairs[:1000], *copies]:
        sides[pair.positive].add(split_of(pair.key))
    leaks = {split: sum({"train", split} <= found for found in sides.values()) for split in ("validation", "test")}
    assert min(leaks.values()) > 20
    assert {split: manifest.dropped[f"near-duplicate of train in {split}"] for split in leaks} == leaks
    texts = {split: set(read_texts(tmp_path / "a", split)[1]) for split in SPLITS}
    assert not texts["train"] & (texts["validation"] | texts["test"])


def test_blank_and_repeated_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    pairs = keyed(make_pairs(1200))
    extra = [Pair("", "a", ""), Pair("a", " \n", "a"), Pair(pairs[0].query.upper(), f"{pairs[0].positive}.", "k")]
    manifest = write(tmp_path / "a", pairs + extra)
    assert manifest.dropped == {"blank text": 2, "earlier": 2, "pair repeated": 1}
    assert sum(manifest.num_pairs.values()) == 1200


def test_the_hash_of_a_manifest_follows_the_content_alone(tmp_path: Path) -> None:
    pairs = keyed(make_pairs(1200))
    first = write(tmp_path / "a", pairs)
    same = write(tmp_path / "b", pairs, fingerprint="other", source="elsewhere.jsonl")
    changed = write(tmp_path / "c", [pairs[0]._replace(positive="another text"), *pairs[1:]])
    assert first.hash == same.hash != changed.hash
    assert first == DataManifest.from_json(first.to_json())
    assert first.hash == replace(first, versions={"numpy": "9"}, dropped={}).hash


def test_too_few_pairs_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'x.jsonl' has 90 different pairs, .* give about 800 pairs or more"):
        write(tmp_path / "a", keyed(make_pairs(90)))
    with pytest.raises(ValueError, match=r"'x.jsonl' holds no pairs"):
        write(tmp_path / "b", [])


# Tokens.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    yield save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


ODD_TEXTS = [
    "x" * 3000,
    " " * 500 + "after much space",
    "lanmer " * 400,
    "word" + "\n" * 300 + "word" * 100,
    "日本語のテキスト" * 50,
    "a" * 65 + " " + "b" * 300,
]


def test_tokens_are_those_of_the_tokenizer_cut_to_the_length(tmp_path: Path, tokenizer: Tokenizer) -> None:
    odd = [(f"odd query {number} {text}", f"{text} {number}") for number, text in enumerate(ODD_TEXTS * 40)]
    write(tmp_path / "pairs", keyed([*make_pairs(1000), *odd]))
    (tmp_path / "tokens").mkdir()
    seen: list[tuple[int, int]] = []
    statistics = write_tokens(
        tmp_path / "pairs",
        tmp_path / "tokens",
        tokenizer=tokenizer,
        max_length=8,
        progress=lambda done, total: seen.append((done, total)),
    )
    tokenizer.no_truncation()
    num_truncated = 0
    for name in SPLITS:
        split = open_split(tmp_path / "tokens", name)
        texts = read_texts(tmp_path / "pairs", name)
        indices = np.arange(split.num_pairs)
        for side, side_texts in zip(split.texts(indices), texts, strict=True):
            whole = [tokenizer.encode(text).ids for text in side_texts]
            assert [tokens.tolist() for tokens in side] == [ids[:8] for ids in whole]
            num_truncated += sum(len(ids) > 8 for ids in whole) if name == "train" else 0
        assert split.lengths(indices).tolist() == [
            [len(query), len(positive)] for query, positive in zip(*split.texts(indices), strict=True)
        ]
    train = open_split(tmp_path / "tokens", "train")
    lengths = train.lengths(np.arange(train.num_pairs))
    assert statistics.tokens_per_pair == pytest.approx(lengths.sum() / train.num_pairs)
    shares = (statistics.query.truncated_share + statistics.positive.truncated_share) * train.num_pairs
    assert shares == pytest.approx(num_truncated)
    assert sum(statistics.positive.histogram.values()) == pytest.approx(1)
    assert statistics == TokenStatistics.from_json(statistics.to_json())
    assert seen[-1][0] == seen[-1][1]


def test_texts_come_back_in_the_order_that_is_asked_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path / "pairs", keyed(make_pairs(1000)))
    (tmp_path / "tokens").mkdir()
    write_tokens(tmp_path / "pairs", tmp_path / "tokens", tokenizer=tokenizer, max_length=64, progress=lambda *_: None)
    split = open_split(tmp_path / "tokens", "train")
    queries, _ = read_texts(tmp_path / "pairs", "train")
    asked = np.array([5, 0, 700, 5])
    decoded = [tokenizer.decode(tokens.tolist()) for tokens in split.texts(asked)[0]]
    assert decoded == [queries[i] for i in asked]
    assert {file.suffix for file in (tmp_path / "tokens").glob("train.query.uint*")} == {".uint16"}


def test_a_large_vocabulary_gets_wider_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path / "pairs", keyed(make_pairs(1000)))
    (tmp_path / "tokens").mkdir()
    large = Tokenizer.from_str(tokenizer.to_str())
    large.add_tokens([f"<extra {i}>" for i in range(66_000)] + ["nixlan"])
    write_tokens(tmp_path / "pairs", tmp_path / "tokens", tokenizer=large, max_length=64, progress=lambda *_: None)
    assert (tmp_path / "tokens" / "test.positive.uint32").exists()
    tokens, _ = open_split(tmp_path / "tokens", "train").texts(np.arange(3))
    queries, _ = read_texts(tmp_path / "pairs", "train")
    assert [large.decode(row.tolist()) for row in tokens] == queries[:3]


# The order.


@given(st.integers(0, 2**63), st.integers(1, 300), st.integers(0, 10**9))
def test_every_epoch_visits_every_pair_once(seed: int, num_pairs: int, epoch: int) -> None:
    order = pair_order(seed, num_pairs, np.arange(epoch * num_pairs, (epoch + 1) * num_pairs))
    assert sorted(order.tolist()) == list(range(num_pairs))


def test_the_order_is_a_function_of_the_position() -> None:
    positions = np.arange(5000)
    order = pair_order(7, 1000, positions)
    assert (pair_order(7, 1000, positions[1234:2345]) == order[1234:2345]).all()
    assert (pair_order(7, 1000, positions[::-1]) == order[::-1]).all()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    n = 1000
    orders = [pair_order(seed, n, np.arange(epoch * n, (epoch + 1) * n)) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        # A random permutation has one fixed point on average, and no correlation with the identity.
        assert abs(np.corrcoef(one, np.arange(n))[0, 1]) < 0.12
        for other in orders[:i]:
            assert (one == other).sum() < 10


def test_a_large_data_set_needs_no_memory_for_its_order() -> None:
    order = pair_order(3, 150_000_000, np.arange(10**9, 10**9 + 4096))
    assert len(np.unique(order)) == 4096
    assert order.min() >= 0 and order.max() < 150_000_000
    assert abs(order.mean() / 75_000_000 - 1) < 0.05
