"""Checkpoints between a disk and object storage: sent whole, fetched whole, through faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cluster.carry import carried, fetched_weights
from cluster.lease import is_leased, leased
from sweeps.remote import RemotePath
from sweeps.store import StoreError
from tests.bucket import CREDENTIALS, Bucket, running_bucket
from trainer import checkpoint
from trainer.checkpoint import Checkpoint
from trainer.trial import Stopped, TrialFiles


@pytest.fixture(scope="module")
def service() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch, running_bucket() as bucket:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def bucket(service: Bucket) -> Iterator[Bucket]:
    yield service
    service.failing, service.seconds, service.away = 0.0, 0.0, False


def files(bucket: Bucket, prefix: str) -> TrialFiles:
    return TrialFiles(
        tokens="tokens",
        model="model",
        checkpoints=bucket.uri(f"{prefix}/checkpoints/trial"),
        weights=bucket.uri(f"{prefix}/weights/trial"),
    )


def save(here: TrialFiles, step: int) -> None:
    made = Checkpoint(step=step, tensors={"w": torch.full((1000,), float(step))}, record={"spent": step})
    checkpoint.save(Path(here.checkpoints), made, checkpoint.claim(Path(here.checkpoints)))


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_no_object_storage_s_is_used_as_it_is(tmp_path: Path) -> None:
    plain = TrialFiles(tokens="", model="", checkpoints=str(tmp_path))
    with carried(plain, name="plain") as here:
        assert here is plain


def test_a_trial_goes_on_elsewhere_from_what_was_sent(bucket: Bucket) -> None:
    """With a third of all requests failing: an interrupted life, one that dies without a word, and the last one."""
    asked = files(bucket, "on")
    bucket.failing = 0.3
    with pytest.raises(Stopped), carried(asked, name="first") as here:
        save(here, 3)
        (Path(here.checkpoints) / "attempts.json").write_text("[1]")
        raise Stopped
    remote = RemotePath(asked.checkpoints)
    with carried(asked, name="second") as here:
        found = checkpoint.load_newest(Path(here.checkpoints))
        assert found is not None and (found.step, found.record["spent"]) == (3, 3)
        assert (Path(here.checkpoints) / "attempts.json").read_text() == "[1]"
        save(here, 5)
        # Sent while the trial goes on: it may be killed in the next moment.
        wait_until(lambda: (remote / "step-5" / "record.json").exists())
        save(here, 7)
        save(here, 9)
    with carried(asked, name="third", send=False) as here:
        found = checkpoint.load_newest(Path(here.checkpoints))
        assert found is not None and found.step == 9
        assert torch.equal(found.tensors["w"], torch.full((1000,), 9.0))
    assert not Path(here.checkpoints).exists()
    steps = {name.split("/")[0] for name in remote.files_below() if "/" in name}
    assert len(steps) == checkpoint.KEPT and "step-9" in steps


def test_a_checkpoint_that_was_sent_in_part_or_is_broken_is_passed_over(bucket: Bucket) -> None:
    asked = files(bucket, "half")
    for step in (2, 4, 6):
        with carried(asked, name="writes") as here:
            save(here, step)
    remote = RemotePath(asked.checkpoints)
    (remote / "step-8" / "state.safetensors").write_bytes(b"killed before the record")
    (remote / "step-6" / "state.safetensors").write_bytes(b"not what was recorded")
    with carried(asked, name="reads") as here:
        found = checkpoint.load_newest(Path(here.checkpoints))
        assert found is not None and found.step == 4


def test_weights_are_sent_at_the_end_and_come_back(bucket: Bucket, tmp_path: Path) -> None:
    asked = files(bucket, "weights")
    with carried(asked, name="trains") as here:
        Path(here.weights).mkdir()
        (Path(here.weights) / "trained.safetensors").write_bytes(b"weights")
        (Path(here.weights) / "record.json").write_bytes(b"{}")
    folder = fetched_weights(RemotePath(asked.weights), tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "trained.safetensors": b"weights",
        "record.json": b"{}",
    }
    assert fetched_weights(tmp_path, tmp_path / "copy") == tmp_path


def test_a_storage_that_is_away_at_the_end_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeps import remote

    monkeypatch.setattr(remote, "_ATTEMPTS", 2)
    remote._file_system.cache_clear()
    with (
        pytest.raises(StoreError, match=r"cannot be reached .*launch again when it is there"),
        carried(files(bucket, "away"), name="away") as here,
    ):
        bucket.away = True
        save(here, 1)
    remote._file_system.cache_clear()


def test_one_driver_at_a_time_and_a_dead_one_s_lease_ends(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.lease.BEAT_SECONDS", 0.2)
    monkeypatch.setattr("cluster.lease.SILENT_SECONDS", 3.0)
    monkeypatch.setattr("cluster.lease.SETTLE_SECONDS", 0.1)
    store = RemotePath(bucket.uri("leased"))
    assert not is_leased(store)
    with leased(store):
        assert is_leased(store)
        with pytest.raises(ValueError, match="is being filled by another process"), leased(store):
            raise AssertionError("two drivers hold the store")
    assert not is_leased(store)
    (store / "driver.json").write_bytes(b'{"name": "dead", "at": 1.0}')
    with leased(store):
        assert is_leased(store)


def test_a_trial_of_two_stores_has_a_folder_for_each(bucket: Bucket) -> None:
    """Two sweeps on one machine may have the same trial, which has the same name in both."""
    with carried(files(bucket, "one"), name="twin") as one:
        save(one, 1)
        with carried(files(bucket, "two"), name="twin") as two:
            assert two.checkpoints != one.checkpoints
            assert (Path(one.checkpoints) / "step-1").is_dir()
        assert (Path(one.checkpoints) / "step-1").is_dir()
