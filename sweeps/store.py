"""The results store: a folder with one Parquet file for each fact, written whole, named by what it is.

The folder is a path, or a place on object storage (``sweeps/remote.py``), where each file is one object:

    sweep.yaml                       the frozen spec
    prepared.json                    the data manifest and the models, as they were prepared
    trials/<trial_id>.parquet        how a trial ended: one row (``sweeps/columns.py``)
    curves/<trial_id>.parquet        its loss, learning rate and gradient norm over the steps
    checkpoints/<trial_id>/          what an unfinished trial goes on from
    tensorboard/<trial_id>/          the curve for TensorBoard, while the trial runs (``cluster/trackers.py``)
    weights/<trial_id>/              what a trial has trained, where the spec keeps it (``sweeps/weights.py``)
    scores/<trial_id>/<task>.parquet evaluations of a trial with kept weights (``sweeps/scores.py``)
    unrecorded.json                  device seconds of trials that no row tells, for the caps on a sweep
    compact/*.parquet                copies of many rows in few files: only for speed (``sweeps/compact.py``)

Knows files, and which of them belong together. A file is written under a temporary name, flushed and renamed, so
that a reader sees all of it or nothing; an object is written in one go, which is the same. Writing twice is harmless
and no lock is needed. Never knows Ray, Optuna, the trainer's inside or what the numbers mean.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.columns import (
    COLUMNS,
    CURVE_SCHEMA,
    SCHEMA,
    columns_markdown,
    contradictions,
    from_row,
    to_curve,
    to_row,
)
from sweeps.compact import Compact, once, strings
from sweeps.extension import obstacle
from sweeps.files import (
    Root,
    StoreError,
    read_row,
    read_table_of,
    remove,
    safe_name,
    stamp_of,
    to_parquet,
    try_row,
    write_whole,
)
from sweeps.reading import read_spec
from sweeps.remote import place
from sweeps.spec import SweepSpec
from trainer.result import TrialResult, TrialState

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Root", "Store", "StoreError", "columns_markdown"]

_READERS = 8
_WORTH_COMPACTING = 64
_BATCH = 1024
_COMPACT_SCHEMA = SCHEMA.append(pa.field("stamp", pa.string(), nullable=False))


class Store:
    """The store of one sweep, in the folder ``root``: a path, or a URI of object storage."""

    def __init__(self, root: Root | str) -> None:
        self.root = place(root)
        self._compact = Compact(self.root / "compact", _COMPACT_SCHEMA, write_whole)

    @classmethod
    def create(cls, root: Root | str, spec: SweepSpec, prepared: str) -> Store:
        """The sweep's store, made where there is none, and taken up again where it holds the same sweep or a part.

        ``prepared`` is the JSON of what the sweep works with; that of the first launch is kept once there are rows,
        until the sweep is extended (``sweeps/extension.py``). Raises ``StoreError`` where ``root`` holds another sweep,
        something else, or cannot be written.
        """
        store = cls(root)
        is_new = True
        if store._has_sweep():
            store.refuse_another(spec)
            is_new = store.spec.hash != spec.hash
        else:
            store._refuse_other_files()
        if is_new:
            write_whole(store.root / "sweep.yaml", spec.to_yaml().encode())
        if is_new or not store.trial_ids():
            write_whole(store.root / "prepared.json", prepared.encode())
        return store

    @classmethod
    def open(cls, root: Root | str) -> Store:
        """The store that is there. Raises ``StoreError`` where there is none."""
        store = cls(root)
        if not store._has_sweep():
            found = "holds no sweep.yaml" if store.root.is_dir() else "does not exist"
            raise StoreError(f"store {str(store.root)!r} {found}: give the folder of a sweep that was launched")
        return store

    @property
    def spec(self) -> SweepSpec:
        """The frozen spec. Raises ``StoreError`` where its file cannot be read as one."""
        path = self.root / "sweep.yaml"
        try:
            return read_spec(path if isinstance(path, Path) else path.read_text())
        except OSError as error:
            raise StoreError(
                f"{path} cannot be read ({error.strerror}): try again when the storage is there"
            ) from error
        except ValueError as error:
            raise StoreError(f"{error}; this is the store's own file, so bring back the one that was there") from error

    @property
    def prepared(self) -> str:
        """The JSON that ``create`` was given."""
        path = self.root / "prepared.json"
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}): launch the sweep again") from error

    def write_note(self, text: str) -> None:
        """Leave what a driver says of itself: nothing depends on it."""
        write_whole(self.root / ".progress.json", text.encode())

    def read_note(self) -> str | None:
        """What the last driver said; ``None`` where it said nothing."""
        try:
            return (self.root / ".progress.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def trial_ids(self) -> frozenset[str]:
        """The trials that have a row."""
        return frozenset(self._row_ids())

    def has(self, trial_id: str) -> bool:
        return self._file("trials", trial_id).exists()

    def record(self, result: TrialResult) -> None:
        """Write a trial's curve, then its row: where there is a row, all of it is there.

        Writing the same result twice changes nothing, and a failure never replaces a row. Raises ``StoreError`` where
        there is no room or no permission; then no half file is left.
        """
        trial_id = result.spec.trial_id
        if result.state is TrialState.FAILED and self.has(trial_id):
            return
        write_whole(self._file("curves", trial_id), to_parquet(to_curve(result)))
        write_whole(self._file("trials", trial_id), to_parquet(to_row(result)))

    def read_trial(self, trial_id: str) -> TrialResult:
        """How a trial ended, without its curve. Raises ``StoreError`` where its row is missing or broken."""
        [row] = read_row(self._file("trials", trial_id)).to_pylist()
        return from_row(row)

    def contradictions(self, trial_id: str) -> tuple[str, ...]:
        """Columns of a trial's row that do not follow from its spec: somebody has changed the file."""
        [row] = read_row(self._file("trials", trial_id)).to_pylist()
        return contradictions(row)

    def read_trials(self, *, strict: bool = True) -> pd.DataFrame:
        """Every row, one line each, by trial id, with the columns of ``COLUMNS``; typed also where there is none.

        A row that cannot be read raises ``StoreError``, or, with ``strict=False``, is left out and its sentence is put
        into the frame's ``attrs["broken"]``, a tuple that is there either way.
        """
        table, broken = self.read_table(strict=strict)
        rows: pd.DataFrame = table.sort_by("trial_id").to_pandas()
        rows.attrs["broken"] = broken
        return rows

    def read_table(
        self, columns: Sequence[str] = SCHEMA.names, *, strict: bool = True
    ) -> tuple[pa.Table, tuple[str, ...]]:
        """``read_trials`` as an Arrow table of these columns in any order of rows, and the sentences of what cannot be
        read."""
        ids = strings(self._row_ids())
        copies = self._copies(ids, columns)
        # Joining no chunks at all would import pandas, which takes as long as a status may.
        copied = copies["trial_id"].combine_chunks() if len(copies) else strings([])
        # The copies are of these trials, each once: where they are as many, there is nothing else to read.
        new = [] if len(copied) == len(ids) else ids.filter(pc.invert(pc.is_in(ids, value_set=copied))).to_pylist()
        tables, broken = [copies.select(columns)], list[StoreError]()
        for start in range(0, len(new), _BATCH):
            found, errors = self._read_rows(new[start : start + _BATCH])
            tables.append(found.select(columns))
            broken += errors
        if broken and strict:
            more = f" ({len(broken) - 1} more like it)" if len(broken) > 1 else ""
            raise StoreError(f"{broken[0]}{more}")
        return pa.concat_tables(tables), tuple(str(error) for error in broken)

    def _read_rows(self, trial_ids: Sequence[str]) -> tuple[pa.Table, list[StoreError]]:
        """These rows from their own files, copied into a compact one where that is worth it."""
        with ThreadPoolExecutor(_READERS) as pool:
            outcomes = list(pool.map(try_row, [self._file("trials", trial_id) for trial_id in trial_ids]))
        # One row is 60 columns of one value each: a thousand such tables take as much memory as a million rows.
        tables = [
            pa.Table.from_batches([], SCHEMA),
            *(outcome for outcome in outcomes if isinstance(outcome, pa.Table)),
        ]
        found = pa.concat_tables(tables).combine_chunks()
        if len(found) >= _WORTH_COMPACTING:
            # A store that cannot be written can still be read.
            with contextlib.suppress(StoreError):
                self._compact.add(self._stamped(found))
        return found, [outcome for outcome in outcomes if isinstance(outcome, StoreError)]

    def read_curve(self, trial_id: str) -> pd.DataFrame:
        """The points of a trial's curve. Raises ``StoreError`` where they are missing or broken."""
        curve: pd.DataFrame = read_table_of(self._file("curves", trial_id), CURVE_SCHEMA).to_pandas()
        return curve

    def read_unrecorded(self) -> dict[str, float]:
        """Device seconds by trial that drivers had seen: of trials without a row, and where a row says less."""
        path = self.root / "unrecorded.json"
        seen: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return seen

    def write_unrecorded(self, device_seconds: Mapping[str, float]) -> None:
        """Raises ``StoreError`` where there is no room or no permission."""
        write_whole(self.root / "unrecorded.json", json.dumps(dict(device_seconds)).encode())

    def put(self, shelf: str, trial_id: str, name: str, table: pa.Table) -> None:
        """Keep a table beside a trial's row, as ``<shelf>/<trial_id>/<name>.parquet``.

        Raises ``StoreError`` where there is no room or no permission.
        """
        write_whole(self.root / shelf / safe_name(trial_id) / f"{safe_name(name)}.parquet", to_parquet(table))

    def get(self, shelf: str, trial_id: str, name: str, schema: pa.Schema) -> pa.Table:
        """What ``put`` kept. Raises ``StoreError`` where it is missing, broken, or has other columns than these."""
        path = self.root / shelf / safe_name(trial_id) / f"{safe_name(name)}.parquet"
        return read_table_of(path, schema, again="delete this file and ask for it again; nothing else is lost")

    def checkpoints(self, trial_id: str) -> Root:
        """The folder for a trial's checkpoints; it need not exist."""
        return self.root / "checkpoints" / safe_name(trial_id)

    def remove_checkpoints(self, trial_id: str) -> None:
        """What a recorded trial no longer needs; nothing happens where there is nothing."""
        remove(self.checkpoints(trial_id))

    def remove_finished_checkpoints(self) -> None:
        """Those of trials with a row: a process that died between its row and its tidying has left them."""
        folder, recorded = self.root / "checkpoints", self.trial_ids()
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name in recorded:
                    remove(path)

    def events(self, trial_id: str) -> Root:
        """The folder for a trial's TensorBoard files; it need not exist."""
        return self.root / "tensorboard" / safe_name(trial_id)

    def weights(self, trial_id: str) -> Root:
        """The folder for what a trial has trained; it need not exist."""
        return self.root / "weights" / safe_name(trial_id)

    def trials_with_weights(self) -> frozenset[str]:
        """The trials whose weights are there, recorded or not."""
        folder = self.root / "weights"
        if not folder.is_dir():
            return frozenset()
        return frozenset(path.name for path in folder.iterdir() if not path.name.startswith("."))

    def remove_weights(self, trial_id: str) -> None:
        """Nothing happens where there is nothing, or where another process removes the same."""
        remove(self.weights(trial_id))

    def _file(self, kind: str, trial_id: str) -> Root:
        return self.root / kind / f"{safe_name(trial_id)}.parquet"

    def _row_ids(self) -> list[str]:
        """Temporary and foreign files are passed over: only names that a trial can have are read."""
        folder = self.root / "trials"
        try:
            # A folder's names alone: looking at a hundred thousand files would take longer than reading them.
            names = os.listdir(folder) if isinstance(folder, Path) else [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{folder} cannot be read ({error.strerror}): check its permissions") from error
        return [name[: -len(".parquet")] for name in names if name.endswith(".parquet") and not name.startswith(".")]

    def _copies(self, ids: pa.Array, columns: Sequence[str]) -> pa.Table:
        """The rows of these trials that a compact file holds, each once.

        A row never changes but for a failure's, which a later result replaces: those have to be as they were. Copies of
        rows that were deleted are removed, before those trials can have other rows.
        """
        wanted = list(dict.fromkeys([*columns, "trial_id", "state", "stamp"]))
        copies = self._compact.read(wanted)
        known = pc.is_in(copies["trial_id"], value_set=ids)
        if not pc.all(known, min_count=0).as_py():
            with contextlib.suppress(StoreError, PermissionError):
                self._compact.remove(copies.filter(pc.invert(known))["trial_id"].combine_chunks())
            copies = copies.filter(known)
        failed = pc.is_in(copies["state"], value_set=strings([TrialState.FAILED]))
        if pc.any(failed).as_py():
            pairs = copies.filter(failed).select(["trial_id", "stamp"]).to_pylist()
            stale = [p["stamp"] for p in pairs if p["stamp"] != stamp_of(self._file("trials", p["trial_id"]))]
            copies = copies.filter(pc.invert(pc.is_in(copies["stamp"], value_set=strings(stale))))
        return once(copies)

    def _stamped(self, rows: pa.Table) -> pa.Table:
        pairs = zip(rows["trial_id"].to_pylist(), rows["state"].to_pylist(), strict=True)
        stamps = [stamp_of(self._file("trials", i)) if state == TrialState.FAILED else "" for i, state in pairs]
        return rows.append_column(_COMPACT_SCHEMA.field("stamp"), strings(stamps))

    def _has_sweep(self) -> bool:
        try:
            return (self.root / "sweep.yaml").exists()
        except OSError as error:
            raise StoreError(f"store {str(self.root)!r} cannot be read ({error.strerror}): give another") from error

    def _refuse_other_files(self) -> None:
        try:
            strange = self.root.is_dir() and next(self.root.iterdir(), None)
        except OSError as error:
            raise StoreError(f"store {str(self.root)!r} cannot be read ({error.strerror}): give another") from error
        if strange:
            raise StoreError(
                f"store {str(self.root)!r} is a folder with other files and no sweep.yaml: give another --store"
            )

    def refuse_another(self, spec: SweepSpec) -> None:
        """Raises ``StoreError`` where ``spec`` is neither the store's nor an extension of it."""
        if difference := obstacle(self.spec, spec):
            field, ours, theirs = difference
            raise StoreError(
                f"store {str(self.root)!r} holds another sweep: {field} is {ours!r} in this spec and {theirs!r} there; "
                "give this spec another name or another --store"
            )
