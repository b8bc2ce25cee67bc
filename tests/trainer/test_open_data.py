"""The preset of open data, against a Hub on loopback that has its sets in their layouts, with made-up rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.reading import read_spec
from tests.hub import LoopbackHub
from tests.world import make_pairs, save_decoder, save_tokenizer

MODEL = "EleutherAI/pythia-14m"
DEAD_ENDPOINT = "http://127.0.0.1:9"
# As the cards of the sets say it: their other subsets, and the other columns of the one that is read.
OTHER_SUBSETS = {
    "sentence-transformers/all-nli": "pair-class",
    "sentence-transformers/s2orc": "title-citation-pair",
    "sentence-transformers/stackexchange-duplicates": "body-body-pair",
    "sentence-transformers/wikipedia-sections": "triplet",
    "sentence-transformers/msmarco-bm25": "triplet-hard",
}
OTHER_COLUMNS = {"sentence-transformers/msmarco-bm25": "negative"}
LICENSED = "sentence-transformers/natural-questions"
NUM = 900


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    model = root / "models" / MODEL
    save_tokenizer(model)
    save_decoder(model, head=True)
    for number, origin in enumerate(read_spec("open-english").data.sources):
        folder = root / "datasets" / origin.source
        subsets = [origin.name, *filter(None, [OTHER_SUBSETS.get(origin.source)])]
        for subset in subsets:
            (folder / subset).mkdir(parents=True)
            query, positive = origin.columns if subset == origin.name else ("one", "other")
            rows = list(zip(*make_pairs(NUM, seed=number), strict=True))
            table = {query: list(rows[0]), positive: [f"{text} {origin.source}" for text in rows[1]]}
            if subset == origin.name and origin.source in OTHER_COLUMNS:
                table[OTHER_COLUMNS[origin.source]] = list(rows[0])
            pq.write_table(pa.table(table), folder / subset / "train-00000-of-00001.parquet")
        licence = "license: cc-by-sa-3.0\n" if origin.source == LICENSED else ""
        configs = "".join(
            f"- config_name: {subset}\n  data_files:\n  - split: train\n    path: {subset}/train-*\n"
            for subset in subsets
        )
        (folder / "README.md").write_text(f"---\nlanguage:\n- en\n{licence}configs:\n{configs}---\n\n# A card\n")
    with LoopbackHub(root) as running:
        yield running


def isoflop(*arguments: str, hub_url: str, home: Path, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "ISOFLOP_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "isoflop", *arguments],
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=240,
    )


def write_sweep(folder: Path) -> Path:
    """The preset's data section, as a person copies it, with one model."""
    fields = read_spec("open-english").data.fields
    path = folder / "mine.yaml"
    path.write_text(
        f"name: mine\ndata: {json.dumps(fields)}\nmodels: [{MODEL}]\nbudgets_flops: [1e9]\ntrials: 1\nmethods: [full]\n"
        "fixed: {max_length: 24}\n"
    )
    return path


@pytest.mark.slow
def test_the_preset_reads_its_sets_and_says_what_is_in_them(hub: LoopbackHub, tmp_path: Path) -> None:
    spec, home = str(write_sweep(tmp_path)), tmp_path / "home"
    answer = isoflop("data", "stats", spec, "--json", hub_url=hub.url, home=home, cache=tmp_path / "cache")
    assert answer.returncode == 0, answer.stderr
    statistics = json.loads(answer.stdout)
    sources = statistics["sources"]
    given = read_spec("open-english").data.sources
    assert [source["origin"]["source"] for source in sources] == [origin.source for origin in given]
    for source, origin in zip(sources, given, strict=True):
        assert source["num_read"] == NUM, origin.source
        assert source["drawn_share"] == pytest.approx(origin.weight / 100)
        assert source["licences"] == {"cc-by-sa-3.0" if origin.source == LICENSED else "not stated on the card": 1}, (
            origin.source
        )
        assert {length["tokenizer"] for length in source["lengths"]} == {MODEL}
    assert not [path for _, path in hub.requests if path.endswith(".safetensors")], "no weights for statistics"

    prepared = isoflop("data", "prepare", spec, "--json", hub_url=hub.url, home=home, cache=tmp_path / "cache")
    assert prepared.returncode == 0, prepared.stderr
    assert json.loads(prepared.stdout)["manifest"]["num_pairs"]["train"] > 0.85 * NUM * len(given)

    offline = isoflop(
        *("data", "stats", spec, "--json"), hub_url=DEAD_ENDPOINT, home=home, cache=tmp_path / "new", HF_HUB_OFFLINE="1"
    )
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout) == statistics


def test_one_set_by_its_name_and_a_subset_that_is_not_there(hub: LoopbackHub, tmp_path: Path) -> None:
    where = {"hub_url": hub.url, "home": tmp_path / "home", "cache": tmp_path / "cache"}
    named = ("data", "check", "sentence-transformers/gooaq", "--name")
    found = isoflop(*named, "pair", "--json", **where)  # type: ignore[arg-type]
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["problems"] == []
    wrong = isoflop(*named, "triplet", **where)  # type: ignore[arg-type]
    assert wrong.returncode == 2
    assert "'triplet'" in wrong.stderr.strip().splitlines()[-1]
