"""Checkpoints are whole or not there, and a damaged one gives way to the one before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.checkpoint import Checkpoint, claim, load_newest
from trainer.trial import Stopped


def at(step: int) -> Checkpoint:
    return Checkpoint(step=step, tensors={"w": torch.full((300,), float(step))}, record={"note": f"step {step}"})


def save(folder: Path, made: Checkpoint) -> None:
    checkpoint.save(folder, made, claim(folder))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != checkpoint.LIFE)


def test_the_newest_two_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path, at(step))
    assert names(tmp_path) == ["step-10", "step-11"]
    found = load_newest(tmp_path)
    assert found is not None
    assert (found.step, found.record) == (11, {"note": "step 11"})
    assert torch.equal(found.tensors["w"], torch.full((300,), 11.0))


def test_no_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "never made") is None


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "state missing", "record cut", "another step"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save(tmp_path, at(1))
    save(tmp_path, at(2))
    newest = tmp_path / "step-2"
    state, record = newest / "state.safetensors", newest / "record.json"
    match damage:
        case "truncated":
            state.write_bytes(state.read_bytes()[:-100])
        case "bit flipped":
            content = bytearray(state.read_bytes())
            content[-1] ^= 1
            state.write_bytes(bytes(content))
        case "state missing":
            state.unlink()
        case "record cut":
            record.write_text(record.read_text()[:20])
        case "another step":
            newest.rename(tmp_path / "step-3")
    with pytest.warns(UserWarning, match="cannot be used"):
        found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_half_written_folder_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, at(1))
    (tmp_path / ".step-2.123.partial").mkdir()
    (tmp_path / ".step-2.123.partial" / "state.safetensors").write_bytes(b"half")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, at(1))
    (tmp_path / ".step-2.123.partial").mkdir()
    load_newest(tmp_path)
    assert names(tmp_path) == ["step-1"]


def test_a_full_disk_keeps_the_old_one_and_says_what_it_is(tmp_path: Path) -> None:
    """A limit on the size of a file is to safetensors what a full disk is: an error that is no ``OSError``."""
    save(tmp_path, at(1))
    script = (
        "import errno, resource, signal, sys; from pathlib import Path; import torch;"
        "from trainer import whole; from trainer.checkpoint import Checkpoint, claim, save;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "whole._FULL = (errno.EFBIG,);"
        "folder = Path(sys.argv[1]); large = {'w': torch.zeros(100_000)};"
        "save(folder, Checkpoint(step=2, tensors=large, record={}), claim(folder))"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "OSError: [Errno 27] File too large" in ended.stderr
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize("record", ["[]", "null", "3"])
def test_a_record_that_is_no_object_gives_way_to_the_one_before(tmp_path: Path, record: str) -> None:
    save(tmp_path, at(1))
    save(tmp_path, at(2))
    (tmp_path / "step-2" / "record.json").write_text(record)
    with pytest.warns(UserWarning, match="cannot be used"):
        found = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, at(5))
    save(tmp_path, at(5))
    assert names(tmp_path) == ["step-5"]


def test_a_life_that_was_replaced_saves_nothing(tmp_path: Path) -> None:
    """A process that was cut off goes on writing while its trial has begun again elsewhere."""
    first = claim(tmp_path)
    checkpoint.save(tmp_path, at(1), first)
    second = claim(tmp_path)
    with pytest.raises(Stopped, match="another life"):
        checkpoint.save(tmp_path, at(2), first)
    assert names(tmp_path) == ["step-1"]
    checkpoint.save(tmp_path, at(2), second)
    assert names(tmp_path) == ["step-1", "step-2"]
