"""The store: rows come back as they were, writing is all or nothing, and what is broken is named with its mend."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.agenda import Agenda
from sweeps.columns import CURVE_SCHEMA, SCHEMA, columns_markdown, to_row
from sweeps.compact import Compact
from sweeps.reading import read_spec
from sweeps.search import Finished
from sweeps.store import COLUMNS, Store, StoreError
from tests.sweeps.examples import SPEC, edited, result_of, studies_of, trial_spec
from trainer.result import TrialState
from trainer.trial import Bias, Freeze, Full, Lora, Placement

PREPARED = json.dumps({"manifest": {"hash": "0123456789abcdef"}})
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "example", read_spec(SPEC), PREPARED)


def files(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("state", TrialState)
@pytest.mark.parametrize("method", [Full(), Bias(), Freeze(active_fraction=0.5), Lora(rank=4, alpha=8)])
def test_a_result_comes_back_as_it_was(store: Store, state: TrialState, method: Full) -> None:
    result = result_of(replace(trial_spec(), method=method), state=state, loss=1 / 3)
    store.record(result)
    assert store.read_trial(result.spec.trial_id) == replace(result, curve=())
    assert store.read_curve(result.spec.trial_id).to_dict("records")[3] == {
        "step": 4, "tokens": 400, "spent_flops": 4000, "learning_rate": 0.025, "train_loss": 1.0, "gradient_norm": 1.5,
    }  # fmt: skip


def test_rows_and_their_files(store: Store) -> None:
    results = [result_of(trial_spec(n), loss=3 + n) for n in range(3)]
    results.append(result_of(trial_spec(3), state=TrialState.DIVERGED))
    for result in results:
        store.record(result)
    ids = {result.spec.trial_id for result in results}
    assert store.trial_ids() == ids
    assert all(store.has(trial_id) for trial_id in ids) and not store.has("another")
    kinds = ("trials", "curves")
    assert files(store) == {"sweep.yaml", "prepared.json", *(f"{k}/{i}.parquet" for k in kinds for i in ids)}
    rows = store.read_trials().sort_values("number")
    assert rows["loss"].tolist()[:3] == [3, 4, 5] and np.isnan(rows["loss"].tolist()[3])
    assert rows["method"].tolist() == ["lora-r4"] * 4
    assert rows["method_rank"].tolist() == [4] * 4 and rows["method_active_fraction"].isna().all()
    assert rows["device_seconds"].tolist() == [9.0] * 4  # two workers
    assert rows["error"].tolist() == ["", "", "", "step 3: loss nan"]
    assert rows.attrs["broken"] == ()


def test_device_seconds_are_those_of_the_share_of_a_gpu_that_each_worker_has(store: Store) -> None:
    quarter = Placement(device="cuda", num_workers=2, gpus_per_worker=0.25)
    store.record(replace(result_of(trial_spec()), placement=quarter))
    assert store.read_trials()["device_seconds"].tolist() == [4.5 * 2 * 0.25]


def test_rows_are_typed_with_and_without_content(store: Store) -> None:
    empty = store.read_trials()
    store.record(result_of(trial_spec(), state=TrialState.FAILED))
    failed = store.read_trials()
    store.record(result_of(trial_spec(1)))
    full = store.read_trials()
    assert list(empty) == list(full) == [c.name for c in COLUMNS]
    assert list(empty.dtypes) == list(failed.dtypes) == list(full.dtypes)
    assert len(empty) == 0
    assert (
        full.dtypes["tokens"] == np.int64
        and full.dtypes["budget_flops"] == np.float64
        and full.dtypes["loss"] == np.float64
    )


def test_a_curve_without_points_is_typed(store: Store) -> None:
    result = replace(result_of(trial_spec()), curve=())
    store.record(result)
    curve = store.read_curve(result.spec.trial_id)
    assert list(curve) == CURVE_SCHEMA.names and len(curve) == 0 and curve.dtypes["step"] == np.int64


def test_rows_are_readable_without_this_project(store: Store) -> None:
    for n in range(3):
        store.record(result_of(trial_spec(n)))
    pd.testing.assert_frame_equal(pd.read_parquet(store.root / "trials"), store.read_trials())


def test_writing_again_changes_nothing_and_a_failure_never_replaces_a_row(store: Store) -> None:
    result = result_of(trial_spec())
    store.record(result)
    before = {name: (store.root / name).read_bytes() for name in files(store)}
    store.record(result)
    store.record(result_of(trial_spec(), state=TrialState.FAILED))
    assert {name: (store.root / name).read_bytes() for name in files(store)} == before


def test_a_late_result_replaces_a_failure(store: Store) -> None:
    store.record(result_of(trial_spec(), state=TrialState.FAILED))
    store.record(result_of(trial_spec()))
    assert store.read_trials()["state"].tolist() == ["COMPLETE"]


def test_the_agenda_of_a_store(store: Store) -> None:
    studies = studies_of(read_spec(SPEC))
    agenda = Agenda(studies)
    for study, number in list(agenda.ready()):
        store.record(result_of(agenda.trial(study, number)))
    again = Agenda(studies)
    for trial_id in store.trial_ids():
        result = store.read_trial(trial_id)
        again.tell(Finished(spec=result.spec, state=result.state, loss=result.metrics.loss if result.metrics else None))
    assert len(again.remaining) == 8


# Making and opening


def test_create_freezes_the_spec_and_opening_again_resumes(store: Store) -> None:
    result = result_of(trial_spec())
    store.record(result)
    before = (store.root / "sweep.yaml").read_bytes()
    other_machine = read_spec(SPEC + "resources: {max_concurrent_trials: 2}\n")
    again = Store.create(store.root, other_machine, "{}")
    assert again.trial_ids() == {result.spec.trial_id}
    assert (store.root / "sweep.yaml").read_bytes() == before
    assert Store.open(store.root).spec == read_spec(SPEC)
    assert Store.open(store.root).prepared == PREPARED


def test_what_was_prepared_may_change_until_there_is_a_row(store: Store) -> None:
    assert Store.create(store.root, read_spec(SPEC), "{}").prepared == "{}"


def test_another_spec_in_the_same_store_is_refused(store: Store) -> None:
    other = read_spec(edited("low: 0.001", "low: 0.002"))
    words = r"methods\[0\]\.search\.weight_decay\.low is 0\.002 in this spec and 0\.001 there; give .*name.*--store"
    with pytest.raises(StoreError, match=words):
        Store.create(store.root, other, PREPARED)
    assert Store.open(store.root).spec == read_spec(SPEC)


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere' does not exist: give the folder of a sweep"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"holds no sweep\.yaml"):
        Store.open(tmp_path)


def test_a_folder_of_other_things_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"other files and no sweep\.yaml: give another --store"):
        Store.create(tmp_path, read_spec(SPEC), PREPARED)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for root in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StoreError, match=r"give another --store"):
            Store.create(root, read_spec(SPEC), PREPARED)
        with pytest.raises(StoreError, match=r"give the folder of a sweep"):
            Store.open(root)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_sweep_file_that_cannot_be_read(store: Store) -> None:
    (store.root / "sweep.yaml").write_text("name: [")
    with pytest.raises(StoreError, match=r"sweep\.yaml: line 1 cannot be read as YAML.*bring back"):
        Store.create(store.root, read_spec(SPEC), PREPARED)


# What is broken


def broken(store: Store, content: bytes) -> Path:
    """A store with two sound rows and one file of this content in the place of a third."""
    for n in range(3):
        store.record(result_of(trial_spec(n)))
    path = store.root / "trials" / f"{trial_spec(1).trial_id}.parquet"
    path.write_bytes(content)
    return path


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def whole_row() -> bytes:
    return parquet(to_row(result_of(trial_spec(1))))


DAMAGE = {
    "empty": (b"", "not a whole Parquet file"),
    "cut off": (whole_row()[:-300], "not a whole Parquet file"),
    "first half": (whole_row()[:2000], "not a whole Parquet file"),
    "noise": (os.urandom(5000), "not a whole Parquet file"),
    "foreign table": (parquet(pa.table({"a": [1]})), "does not have this version's columns"),
    "other types": (
        parquet(to_row(result_of(trial_spec(1))).set_column(2, "budget_flops", pa.array([1.0]))), "(a type differ)"),
    "no rows": (parquet(SCHEMA.empty_table()), "has 0 rows instead of one"),
    "another trial": (parquet(to_row(result_of(trial_spec(2)))), "holds another trial"),
    "changed spec": (
        parquet(
            to_row(result_of(trial_spec(1))).set_column(
                len(SCHEMA) - 1, SCHEMA.field("spec"), pa.array([trial_spec(2).to_json()])
            )
        ),
        "holds another trial",
    ),
    "spec that is none": (
        parquet(to_row(result_of(trial_spec(1))).set_column(len(SCHEMA) - 1, SCHEMA.field("spec"), pa.array(["{}"]))),
        "trial spec that cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_row_is_named_with_its_mend_and_the_others_are_kept(store: Store, damage: str) -> None:
    content, words = DAMAGE[damage]
    path = broken(store, content)
    with pytest.raises(StoreError) as caught:
        store.read_trials()
    message = str(caught.value)
    assert str(path) in message and words in message and "delete this file and its trial is run again" in message
    with pytest.raises(StoreError, match="delete this file"):
        store.read_trial(trial_spec(1).trial_id)
    rows = store.read_trials(strict=False)
    assert sorted(rows["number"]) == [0, 2]
    assert rows.attrs["broken"] == (message,)
    path.unlink()
    assert sorted(store.read_trials()["number"]) == [0, 2]


def test_several_broken_rows_are_counted(store: Store) -> None:
    broken(store, b"")
    (store.root / "trials" / f"{trial_spec(2).trial_id}.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match=r"\(1 more like it\)"):
        store.read_trials()
    assert len(store.read_trials(strict=False).attrs["broken"]) == 2


def test_leftovers_and_foreign_files_are_passed_over(store: Store) -> None:
    store.record(result_of(trial_spec()))
    (store.root / "trials" / ".0123.tmp").write_bytes(b"half a row")
    (store.root / "trials" / ".DS_Store").write_bytes(b"")
    (store.root / "trials" / "notes.txt").write_text("mine")
    assert len(store.read_trials()) == 1
    assert store.trial_ids() == {trial_spec().trial_id}


@pytest.mark.parametrize("trial_id", ["", ".", "..", "../../home", "a/b", "/etc/passwd", ".hidden", "a\0b", "a b"])
def test_trial_ids_never_leave_the_folder(store: Store, trial_id: str) -> None:
    for call in (store.has, store.read_trial, store.read_curve, store.checkpoints, store.remove_checkpoints):
        with pytest.raises(StoreError, match="trial id"):
            call(trial_id)


def test_a_trial_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="does not exist: give the id of a trial that has ended"):
        store.read_trial("4.0e10-nano-3k-full-000000000000")


def test_checkpoints_of_trials_with_a_row_are_removed(store: Store) -> None:
    result = result_of(trial_spec(0))
    store.record(result)
    done, begun = store.checkpoints(result.spec.trial_id), store.checkpoints("begun")
    store.remove_finished_checkpoints()
    for folder in (done, begun, store.root / "checkpoints" / ".foreign"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    store.remove_finished_checkpoints()
    assert sorted(path.name for path in (store.root / "checkpoints").iterdir()) == [".foreign", "begun"]


def test_checkpoints_are_removed_alone(store: Store) -> None:
    one, two = store.checkpoints("one"), store.checkpoints("two")
    for folder in (one, two):
        folder.mkdir(parents=True)
        (folder / "step-1").write_bytes(b"weights")
    store.remove_checkpoints("one")
    store.remove_checkpoints("one")
    assert not one.exists() and (two / "step-1").exists()


# Faults while writing


def test_a_full_disk_leaves_no_half_file_and_says_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.record(result_of(trial_spec(0)))
    before = files(store)

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", no_space)
        with pytest.raises(
            StoreError, match=r"cannot be written \(No space left on device\): make room and launch again"
        ):
            store.record(result_of(trial_spec(1)))
    assert files(store) == before
    store.record(result_of(trial_spec(1)))
    assert len(store.read_trials()) == 2


def test_a_file_that_grows_over_its_limit_leaves_no_half_file(store: Store) -> None:
    """The operating system itself cuts the write off."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from sweeps.store import Store\n"
        "from tests.sweeps.examples import result_of, trial_spec\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    Store.open(Path(sys.argv[1])).record(result_of(trial_spec()))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "cannot be written (File too large)" in run.stdout
    assert files(store) == {"sweep.yaml", "prepared.json", f"curves/{trial_spec().trial_id}.parquet"}


def test_no_permission(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match=r"\(Permission denied\): check its permissions, or give another --store"):
        store.record(result_of(trial_spec()))
    assert files(store) == {"sweep.yaml", "prepared.json"}


@pytest.mark.parametrize("after", [0.0, 0.05, 0.2])
def test_a_killed_writer_leaves_whole_rows_only(store: Store, after: float) -> None:
    code = (
        "import itertools, sys\n"
        "from pathlib import Path\n"
        "from sweeps.store import Store\n"
        "from tests.sweeps.examples import result_of, trial_spec\n"
        "store = Store.open(Path(sys.argv[1]))\n"
        "for n in itertools.count():\n"
        "    store.record(result_of(trial_spec(n)))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(store.root)], cwd=ROOT)
    while not store.trial_ids():
        assert writer.poll() is None
        time.sleep(0.005)
    time.sleep(after)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = store.read_trials()
    assert sorted(rows["number"]) == list(range(len(rows)))
    for trial_id in rows["trial_id"]:
        assert len(store.read_curve(trial_id)) == 5  # the curve was there before the row


def test_many_writers_of_the_same_rows_and_readers_beside_them(store: Store) -> None:
    results = [result_of(trial_spec(n)) for n in range(10)]
    writers = [threading.Thread(target=lambda: [store.record(r) for r in results]) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store.read_trials()
    assert sorted(store.read_trials()["number"]) == list(range(10))
    assert not [name for name in files(store) if name.endswith(".tmp")]


def copies(store: Store) -> list[int]:
    """The numbers of the trials whose rows are in compact files."""
    tables = [pd.read_parquet(path)["number"] for path in (store.root / "compact").iterdir()]
    return sorted(number for table in tables for number in table)


def row_file(store: Store, number: int) -> Path:
    return store.root / "trials" / f"{trial_spec(number).trial_id}.parquet"


def recorded(store: Store, numbers: range) -> None:
    for n in numbers:
        state = TrialState.FAILED if n % 10 == 9 else TrialState.COMPLETE
        store.record(result_of(trial_spec(n), state=state, loss=3 + n))


def test_many_rows_are_copied_into_few_files_and_read_as_they_are(store: Store) -> None:
    recorded(store, range(80))
    first = store.read_trials()
    assert copies(store) == list(range(80)) and len(first) == 80
    pd.testing.assert_frame_equal(store.read_trials(), first)
    for start in range(80, 320, 80):
        recorded(store, range(start, start + 80))
        store.read_trials()
    assert copies(store) == list(range(320)), "each row is in one file"
    assert len(list((store.root / "compact").iterdir())) <= 3
    assert sorted(store.read_trials()["number"]) == list(range(320))
    table, _ = store.read_table(("loss", "number"))
    assert table.column_names == ["loss", "number"] and sorted(table["number"].to_pylist()) == list(range(320))


def test_a_copy_never_stands_in_for_a_row_that_was_deleted_or_replaced(store: Store) -> None:
    recorded(store, range(80))
    store.read_trials()
    row_file(store, 0).unlink()
    store.record(result_of(trial_spec(9), loss=99))
    rows = store.read_trials().set_index("number").sort_index()
    assert list(rows.index) == list(range(1, 80))
    assert rows.loc[9, "state"] == "COMPLETE" and rows.loc[9, "loss"] == 99
    assert rows.loc[19, "state"] == "FAILED"
    store.record(result_of(trial_spec(0), loss=77))
    assert store.read_trials().set_index("number").loc[0, "loss"] == 77, "the deleted row's copy came back"


def test_compact_files_that_are_damaged_doubled_or_left_by_a_kill_lose_and_double_nothing(store: Store) -> None:
    recorded(store, range(80))
    first = store.read_trials()
    folder = store.root / "compact"
    [segment] = folder.iterdir()
    # Killed between writing a merged file and removing those in it; or two that compact at once.
    (folder / "again.parquet").write_bytes(segment.read_bytes())
    pd.testing.assert_frame_equal(store.read_trials(), first)
    recorded(store, range(80, 160))
    store.read_trials()
    assert copies(store) == list(range(160))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    (folder / ".killed.tmp").write_bytes(b"half")
    assert sorted(store.read_trials()["number"]) == list(range(160))


def test_reading_copies_does_not_wait_for_pandas(store: Store) -> None:
    """It takes as long to load as a status may; Arrow loads it in some functions, and not in others."""
    recorded(store, range(80))
    store.read_trials()
    folder = store.root / "compact"
    [segment] = folder.iterdir()
    (folder / "again.parquet").write_bytes(segment.read_bytes())
    code = (
        "import sys; from sweeps.store import Store; "
        "print(len(Store.open(sys.argv[1]).read_table(('loss',))[0]), 'pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["80", "False"]


def test_many_that_compact_at_once_beside_writers_lose_and_double_nothing(store: Store) -> None:
    def write(first: int) -> None:
        recorded(Store(store.root), range(first, 160, 4))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    counts: list[list[int]] = [[], []]

    def read(own: list[int]) -> None:
        while any(thread.is_alive() for thread in threads[:4]):
            numbers = list(Store(store.root).read_trials()["number"])
            assert len(numbers) == len(set(numbers))
            own.append(len(numbers))
            time.sleep(0.1)

    threads += [threading.Thread(target=read, args=(own,)) for own in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in counts)
    assert sorted(store.read_trials()["number"]) == list(range(160))


def test_the_documentation_is_the_table() -> None:
    assert (ROOT / "docs" / "columns.md").read_text() == columns_markdown()


def test_a_row_of_before_a_column_that_may_be_absent_is_read_with_nothing_in_it(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store", read_spec(SPEC), "{}")
    result = result_of(trial_spec())
    store.record(result)
    path = tmp_path / "store" / "trials" / f"{result.spec.trial_id}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["checked"]), path, store_schema=False)
    assert store.read_trial(result.spec.trial_id) == replace(result, curve=())
    assert store.read_trials()["checked"].isna().all()
    pq.write_table(pq.read_table(path).drop_columns(["model"]), path, store_schema=False)
    with pytest.raises(StoreError, match=r"this version's columns \(model differ\)"):
        store.read_trials()


def test_copies_from_before_a_column_that_may_be_absent_are_still_read(tmp_path: Path) -> None:
    """Else a hundred thousand rows would be read one by one after every new column."""
    today = pa.schema(
        [
            pa.field("trial_id", pa.string(), nullable=False),
            pa.field("later", pa.float64()),
            pa.field("loss", pa.float64(), nullable=False),
        ]
    )
    before, others = today.remove(1), today.remove(2)
    write = Path.write_bytes

    def filled(schema: pa.Schema, row: dict[str, object]) -> Compact:
        tmp_path.mkdir(exist_ok=True)
        copies = Compact(tmp_path, schema, write)
        copies.add(pa.Table.from_pylist([row], schema=schema))
        return copies

    filled(before, {"trial_id": "a", "loss": 1.0})
    filled(others, {"trial_id": "lacks what every row has", "later": 0.5})
    found = Compact(tmp_path, today, write)
    assert found.read(["loss", "later", "trial_id"]).to_pylist() == [{"loss": 1.0, "later": None, "trial_id": "a"}]
    found.add(pa.Table.from_pylist([{"trial_id": "b", "later": 2.0, "loss": 3.0}], schema=today))
    assert sorted(found.read(["trial_id", "later"]).to_pylist(), key=lambda row: row["trial_id"]) == [
        {"trial_id": "a", "later": None},
        {"trial_id": "b", "later": 2.0},
    ]
