"""Preparation as a person meets it: once, twice, two at once, killed in the middle, with bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl
from trainer import nano_rows
from trainer.data import DataSource, Origin, open_split
from trainer.ladder import SHAPES
from trainer.nano_rows import NanoRows
from trainer.prepare import Prepared, default_cache, find, nano_test_rows, prepare

# One package's docstrings are a corpus that takes seconds: numpy is always there.
NANO = DataSource(source="nano", name="numpy")
SCRIPT = """
import sys
from pathlib import Path
from trainer.data import DataSource
from trainer.prepare import prepare
if __name__ == "__main__":
    source, name, models, cache = sys.argv[1:]
    report = lambda *progress: print(*progress, sep="|", file=sys.stderr, flush=True)
    print(prepare(DataSource(source=source, name=name), models.split(","), max_length=16, cache=Path(cache),
                  report=report).to_json())
"""


def start(cache: Path, *models: str, source: DataSource = NANO) -> subprocess.Popen[str]:
    """A preparation in a process of its own; its standard error is the progress."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, source.source, source.name, ",".join(models), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ISOFLOP_TEST_CACHE": str(cache)},
    )


def processes_of(cache: Path) -> list[int]:
    """Living processes that were started for this cache, workers included."""
    marker = f"ISOFLOP_TEST_CACHE={cache}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if marker in environment and state != "Z":
            found.append(int(folder.name))
    return found


def wait_until_gone(cache: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while processes_of(cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_of(cache)


def contents(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    """A cache in which the smallest nano model has been prepared without disturbance."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, prepare(NANO, ["nano-1k"], max_length=16, cache=cache, report=lambda *_: None)


@pytest.fixture
def folder_model(tmp_path: Path) -> str:
    folder = tmp_path / "decoder"
    save_tokenizer(folder)
    save_decoder(folder)
    return str(folder)


def test_a_nano_model_loads_as_any_other_and_has_the_shape_of_its_ladder(world: tuple[Path, Prepared]) -> None:
    from transformers import AutoModel, AutoTokenizer

    _, prepared = world
    prepared_model = prepared.models["nano-1k"]
    assert prepared_model.shape == SHAPES["nano-1k"]
    model, loading = AutoModel.from_pretrained(prepared_model.path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.max_position_embeddings == 512
    tokenizer = AutoTokenizer.from_pretrained(prepared_model.path)
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    text = "def sort(array):\n    return sorted(array)  # naïve"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_nano_model_has_learned_its_corpus(world: tuple[Path, Prepared]) -> None:
    _, prepared = world
    record = json.loads((Path(prepared.models["nano-1k"].path) / "pretraining.json").read_text())
    # Before training the loss is ln 4096 = 8.3; single tokens by their frequency give about 6.5.
    assert 3 < record["loss"] < 6.5


def test_tokens_and_manifest_agree(world: tuple[Path, Prepared]) -> None:
    _, prepared = world
    for name, count in prepared.manifest.num_pairs.items():
        split = open_split(Path(prepared.models["nano-1k"].tokens), name)
        assert split.num_pairs == count > 0
        lengths = split.lengths(np.arange(count))
        assert lengths.min() >= 1 and lengths.max() == 16
    assert prepared.manifest.versions["numpy"] == np.__version__
    assert prepared == Prepared.from_json(prepared.to_json())


def test_a_second_preparation_does_nothing(world: tuple[Path, Prepared]) -> None:
    cache, prepared = world
    before = contents(cache)
    stages: set[str] = set()
    again = prepare(NANO, ["nano-1k"], max_length=16, cache=cache, report=lambda stage, *_: stages.add(stage))
    assert again == prepared == find(NANO, ["nano-1k"], max_length=16, cache=cache)
    assert contents(cache) == before
    assert stages == set()


def test_what_is_missing_is_not_found(world: tuple[Path, Prepared], tmp_path: Path) -> None:
    cache, _ = world
    assert find(NANO, ["nano-3k"], max_length=16, cache=cache) is None
    assert find(NANO, ["nano-1k"], max_length=17, cache=cache) is None
    assert find(DataSource(source="nano", name="pip"), ["nano-1k"], max_length=16, cache=cache) is None
    assert find(NANO, ["nano-1k"], max_length=16, cache=tmp_path) is None


def test_finding_loads_nothing_heavy(world: tuple[Path, Prepared]) -> None:
    cache, prepared = world
    script = (
        "import sys; from pathlib import Path; from trainer.data import DataSource; from trainer.prepare import find\n"
        "found = find(DataSource(source='nano', name='numpy'), ['nano-1k'], max_length=16, cache=Path(sys.argv[1]))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'tokenizers', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "print(found.manifest.hash, sorted(heavy))"
    )
    output = subprocess.run([sys.executable, "-c", script, str(cache)], capture_output=True, text=True, check=True)
    assert output.stdout.split() == [prepared.manifest.hash, "[]"]


def test_killed_while_training_it_goes_on_and_ends_with_the_same_model(
    world: tuple[Path, Prepared], tmp_path: Path
) -> None:
    _, undisturbed = world
    first = start(tmp_path, "nano-1k")
    assert first.stderr is not None
    for line in first.stderr:
        stage, done, _ = line.rstrip().split("|")
        if stage.startswith("pre-training") and int(done) > 20_000:
            break
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert wait_until_gone(tmp_path) == []
    kept = {name: at for name, at in contents(tmp_path).items() if ".partial" not in name}

    second = start(tmp_path, "nano-1k")
    output, progress = second.communicate()
    assert second.returncode == 0, progress
    stages = {line.partition("|")[0] for line in progress.splitlines() if "|" in line}
    assert "reading installed packages" not in stages and "training the tokenizer" not in stages
    assert Prepared.from_json(output).models["nano-1k"].revision == undisturbed.models["nano-1k"].revision
    after = contents(tmp_path)
    assert all(after[name] == at for name, at in kept.items() if not name.endswith(".lock"))
    assert not any(".partial" in name for name in after)


@pytest.mark.parametrize("stage", ["reading installed packages", "reading pairs", "training the tokenizer"])
def test_killed_earlier_it_starts_that_stage_again(tmp_path: Path, stage: str, world: tuple[Path, Prepared]) -> None:
    first = start(tmp_path, "nano-1k")
    assert first.stderr is not None
    next(line for line in first.stderr if line.startswith(stage))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert wait_until_gone(tmp_path) == []
    stages: set[str] = set()

    class EnoughError(Exception):
        pass

    def report(stage: str, done: int, total: int) -> None:
        stages.add(stage)
        if stage.startswith("pre-training"):
            raise EnoughError

    with pytest.raises(EnoughError):
        prepare(NANO, ["nano-1k"], max_length=16, cache=tmp_path, report=report)
    assert stage in stages


def test_two_at_once_do_the_work_once(tmp_path: Path, folder_model: str) -> None:
    source = DataSource(source=str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(6000))))
    cache = tmp_path / "cache"
    both = [start(cache, folder_model, source=source) for _ in range(2)]
    (first, first_progress), (second, second_progress) = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], first_progress + second_progress
    assert json.loads(first) == json.loads(second)
    for stage in ("reading pairs", "turning pairs into tokens"):
        assert sum(stage in progress for progress in (first_progress, second_progress)) == 1
    assert not [name for name in contents(cache) if ".partial" in name]


def test_an_error_of_a_person_leaves_nothing_behind(tmp_path: Path, folder_model: str) -> None:
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, make_pairs(1000))
    path.write_text(path.read_text() + '{"query": "no positive"}\n')
    source, cache = DataSource(source=str(path)), tmp_path / "cache"
    with pytest.raises(ValueError, match=r"line 1001 of .*pairs.jsonl has no field 'pos'"):
        prepare(source, [folder_model], max_length=16, cache=cache, report=lambda *_: None)
    write_jsonl(path, make_pairs(1001))
    prepared = prepare(source, [folder_model], max_length=16, cache=cache, report=lambda *_: None)
    assert sum(prepared.manifest.num_pairs.values()) == 1001


def test_a_file_is_known_by_its_content(tmp_path: Path, folder_model: str) -> None:
    path, cache = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1000)), tmp_path / "cache"
    source = DataSource(source=str(path))
    prepared = prepare(source, [folder_model], max_length=16, cache=cache, report=lambda *_: None)
    path.touch()
    assert find(source, [folder_model], max_length=16, cache=cache) == prepared
    write_jsonl(path, make_pairs(1000, seed=1))
    assert find(source, [folder_model], max_length=16, cache=cache) is None
    other = prepare(source, [folder_model], max_length=16, cache=cache, report=lambda *_: None)
    assert other.manifest.hash != prepared.manifest.hash


def test_a_mixture_is_known_by_its_sources_and_by_what_is_set_of_their_use(tmp_path: Path, folder_model: str) -> None:
    first = str(write_jsonl(tmp_path / "a.jsonl", make_pairs(1000)))
    second = str(write_jsonl(tmp_path / "b.jsonl", make_pairs(1000, seed=1)))
    cache = tmp_path / "cache"
    one = DataSource(source=first)
    mixed = DataSource(sources=(Origin(source=first, weight=2), Origin(source=second, weight=1)))
    prefixed = replace(mixed, query_prefix="query: ")
    found = []
    for source in (one, mixed, prefixed):
        assert find(source, [folder_model], max_length=16, cache=cache) is None
        found.append(prepare(source, [folder_model], max_length=16, cache=cache, report=lambda *_: None))
        assert find(source, [folder_model], max_length=16, cache=cache) == found[-1]
        assert found[-1] == Prepared.from_json(found[-1].to_json())
    assert len({prepared.manifest.hash for prepared in found}) == 3
    assert len({prepared.models[folder_model].tokens for prepared in found}) == 3
    assert found[2].statistics.tokens_per_pair > found[1].statistics.tokens_per_pair
    split = open_split(Path(found[1].models[folder_model].tokens), "train")
    own = found[1].manifest.origins[0].num_pairs["train"]
    assert (split.order(0, np.arange(300)) < own).sum() == 200


def test_hard_negatives_are_refused_where_a_source_has_none(tmp_path: Path, folder_model: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"query": q, "pos": p}) + "\n" for q, p in make_pairs(1000)))
    for source, words in ((str(path), "line 1 of .* has no hard negatives"), ("nano", "nano has no hard negatives")):
        with pytest.raises(ValueError, match=words):
            prepare(
                DataSource(source=source, num_negatives=2),
                [folder_model],
                max_length=16,
                cache=tmp_path / "cache",
                report=lambda *_: None,
            )


def test_a_folder_is_known_by_its_weights(tmp_path: Path, folder_model: str) -> None:
    source = DataSource(source=str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1000))))
    first = prepare(source, [folder_model], max_length=16, cache=tmp_path / "cache", report=lambda *_: None)
    assert first.models[folder_model].shape.width == 32
    save_decoder(Path(folder_model))
    assert find(source, [folder_model], max_length=16, cache=tmp_path / "cache") is None
    second = prepare(source, [folder_model], max_length=16, cache=tmp_path / "cache", report=lambda *_: None)
    assert second.models[folder_model].revision != first.models[folder_model].revision
    assert second.models[folder_model].tokens == first.models[folder_model].tokens


def test_bad_input_is_one_sentence_with_its_mend(tmp_path: Path, folder_model: str) -> None:
    data = str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1000)))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    (tmp_path / "bare").mkdir()
    notes = tmp_path / "notes.txt"
    notes.write_text("no pairs")
    cases = [
        (data, folder_model, 129, "max_length is 129, but .*decoder reads at most 128 tokens: lower it"),
        (data, str(tmp_path / "bare"), 16, "bare' has no config.json: give a folder"),
        (str(empty), folder_model, 16, "empty.jsonl' holds no pairs: give a file"),
        (str(tmp_path / "none.jsonl"), folder_model, 16, "none.jsonl' does not exist: give the path"),
        (str(notes), folder_model, 16, "notes.txt' is not a data file: give a path that ends in .jsonl"),
        (str(tmp_path / "bare"), folder_model, 16, "bare' is a folder without .jsonl"),
    ]
    for source, model, max_length, words in cases:
        with pytest.raises(ValueError, match=words):
            prepare(
                DataSource(source=source),
                [model],
                max_length=max_length,
                cache=tmp_path / "cache",
                report=lambda *_: None,
            )


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("ISOFLOP_CACHE")
    assert default_cache().name == "isoflop"


def test_nano_tasks_are_made_of_the_test_split_with_its_modules(
    world: tuple[Path, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, prepared = world
    monkeypatch.setattr(nano_rows, "MIN_ROWS", 10)
    manifest, stages = prepared.manifest, list[str]()

    def rows() -> NanoRows:
        stages.clear()
        return nano_test_rows(manifest, cache, lambda stage, *_: stages.append(stage))

    found = rows()
    assert len(found.rows) == manifest.num_pairs["test"]
    assert {row.package for row in found.rows} == {"numpy"} and any(row.module.count(".") > 1 for row in found.rows)
    assert "reading modules of the pairs" in stages
    assert rows() == found and not stages, "they are kept"

    # As where the packages that the pairs came from are no longer those that are installed.
    source, content = replace(manifest.source, name="email"), {**manifest.content, "test": "of pairs that are gone"}
    manifest = replace(manifest, source=source, content=content)
    with pytest.raises(ValueError, match="in the environment that the sweep was prepared in"):
        rows()


def test_nano_tasks_of_other_data_are_refused(world: tuple[Path, Prepared], tmp_path: Path) -> None:
    manifest = replace(world[1].manifest, source=DataSource(source="./pairs.jsonl"))
    with pytest.raises(ValueError, match=r"the data of this one are './pairs.jsonl'"):
        nano_test_rows(manifest, tmp_path, lambda *_: None)
    with pytest.raises(ValueError, match="set ISOFLOP_CACHE to the cache"):
        nano_test_rows(world[1].manifest, tmp_path, lambda *_: None)
