"""Models and data from the Hub, over HTTP on loopback: the first time online, the second from the cache."""

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

from tests.hub import LoopbackHub
from tests.world import make_pairs, save_decoder, save_tokenizer
from trainer.ladder import SHAPES
from trainer.prepare import Prepared

MODEL, DATA = "EleutherAI/pythia-14m", "sentence-transformers/tiny-pairs"
DEAD_ENDPOINT = "http://127.0.0.1:9"
SCRIPT = """
import sys
from pathlib import Path
from trainer.data import DataSource
from trainer.prepare import prepare
if __name__ == "__main__":
    source, name, model, cache = sys.argv[1:]
    print(prepare(DataSource(source=source, name=name), [model], max_length=16, cache=Path(cache),
                  report=lambda *_: None).to_json())
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    model = root / "models" / MODEL
    save_tokenizer(model)
    save_decoder(model, head=True)
    pickled = root / "models" / "someone" / "pickled"
    save_tokenizer(pickled)
    (pickled / "config.json").write_text((model / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    data = root / "datasets" / DATA
    (data / "pair").mkdir(parents=True)
    queries, positives = zip(*make_pairs(1200), strict=True)
    table = pa.table({"anchor": list(queries), "positive": list(positives)})
    pq.write_table(table, data / "pair" / "train-00000-of-00001.parquet")
    (data / "README.md").write_text(
        "---\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n---\n"
    )
    with LoopbackHub(root) as running:
        yield running


def run(hub_url: str, home: Path, cache: Path, *, data: str = DATA, name: str = "pair", model: str = MODEL, **env: str):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **env}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, data, name, model, str(cache)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_online_then_offline_from_the_cache(hub: LoopbackHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    online = run(hub.url, home, tmp_path / "first")
    assert online.returncode == 0, online.stderr
    prepared = Prepared.from_json(online.stdout)
    model = prepared.models[MODEL]
    assert model.revision == hub.commit("models", MODEL)
    assert sum(prepared.manifest.num_pairs.values()) == 1200
    # What was served is smaller than the real model of that name: the shape is the served one's.
    assert (model.shape.width, model.shape.num_layers) == (32, 2)
    assert model.shape.pretraining_learning_rate == SHAPES[MODEL].pretraining_learning_rate

    offline = run(DEAD_ENDPOINT, home, tmp_path / "first", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout) == json.loads(online.stdout)

    # Without this project's records, the Hugging Face cache alone is enough.
    again = run(DEAD_ENDPOINT, home, tmp_path / "second", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    second = Prepared.from_json(again.stdout)
    assert second.manifest.hash == prepared.manifest.hash
    assert second.models[MODEL].revision == model.revision


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "EleutherAI/pythia-15m"}, ["EleutherAI/pythia-15m", "check the name"]),
        ({"model": "someone/pickled"}, ["someone/pickled", "safetensors"]),
        ({"data": "sentence-transformers/no-pairs"}, ["sentence-transformers/no-pairs", "check its name"]),
        ({"name": "triplet"}, ["'triplet'", "check its name"]),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(
    hub: LoopbackHub, tmp_path: Path, wrong: dict[str, str], words: list[str]
) -> None:
    result = run(hub.url, tmp_path / "home", tmp_path / "cache", **wrong)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ValueError: "), result.stderr
    assert all(word in last for word in words), last
