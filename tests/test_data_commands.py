"""``isoflop data`` from the command line: statistics, checks, their exit statuses and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import isoflop
from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs and a model in the folder that is worked in."""
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path / "model")
    save_decoder(tmp_path / "model")
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1200))
    return tmp_path


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["isoflop", "data", *arguments])
        with pytest.raises(SystemExit) as ended:
            isoflop.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else int(code is not None), out, err)

    return call


def test_statistics_are_shown_written_as_json_and_as_a_page(ask, world: Path) -> None:  # type: ignore[no-untyped-def]
    given = ("stats", "pairs.jsonl", "--model", "model", "--max-length", "16")
    shown = ask(*given, "--out", "page")
    assert shown.status == 0, shown.err
    assert "page: page/index.html" in shown.out and "not stated: files have no place for one" in shown.out
    assert (world / "page" / "figures" / "data-lengths.png").exists()
    record = json.loads(ask(*given, "--json").out)
    assert record["sources"][0]["num_read"] == 1200 and record["max_length"] == 16
    assert json.loads((world / "page" / "statistics.json").read_text()) == record


def test_a_folder_of_files_and_named_columns_are_a_source(ask, world: Path) -> None:  # type: ignore[no-untyped-def]
    folder = world / "bge" / "english"
    folder.mkdir(parents=True)
    for number in range(2):
        write_jsonl(folder / f"{number}.jsonl", make_pairs(600, seed=number))
    found = json.loads(ask("stats", "bge", "--model", "model", "--json").out)
    assert found["sources"][0]["num_read"] == 1200
    rows = [json.dumps({"title1": query, "title2": positive}) for query, positive in make_pairs(1200)]
    (world / "titles.jsonl").write_text("\n".join(rows))
    titles = ("prepare", "titles.jsonl", "--model", "model")
    assert "has no field 'query'" in ask(*titles).err
    named = ask(*titles, "--columns", "title1,title2", "--json")
    assert named.status == 0, named.err
    # The same pairs from elsewhere are the same data.
    plain = ask("prepare", "pairs.jsonl", "--model", "model", "--json")
    hashes = [json.loads(answer.out)["manifest"]["content"] for answer in (named, plain)]
    assert hashes[0] == hashes[1]


def test_a_check_ends_with_1_where_something_is_over_the_bound(ask, world: Path) -> None:  # type: ignore[no-untyped-def]
    clean = ask("check", "pairs.jsonl")
    assert clean.status == 0 and "Nothing is over the bound of 1.00%." in clean.out, clean.err
    # Many questions about one passage each: validation and test share passages, which the preparation allows.
    passages = [positive for _, positive in make_pairs(40)]
    rows = [(query, passages[place % 40]) for place, (query, _) in enumerate(make_pairs(4000))]
    write_jsonl(world / "shared.jsonl", [*rows, *((f"{q} own", f"{p} own") for q, p in make_pairs(3000, seed=5))])
    found = ask("check", "shared.jsonl", "--json")
    checked = json.loads(found.out)
    assert found.status == (1 if checked["problems"] else 0)
    assert all(problem in found.err for problem in checked["problems"])
    assert "by query" in checked["split_rule"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "pairs.jsonl", "--bound", "2"), "--bound is 2: give a share from 0 to 1"),
        (("check", "pairs.jsonl", "--tasks", "nano"), "nano tasks"),
        (("check", "pairs.jsonl", "--tasks", "NoSuchTask"), "NoSuchTask"),
        (("stats", "pairs.jsonl", "--columns", "one"), "--columns is 'one': give two names"),
        (("stats", "smoke", "--max-length", "9"), "smoke is a spec"),
        (("stats", "smoke", "--name", "numpy"), "smoke is a spec"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(  # type: ignore[no-untyped-def]
    ask, world: Path, arguments: tuple[str, ...], words: str
) -> None:
    answer = ask(*arguments)
    last = answer.err.strip().splitlines()[-1]
    assert answer.status == 2 and last.startswith("isoflop: ") and words in last, answer.err
