from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.world import WORDS, make_pairs, save_tokenizer
from trainer.data import DataManifest, DataSource, Origin, Pair, TokenSplit, TokenStatistics, open_split
from trainer.order import pair_order
from trainer.pairs import Reading, write_pairs
from trainer.shards import read_texts
from trainer.sources import existing, is_file, read_files
from trainer.splits import FINE_PARTS, SPLITS, NearDuplicates, SplitRule, hash_key, normalised, signatures_of
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
    assert list(read_files([path])) == [("what", "this", ())] * 2


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
        list(read_files([path]))
    assert str(caught.value).startswith(words.format(path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("neg", ["no", "never"], ("no", "never")),
        ("negative", "no", ("no",)),
        ("negatives", ["no"], ("no",)),
        ("neg", [], ()),
        ("neg", None, ()),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_hard_negatives_are_read_where_they_are_asked_for(
    tmp_path: Path, field: str, value: object, found: tuple[str, ...], suffix: str
) -> None:
    path = tmp_path / f"pairs{suffix}"
    rows = [{"query": "what", "pos": ["this"], field: value}, {"query": "what", "pos": ["this"], field: ["that"]}]
    if suffix == ".parquet":
        rows = rows[:1] if isinstance(value, str) else rows
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert next(read_files([path], negatives=True)) == ("what", "this", found)
    assert next(read_files([path])) == ("what", "this", ())


def test_a_file_without_the_hard_negatives_that_are_asked_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "pos": "b"}\n')
    words = r"line 1 of .*pairs.jsonl has no hard negatives in a field 'neg', .* or set data.num_negatives to 0$"
    with pytest.raises(ValueError, match=words):
        list(read_files([path], negatives=True))
    path.write_text('{"query": "a", "pos": "b", "neg": ["c", 7]}\n')
    with pytest.raises(ValueError, match=r"line 1 of .*pairs.jsonl has 7 as 'neg': give a text"):
        list(read_files([path], negatives=True))


def test_damaged_files_and_wrong_columns_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"query": "a", "pos": "b"}\n' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"broken.jsonl.gz is not a whole gzip file"):
        list(read_files([broken]))
    columns = tmp_path / "columns.parquet"
    pq.write_table(pa.table({"anchor": ["a"], "text": ["b"]}), columns)
    with pytest.raises(ValueError, match=r"columns.parquet has no field 'positive': a pair needs 'query' and 'pos'"):
        list(read_files([columns]))
    empty_list = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"query": ["a", "b"], "pos": [["x"], []]}), empty_list)
    with pytest.raises(ValueError, match=r"row 2 of .*rows.parquet has an empty list as 'pos'"):
        list(read_files([empty_list]))
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"damaged.parquet is not a readable Parquet file"):
        list(read_files([damaged]))
    with pytest.raises(ValueError, match=r"is not a data file: give a path that ends in .jsonl"):
        is_file(__file__)


def test_a_folder_is_read_file_by_file_and_columns_can_be_named(tmp_path: Path) -> None:
    """The layout in which the BGE pairs come: many files, in folders."""
    with pytest.raises(ValueError, match=r"is a folder without .jsonl"):
        existing(str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.jsonl").write_text('{"query": "third", "pos": ["c"]}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(b'{"query": "first", "pos": "a"}\n{"query": "2", "pos": "b"}\n')
    )
    (tmp_path / "notes.txt").write_text("no pairs")
    files = existing(str(tmp_path))
    assert is_file(str(tmp_path)) and [row.query for row in read_files(files)] == ["first", "2", "third"]
    table = tmp_path / "titles.parquet"
    pq.write_table(pa.table({"title1": ["one"], "title2": ["two"], "query": ["x"], "pos": ["y"]}), table)
    assert list(read_files([table], columns=("title1", "title2"))) == [("one", "two", ())]
    with pytest.raises(ValueError, match=r"no field 'title3': name two of its fields as columns: pos, query, title1"):
        list(read_files([table], columns=("title1", "title3")))


# Splits.


def split_of(key: str) -> str:
    return SPLITS[SplitRule().splits(np.array([hash_key(key)], np.uint64))[0]]


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
    held_out = NearDuplicates(signatures_of(texts))
    assert held_out.found.tolist() == [False] * len(texts)
    held_out.pass_by(seen)
    assert held_out.found.tolist() == [True, True, False, False, True, False]


# Pairs on disk.


def write(
    folder: Path,
    *parts: list[Pair],
    fingerprint: str = "f",
    source: DataSource = DataSource(source="x.jsonl"),  # noqa: B008
    num_processes: int | None = None,
) -> DataManifest:
    folder.mkdir()
    readings = [
        Reading(origin=origin, pairs=pairs, split_rule="by query", dropped={"earlier": 2})
        for origin, pairs in zip(source.origins, parts, strict=True)
    ]
    return write_pairs(
        readings, folder, source=source, fingerprint=fingerprint, report=lambda *_: None, num_processes=num_processes
    )


def keyed(texts: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(query, positive, normalised(query)) for query, positive in texts]


def test_held_out_pairs_share_no_key_and_no_text_with_train(tmp_path: Path) -> None:
    pairs = keyed(make_pairs(3000))
    # Positives of the first thousand stand under other queries too: where those fall into another split, they leak.
    copies = [Pair(f"about {query}", positive, f"about {key}") for query, positive, key, _ in pairs[:1000]]
    manifest = write(tmp_path / "a", pairs + copies)
    sides = {text: set() for _, text, *_ in pairs[:1000]}
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
    same = write(tmp_path / "b", pairs, fingerprint="other", source=DataSource(source="elsewhere.jsonl"))
    changed = write(tmp_path / "c", [pairs[0]._replace(positive="another text"), *pairs[1:]])
    assert first.hash == same.hash != changed.hash
    assert first == DataManifest.from_json(first.to_json())
    assert first.hash == replace(first, versions={"numpy": "9"}, dropped={}).hash


def test_too_few_pairs_are_refused_with_the_number_that_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'x.jsonl' has 90 different pairs, .* give about 800 pairs or more"):
        write(tmp_path / "a", keyed(make_pairs(90)))
    with pytest.raises(ValueError, match=r"'x.jsonl' holds no pairs"):
        write(tmp_path / "b", [])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    return {split: sorted(zip(*read_texts(folder, split), strict=True)) for split in SPLITS}


def test_splits_depend_neither_on_the_order_of_reading_nor_on_shards_or_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = keyed(make_pairs(4000))
    copies = [Pair(f"about {query}", positive, f"about {key}") for query, positive, key, _ in pairs[:1000]]
    pairs += [*copies, *pairs[::7]]
    one = write(tmp_path / "one", pairs, num_processes=1)
    assert one.dropped["pair repeated"] == len(pairs[:4000:7])
    with monkeypatch.context() as patch:
        # Smaller shards, and hashes that go to disk in many pieces.
        patch.setattr("trainer.shards.SHARD_PAIRS", 300)
        patch.setattr("trainer.pairs.BATCH_PAIRS", 100)
        patch.setattr("trainer.repeats._RECORDS_BUFFERED", 500)
        many = write(tmp_path / "many", pairs, num_processes=2)
        assert pq.read_metadata(tmp_path / "many" / "train.parquet").num_row_groups > 5
    assert many == one
    assert texts_of(tmp_path / "many") == texts_of(tmp_path / "one")
    random.Random(0).shuffle(pairs)
    shuffled = write(tmp_path / "shuffled", pairs)
    assert texts_of(tmp_path / "shuffled") == texts_of(tmp_path / "one")
    assert shuffled.num_pairs == one.num_pairs and shuffled.dropped == one.dropped
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"manifest.json", *(f"{s}.parquet" for s in SPLITS)}


def test_the_held_out_splits_are_bounded_and_what_they_leave_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = keyed(make_pairs(4000))
    whole = write(tmp_path / "whole", pairs)
    monkeypatch.setattr("trainer.pairs.MAX_HELD_OUT_PAIRS", 60)
    fewer = write(tmp_path / "fewer", pairs)
    assert whole.num_pairs["validation"] > 100 and "up to" not in whole.split_rule
    assert "up to 60 pairs held out in each" in fewer.split_rule
    for split in SPLITS[1:]:
        assert 50 <= fewer.num_pairs[split] <= 60
        # Nobody who was trained on before is held out now.
        assert set(texts_of(tmp_path / "fewer")[split]) < set(texts_of(tmp_path / "whole")[split])
    assert sum(fewer.num_pairs.values()) == sum(whole.num_pairs.values()) == 4000
    assert whole.hash != fewer.hash


def test_a_part_is_held_out_whole_even_where_it_is_larger_than_the_most() -> None:
    counts = np.zeros((2, FINE_PARTS), np.int64)
    counts[:, 3] = 500
    counts[1, 7] = 500
    assert SplitRule.for_counts(counts, 100, 32) == SplitRule(validation=4, test=4)
    assert SplitRule.for_counts(counts, 600, 32) == SplitRule(validation=FINE_PARTS, test=7)
    assert SplitRule.for_counts(counts, 1000, 32) == SplitRule()


# Several sources.

TWO = DataSource(sources=(Origin(source="a.jsonl", weight=1), Origin(source="b.jsonl", weight=3)))


def test_sources_are_counted_each_and_repeats_between_them_dropped(tmp_path: Path) -> None:
    first, second = keyed(make_pairs(1000)), keyed(make_pairs(2000, seed=1))
    source = DataSource(sources=tuple(replace(origin, weight=0) for origin in TWO.origins))
    manifest = write(tmp_path / "a", first, [*second, *first[:100]], source=source)
    assert [facts.origin for facts in manifest.origins] == list(source.origins)
    assert [sum(facts.num_pairs.values()) for facts in manifest.origins] == [1000, 2000]
    assert [facts.dropped.get("pair repeated", 0) for facts in manifest.origins] == [0, 100]
    assert manifest.dropped["earlier"] == 4 and manifest.pairs_per_epoch == manifest.num_pairs["train"]
    assert manifest == DataManifest.from_json(manifest.to_json())
    alone = write(tmp_path / "b", first, source=DataSource(source="a.jsonl"))
    assert manifest.origins[0].content == alone.origins[0].content != manifest.origins[1].content
    # The pairs of one source lie together.
    queries, _ = read_texts(tmp_path / "a", "train")
    ours = {pair.query for pair in first}
    assert [query in ours for query in queries] == sorted((query in ours for query in queries), reverse=True)


def test_weights_prefixes_and_negatives_are_part_of_the_identity(tmp_path: Path) -> None:
    first, second = keyed(make_pairs(600)), keyed(make_pairs(600, seed=1))
    sources = [
        DataSource(sources=tuple(replace(origin, weight=0) for origin in TWO.origins)),
        TWO,
        replace(TWO, query_prefix="query: "),
        replace(TWO, positive_prefix="query: "),
        replace(TWO, num_negatives=1),
    ]
    hashes = [write(tmp_path / str(i), first, second, source=source).hash for i, source in enumerate(sources)]
    assert len(set(hashes)) == len(hashes)
    # A manifest that says nothing of them keeps the identity it had before they could be said.
    plain = write(tmp_path / "plain", keyed(make_pairs(1000)))
    record = {"num_pairs": plain.num_pairs, "split_rule": plain.split_rule, "content": plain.content}
    assert plain.hash == hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def test_a_weighted_source_with_nothing_of_its_own_is_refused(tmp_path: Path) -> None:
    pairs = keyed(make_pairs(1000))
    with pytest.raises(ValueError, match=r"'b.jsonl' has weight 3 and no pair of its own to train on: leave it out"):
        write(tmp_path / "a", pairs, pairs[:100], source=TWO)
    with pytest.raises(ValueError, match=r"'b.jsonl' holds no pairs"):
        write(tmp_path / "b", pairs, [], source=TWO)


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


def encode(folder: Path, tokenizer: Tokenizer, max_length: int = 16, num_processes: int | None = None) -> TokenSplit:
    """The train split of the pairs under ``folder``, in tokens."""
    tokens = folder / "tokens"
    tokens.mkdir()
    write_tokens(
        folder,
        tokens,
        tokenizer=tokenizer,
        max_length=max_length,
        progress=lambda *_: None,
        num_processes=num_processes,
    )
    return open_split(tokens, "train")


def test_a_prefix_stands_before_every_text_and_its_tokens_count(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pairs = [pair._replace(negatives=(f"no {pair.query}",)) for pair in keyed(make_pairs(1000))]
    source = DataSource(source="x", query_prefix="ask: ", positive_prefix="tell: ", num_negatives=1)
    write(tmp_path / "pairs", pairs, source=source)
    split = encode(tmp_path / "pairs", tokenizer, max_length=200)
    queries, positives = read_texts(tmp_path / "pairs", "train")
    ours = np.arange(0, split.num_pairs, 50)
    found = split.texts(ours)
    assert [tokenizer.decode(row.tolist()) for row in found[0]] == [f"ask: {queries[i]}" for i in ours]
    assert [tokenizer.decode(row.tolist()) for row in found[1]] == [f"tell: {positives[i]}" for i in ours]
    negatives = [tokenizer.decode(row.tolist()) for [row] in split.negatives(ours)]
    assert negatives == [f"tell: no {queries[i]}" for i in ours]
    assert not queries[0].startswith("ask: ")


def test_hard_negatives_are_kept_for_train_alone(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = make_pairs(1200)
    lists = [
        lambda q, p: ("no", "No!", "never", "nowhere", "not"),  # one repeated, one too many
        lambda q, p: (p.upper(), " ", "only this"),  # its positive, and nothing
        lambda q, p: (),
    ]
    pairs = [Pair(q, p, normalised(q), lists[number % 3](q, p)) for number, (q, p) in enumerate(texts)]
    manifest = write(tmp_path / "pairs", pairs, source=DataSource(source="x", num_negatives=3))
    dropped = ("negative repeated", "negative equal to its positive", "blank negative")
    assert [manifest.dropped[reason] for reason in dropped] == [400, 400, 400]
    train = encode(tmp_path / "pairs", tokenizer)
    kept = {pair.query: kept for number, pair in enumerate(pairs) for kept in [KEPT[number % 3]]}
    queries, _ = read_texts(tmp_path / "pairs", "train")
    indices = np.array([7, 3, 7, *range(100, 200)])
    found = [[tokenizer.decode(row.tolist()) for row in rows] for rows in train.negatives(indices)]
    assert found == [kept[queries[i]] for i in indices]
    assert manifest.num_negatives == sum(len(kept[query]) for query in queries)
    everything = np.arange(train.num_pairs)
    lengths = [len(row) for rows in train.negatives(everything) for row in rows]
    statistics = TokenStatistics.from_json((tmp_path / "pairs" / "tokens" / "tokens.json").read_text())
    assert statistics.negative is not None
    assert statistics.negative.mean_at_max_length == pytest.approx(np.mean(lengths))
    assert statistics.negative_tokens_per_pair == pytest.approx(sum(lengths) / train.num_pairs)
    both = train.lengths(everything).sum() / train.num_pairs
    assert statistics.tokens_per_pair == pytest.approx(both + sum(lengths) / train.num_pairs)
    assert statistics == TokenStatistics.from_json(statistics.to_json())
    for name in SPLITS[1:]:
        split = open_split(tmp_path / "pairs" / "tokens", name)
        assert split.negatives(np.arange(3)) == [[], [], []]


KEPT = [["no", "never", "nowhere"], ["only this"], []]


def test_no_negatives_are_kept_unless_they_are_asked_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    pairs = [pair._replace(negatives=("no",)) for pair in keyed(make_pairs(1000))]
    plain = write(tmp_path / "pairs", keyed(make_pairs(1000)))
    assert write(tmp_path / "with", pairs).hash == plain.hash
    assert encode(tmp_path / "with", tokenizer).negatives(np.arange(2)) == [[], []]
    # Asked for, and none is there in any pair.
    write(tmp_path / "none", keyed(make_pairs(1000)), source=DataSource(source="x", num_negatives=2))
    assert encode(tmp_path / "none", tokenizer).negatives(np.arange(2)) == [[], []]


def test_a_split_knows_its_order_and_its_epochs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first, second = keyed(make_pairs(1000)), keyed(make_pairs(2000, seed=1))
    manifest = write(tmp_path / "mixed", first, second, source=TWO)
    mixed = encode(tmp_path / "mixed", tokenizer)
    own, other = (facts.num_pairs["train"] for facts in manifest.origins)
    assert mixed.num_pairs == own + other == manifest.num_pairs["train"]
    order = mixed.order(3, np.arange(400))
    assert (order < own).sum() == 100
    assert mixed.epochs(4 * own) == pytest.approx(max(1, 3 * own / other))
    assert manifest.pairs_per_epoch == int(min(4 * own, 4 * other / 3))
    statistics = TokenStatistics.from_json((tmp_path / "mixed" / "tokens" / "tokens.json").read_text())
    lengths = mixed.lengths(np.arange(mixed.num_pairs)).sum(axis=1)
    assert statistics.tokens_per_pair == pytest.approx(0.25 * lengths[:own].mean() + 0.75 * lengths[own:].mean())
    held_out = open_split(tmp_path / "mixed" / "tokens", "validation")
    assert held_out.order(3, np.arange(50)).tolist() == pair_order(3, held_out.num_pairs, np.arange(50)).tolist()
    write(tmp_path / "one", first)
    one = encode(tmp_path / "one", tokenizer)
    assert one.order(3, np.arange(50)).tolist() == pair_order(3, one.num_pairs, np.arange(50)).tolist()
    assert one.epochs(3 * one.num_pairs) == 3


# Tokens in shards.

ENCODE = """
import sys
from pathlib import Path
from tokenizers import Tokenizer
from trainer.tokens import write_tokens
if __name__ == "__main__":
    pairs, tokens, tokenizer = map(Path, sys.argv[1:])
    def report(*progress):
        print(*progress, flush=True)
        sys.stdin.readline()
    write_tokens(pairs, tokens, tokenizer=Tokenizer.from_file(str(tokenizer)), max_length=16, progress=report,
                 num_processes=2)
"""


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs in some forty shards, of two sources, with negatives."""
    monkeypatch.setattr("trainer.shards.SHARD_PAIRS", 100)
    monkeypatch.setattr("trainer.pairs.BATCH_PAIRS", 100)
    parts = [
        [pair._replace(negatives=(f"no {pair.query}",) * (number % 2)) for number, pair in enumerate(keyed(pairs))]
        for pairs in (make_pairs(1000), make_pairs(2000, seed=1))
    ]
    write(tmp_path / "pairs", *parts, source=replace(TWO, num_negatives=2))
    return tmp_path / "pairs"


def test_tokens_are_the_same_bytes_from_one_process_two_and_after_two_kills(
    sharded: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    encode(sharded, tokenizer, num_processes=0)
    expected = contents(sharded / "tokens")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = tmp_path / "again"
    tokens.mkdir()
    command = [sys.executable, "-c", ENCODE, str(sharded), str(tokens), str(tmp_path / "tokenizer.json")]
    done_before: dict[str, int] = {}
    for share in (0.2, 0.5):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        for line in process.stdout:
            done, total = map(int, line.split())
            assert done >= sum(done_before.values())
            if done >= share * total:
                break
            # It waits for this line after each report, so that it cannot have ended before it is killed.
            print(file=process.stdin, flush=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        finished = [path for path in (tokens / "shards").iterdir() if path.suffix != ".partial"]
        counts = {path.name: np.fromfile(path / "query.lengths", np.int64).size for path in finished}
        # More by the second kill, unless the first one came late.
        assert counts and done_before.items() <= counts.items()
        done_before = counts
    before = {path.name: path.stat().st_mtime_ns for path in finished}
    seen: list[tuple[int, int]] = []
    kept: dict[str, int] = {}

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        found = {path.name: path.stat().st_mtime_ns for path in (tokens / "shards").iterdir()}
        kept.update({name: found[name] for name in before})

    write_tokens(sharded, tokens, tokenizer=tokenizer, max_length=16, progress=progress, num_processes=2)
    assert contents(tokens) == expected
    assert kept == before
    assert min(done for done, _ in seen) >= sum(done_before.values()) and seen[-1] == (3000, 3000)
