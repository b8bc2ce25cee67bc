"""``python -m trainer``: one trial from flags, and one sentence for bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl
from trainer import __main__ as command


def start(cache: Path, *flags: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ISOFLOP_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trainer", *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(cache: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    process = start(cache, *flags)
    out, error = process.communicate(timeout=280)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def test_one_trial_of_a_local_decoder_on_a_file(tmp_path: Path) -> None:
    model = tmp_path / "decoder"
    save_tokenizer(model)
    save_decoder(model)
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1200))
    flags = ["--model", str(model), "--data", str(pairs), "--max-length", "16", "--budget", "2e8"]
    flags += ["--method", "lora", "--rank", "2", "--num-pairs", "32", "--num-candidates", "16", "--batch-size", "8"]
    ended = run(tmp_path / "cache", *flags)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["state"] == "COMPLETE"
    assert result["trial_id"].startswith("2.0e8-decoder-lora-r2-")
    assert 0 < result["metrics"]["loss"] < 5
    assert result["spending"]["booked_flops"] <= 2e8


def test_a_bad_flag_is_one_sentence_before_anything_is_prepared(tmp_path: Path) -> None:
    ended = run(tmp_path / "cache", "--method", "lora", "--rank", "0")
    assert ended.returncode == 2
    assert ended.stderr.strip() == "trainer: rank is 0: give a whole number from 1 up"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--budget nan", "--budget is nan: give FLOPs"),
        ("--budget inf", "--budget is inf: give FLOPs"),
        ("--budget 0.5", "--budget is 0.5: give FLOPs from 1 up"),
        ("--learning-rate nan", "learning_rate is nan"),
        ("--temperature 0", "temperature is 0.0"),
        ("--weight-decay -1", "weight_decay is -1.0"),
        ("--batch-size 1", "batch_size is 1: give at least 2"),
        ("--max-length 0", "max_length is 0: give at least 2"),
        ("--num-candidates 1", "num_candidates is 1"),
        ("--num-pairs 10", "num_pairs is 10"),
        ("--chunk-tokens 0", "chunk_tokens is 0"),
        ("--workers 0", "num_workers is 0"),
        ("--checkpoints {file}", "--checkpoints is '{file}'"),
        ("--checkpoints {file}/sub", "nothing can be written to '{file}'"),
        ("--export {full}", "--export is '{full}', which is not empty"),
        ("--export {file}", "--export is '{file}'"),
    ],
)
def test_a_value_out_of_range_is_one_sentence_before_anything_is_prepared(
    flags: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"file": tmp_path / "full" / "file", "full": tmp_path / "full"}
    places["full"].mkdir()
    places["file"].write_text("kept")
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["trainer", *flags.format(**places).split()])
    assert command.main() == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("trainer: ") and said.format(**places) in error and ": give " in error
    assert not (tmp_path / "cache").exists() and places["file"].read_text() == "kept"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_sentence_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["trainer", "--device", "cuda"])
    assert command.main() == 2
    assert capsys.readouterr().err == "trainer: --device is cuda, and torch finds no GPU here: give --device cpu\n"
    assert not (tmp_path / "cache").exists()


def test_what_other_code_raises_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "prepare", lambda *_, **__: json.loads("no json"))
    monkeypatch.setattr(sys, "argv", ["trainer"])
    with pytest.raises(json.JSONDecodeError):
        command.main()


def test_sigterm_ends_at_the_next_step_with_a_checkpoint_and_a_status_of_its_own(tmp_path: Path) -> None:
    model = tmp_path / "decoder"
    save_tokenizer(model)
    save_decoder(model)
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1200))
    flags = ["--model", str(model), "--data", str(pairs), "--max-length", "16", "--budget", "2e8"]
    flags += ["--num-pairs", "32", "--num-candidates", "16", "--batch-size", "8"]
    whole = run(tmp_path / "cache", *flags, "--export", str(tmp_path / "exported"))
    assert whole.returncode == 0, whole.stderr

    stopped = ["--checkpoints", str(tmp_path / "stopped"), "--checkpoint-seconds", "0"]
    victim = start(tmp_path / "cache", *flags, *stopped)
    while not (tmp_path / "stopped").is_dir() and victim.poll() is None:
        time.sleep(0.01)
    victim.terminate()
    _, said = victim.communicate(timeout=120)
    assert victim.returncode == 75, said
    assert "trainer: stopped; go on with --checkpoints" in said
    assert len(list((tmp_path / "stopped").glob("step-*"))) >= 1

    resumed = run(tmp_path / "cache", *flags, *stopped)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["num_resumes"] == 1
    assert json.loads(resumed.stdout)["metrics"] == json.loads(whole.stdout)["metrics"]
    assert SentenceTransformer(str(tmp_path / "exported")).encode(["a text"]).shape == (1, 32)
