"""The whole road by the real command line, Ray, Optuna and trainer: a Hub model and a person's file, to a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweeps.store import Store
from tests.hub import LoopbackHub
from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl
from trainer.ladder import gpt_neox, parameter_counts
from trainer.trial import Full, Lora

MODEL = "EleutherAI/pythia-14m"
# As served here under Pythia's name: two layers of 32.
SHAPE = gpt_neox(MODEL, num_layers=2, width=32, num_heads=2, vocab_size=320, pretraining_learning_rate=1e-3)
SPEC = """
name: hub-road
data: {{source: {pairs}}}
models: [EleutherAI/pythia-14m]
budgets_flops: [{small}, {large}]
trials: 2
search:
  learning_rate: {{of: pretraining, low: 0.5, high: 10.0, start: 3.0}}
  temperature: {{low: 0.03, high: 0.1}}
  weight_decay: {{low: 0.001, high: 0.1}}
methods: [full, lora: {{rank: 2, alpha: 4}}]
fixed: {{batch_size: 16, max_length: 16, gradient_clipping: 1.0}}
evaluation: {{num_pairs: 32, num_candidates: 16}}
limits: {{min_steps: 5, max_epochs: 20}}
resources: {{reuse_actors: true}}
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a person's shell: a Hub on loopback, caches of their own."""
    folder = tmp_path_factory.mktemp("road")
    model = folder / "hub" / "models" / MODEL
    save_tokenizer(model)
    save_decoder(model, head=True)
    write_jsonl(folder / "pairs.jsonl", make_pairs(1200))
    spec = SPEC.format(pairs=folder / "pairs.jsonl", small=int(1e9), large=int(2e9))
    (folder / "spec.yaml").write_text(spec)
    with LoopbackHub(folder / "hub") as hub:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        yield {
            **inherited,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hugging face"),
            "ISOFLOP_CACHE": str(folder / "cache"),
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "ROAD": str(folder),
        }


def isoflop(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isoflop", *words], env=environment, capture_output=True, text=True, timeout=280
    )


def similarities(model: Path) -> np.ndarray:
    """Of some texts with themselves: what ``SentenceTransformer`` loads from the folder alone."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    texts = [text for pair in make_pairs(5, seed=3) for text in pair]
    return loaded.similarity(loaded.encode_query(texts), loaded.encode_document(texts)).numpy()


def rows(store: Path) -> pd.DataFrame:
    """What must not depend on interruptions, in a fixed order."""
    columns = ["trial_id", "state", "learning_rate", "temperature", "weight_decay", "loss", "steps", "booked_flops"]
    return Store.open(store).read_trials()[columns].sort_values("trial_id").reset_index(drop=True)


def test_a_hub_model_and_a_file_of_pairs_become_rows_a_recommendation_and_a_report(road: dict[str, str]) -> None:
    folder = Path(road["ROAD"])
    store = folder / "undisturbed"
    launched = isoflop(road, "launch", str(folder / "spec.yaml"), "--store", str(store))
    assert launched.returncode == 0, launched.stderr + launched.stdout
    table = Store.open(store).read_trials()
    assert sorted(table.groupby(["budget_flops", "method"]).size().to_dict().values()) == [2, 2, 2, 2]
    assert set(table["state"]) == {"COMPLETE"}
    assert set(table["num_params_non_embedding"]) == {SHAPE.num_params_non_embedding}
    lora = table[table["method"] == "lora-r2"]
    assert set(lora["num_params_trainable"]) == {parameter_counts(SHAPE, Lora(rank=2, alpha=4.0)).trainable}
    assert table["learning_rate"].nunique() > 2, "the search has tried several"
    assert (table["booked_flops"] <= table["budget_flops"]).all()
    assert (table["budget_flops"] - table["booked_flops"] < 2 * 6 * 2 * SHAPE.num_params_non_embedding).all()
    assert "Learning rate" in launched.stdout

    page = store / "report" / "index.html"
    assert str(page) in launched.stdout
    assert all(trial_id in page.read_text() for trial_id in table["trial_id"])

    found = json.loads(isoflop(road, "recommend", str(store), "--budget", "2e9", "--json").stdout)
    assert found["model"] == MODEL
    status = json.loads(isoflop(road, "status", str(store), "--json").stdout)
    assert status["num_trials"] == 8

    exported = isoflop(road, "export", str(store), "--out", str(folder / "model"))
    assert exported.returncode == 0, exported.stderr
    best = table.loc[table["loss"].idxmin()]
    assert best["trial_id"] in exported.stdout and f"{best['loss']:.4f}" in exported.stdout
    card = (folder / "model" / "README.md").read_text()
    assert f'base_model: "{MODEL}"' in card and best["trial_id"] in card
    assert similarities(folder / "model").diagonal().min() > 0.99
    refused = isoflop(road, "export", str(store), "--out", str(folder / "model"))
    assert refused.returncode == 2 and "not empty" in refused.stderr

    again = isoflop(road, "launch", str(folder / "spec.yaml"), "--store", str(store))
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(Store.open(store).read_trials(), table)


def test_killed_and_launched_again_the_real_trials_give_the_same_rows(road: dict[str, str]) -> None:
    folder = Path(road["ROAD"])
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    if not undisturbed.exists():
        assert isoflop(road, "launch", str(folder / "spec.yaml"), "--store", str(undisturbed)).returncode == 0
    command = [sys.executable, "-m", "isoflop", "launch", str(folder / "spec.yaml"), "--store", str(killed)]
    for num_rows in (1, 5):
        driver = subprocess.Popen(command, env=road, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(killed.glob("trials/*.parquet"))) < num_rows and time.monotonic() < deadline:
            assert driver.poll() is None, "the driver ended before it could be killed"
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    # The file of pairs changes meanwhile: a sweep that was begun goes on with the data it was begun with.
    pairs = folder / "pairs.jsonl"
    begun_with = pairs.read_text()
    pairs.write_text(begun_with.replace("balan", "changed"))
    resumed = isoflop(road, "resume", str(killed))
    pairs.write_text(begun_with)
    assert resumed.returncode == 0, resumed.stderr
    pd.testing.assert_frame_equal(rows(killed), rows(undisturbed))


def test_full_counts_every_parameter_of_what_was_served() -> None:
    counts = parameter_counts(SHAPE, Full())
    assert counts.trainable == counts.total == 320 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32
