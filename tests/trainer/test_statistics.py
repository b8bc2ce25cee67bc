"""Statistics of pairs, against numbers that were put into them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.world import WORDS, make_pairs, save_tokenizer, write_jsonl
from trainer import census
from trainer.data import DataManifest, DataSource, Origin
from trainer.language import guess_languages
from trainer.licences import stated_licences
from trainer.pair_cache import prepare_pairs
from trainer.statistics import DataStatistics, measure
from trainer.survey import find_statistics, survey

NUM = 1200


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataManifest, Path, Path]:
    """Two sources: one with planted repeats, one that has a quarter of its positives from the first."""
    root = tmp_path_factory.mktemp("statistics")
    rng = random.Random(0)
    first = make_pairs(NUM, seed=1)
    # Every fourth positive stands once more under another query.
    repeated = [(f"other question {number}", positive) for number, (_, positive) in enumerate(first[::4])]
    identical = [(text, text) for text in (" ".join(rng.choices(WORDS, k=9)) + f" {number}" for number in range(60))]
    rows = [*first, *repeated, *identical, *first[:30], ("", "an empty query"), ("an empty positive", " .. ")]
    second = [(f"{q} again", f"{p} it" if i % 4 else first[i][1]) for i, (q, p) in enumerate(make_pairs(NUM, seed=2))]
    source = DataSource(
        sources=(
            Origin(source=str(write_jsonl(root / "a.jsonl", rows)), weight=3),
            Origin(source=str(write_jsonl(root / "b.jsonl", second)), weight=1),
        ),
        query_prefix="query: ",
    )
    manifest, pairs = prepare_pairs(source, root / "cache", silent)
    return manifest, pairs, root


def test_what_was_put_into_the_pairs_is_what_is_measured(
    world: tuple[DataManifest, Path, Path], tmp_path: Path
) -> None:
    manifest, pairs, _ = world
    tokenizer = save_tokenizer(tmp_path)
    found = measure(pairs, manifest, {"made up": tokenizer}, max_length=24, report=silent, num_processes=1)
    one, two = found.sources
    assert one.num_read == NUM + NUM // 4 + 60 + 30 + 2
    assert one.empty_share * one.num_read == pytest.approx(2)
    assert one.repeated_pair_share * one.num_read == pytest.approx(30)
    assert (one.drawn_share, two.drawn_share) == (0.75, 0.25)
    train = one.num_pairs["train"]
    assert one.identical_share == pytest.approx(60 / (NUM + NUM // 4 + 60), rel=0.3)
    assert two.identical_share == 0
    # Of 1,560 pairs 300 repeat a positive; about one in ten of either copy is held out.
    assert one.repeated_share["positive"] == pytest.approx(0.9 * 300 / 1560, rel=0.15)
    assert one.repeated_share["query"] == 0
    assert two.repeated_share["positive"] == pytest.approx(0.25, rel=0.2)
    assert one.num_sampled == train, "fewer pairs than the sample are all measured"
    assert two.near_in["positive"][0] == pytest.approx(0.25, rel=0.2)
    assert two.near_share["positive"] >= two.near_in["positive"][0]
    (length,) = [length for length in two.lengths if length.side == "query"]
    texts = [len(tokenizer.encode(f"query: {q} again").ids) for q, _ in make_pairs(NUM, seed=2)]
    assert length.mean == pytest.approx(sum(texts) / len(texts), rel=0.02)
    assert sum(length.histogram.values()) == pytest.approx(1)
    assert length.mean_at_max_length <= 24 and 0 <= length.truncated_share <= 1
    assert DataStatistics.from_json(found.to_json()) == found


def test_processes_pieces_and_buffers_do_not_change_a_number(
    world: tuple[DataManifest, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, pairs, _ = world
    alone = measure(pairs, manifest, {}, max_length=24, report=silent, num_processes=1)
    monkeypatch.setattr(census, "_HASHES_BUFFERED", 100)
    monkeypatch.setattr(census, "_PIECES_PER_CORE", 1)
    assert measure(pairs, manifest, {}, max_length=24, report=silent, num_processes=2) == alone


def test_they_are_measured_once_for_the_same_pairs_and_tokenizers(
    world: tuple[DataManifest, Path, Path], tmp_path: Path
) -> None:
    manifest, pairs, _ = world
    for name in ("one", "two"):
        save_tokenizer(tmp_path / name)
    folders = {name: tmp_path / name for name in ("one", "two")}
    stages: list[str] = []

    def hear(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    first = survey(manifest, pairs, folders, max_length=24, cache=tmp_path, report=hear)
    assert "measuring pairs" in stages
    assert {length.tokenizer for length in first.sources[0].lengths} == {"one and 1 more"}, "the same tokenizer"
    stages.clear()
    assert survey(manifest, pairs, folders, max_length=24, cache=tmp_path, report=hear) == first and not stages
    assert find_statistics(manifest, ["two", "one"], max_length=24, cache=tmp_path) == first
    assert find_statistics(manifest, ["one", "two"], max_length=32, cache=tmp_path) is None


def test_languages_of_known_texts() -> None:
    english = "The committee will publish its report on the state of the harbour before the end of the year."
    german = "Der Ausschuss wird seinen Bericht über den Zustand des Hafens noch vor dem Jahresende veröffentlichen."
    found = guess_languages([english, english, english, german])
    assert found.shares == {"en": 0.75, "de": 0.25} and found.doubtful == 0
    assert guess_languages(["12", "x = 3"]).doubtful == 1
    assert guess_languages([]).shares == {}


def test_licences_are_those_of_the_packages_that_were_read() -> None:
    """numpy's own metadata, whose form is another from version to version, name the BSD licence."""
    (licence,) = stated_licences(Origin(source="nano", name="numpy"))
    assert "BSD" in licence
    assert sum(stated_licences(Origin(source="nano")).values()) > 20


def test_files_state_no_licence(tmp_path: Path) -> None:
    assert stated_licences(Origin(source=str(write_jsonl(tmp_path / "a.jsonl", [])))) == {}
