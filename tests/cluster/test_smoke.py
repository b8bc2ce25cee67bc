"""The smoke preset through the real trainer, by the command line: an undisturbed sweep, and one that was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from sweeps.store import Store

COMPARED = ["trial_id", "state", "learning_rate", "temperature", "weight_decay", "booked_flops", "loss", "train_loss"]
LONGEST_WAIT_SECONDS = 600


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_smoke_sweep_has_the_rows_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said = subprocess.run(launch(whole), capture_output=True, text=True, check=True).stdout
    assert "dashboard: http://127.0.0.1:" in said
    assert "train nano-" in said
    assert f"report: {whole.resolve() / 'report' / 'index.html'}" in said

    driver = subprocess.Popen(launch(killed), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    wait_for_rows(killed, driver, 3)
    driver.kill()
    driver.wait()
    status = subprocess.run(isoflop("status", str(killed), "--json"), capture_output=True, text=True, check=True).stdout
    found = json.loads(status)
    assert 0 < found["num_rows"] < found["num_trials"]
    assert not found["is_driven"]
    subprocess.run(isoflop("resume", str(killed)), capture_output=True, check=True)

    pd.testing.assert_frame_equal(rows(killed), rows(whole), check_exact=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_trials_of_two_workers_with_zero_3_survive_their_driver_s_death(tmp_path: Path) -> None:
    spec = tmp_path / "gang.yaml"
    spec.write_text(
        "name: gang\ndata: {source: nano}\nmodels: [nano-1k, nano-3k]\nbudgets_flops: [6e9]\ntrials: 1\n"
        "methods: [full, lora: {rank: 2, alpha: 4}]\nsearch: {learning_rate: 0.01}\n"
        "fixed: {batch_size: 64, max_length: 32}\n"
        "resources: {cpus_per_trial: 1, workers_per_trial: 2, zero_stage: 3, reuse_actors: false}\n"
    )
    store = tmp_path / "store"
    command = isoflop("launch", str(spec), "--store", str(store))
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    wait_for_rows(store, driver, 1)
    driver.kill()
    driver.wait()
    subprocess.run(isoflop("resume", str(store)), capture_output=True, check=True)
    found = Store.open(store).read_trials()
    assert (found["state"] == "COMPLETE").all()
    assert sorted(found["method"]) == ["full", "full", "lora-r2", "lora-r2"]
    assert (found["num_workers"] == 2).all() and (found["zero_stage"] == 3).all()


def isoflop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "isoflop", *arguments]


def launch(store: Path) -> list[str]:
    return isoflop("launch", "smoke", "--store", str(store))


def rows(store: Path) -> pd.DataFrame:
    return Store.open(store).read_trials()[COMPARED]


def wait_for_rows(store: Path, driver: subprocess.Popen[bytes], num_rows: int) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        assert driver.poll() is None, "the driver ended before it could be killed"
        if len(Store(store).trial_ids()) >= num_rows:
            return
        time.sleep(0.1)
    raise AssertionError("no rows came")
