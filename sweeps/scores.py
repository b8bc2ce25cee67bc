"""Scores of a sweep's trials on evaluation tasks: one object for each trial and task, beside the rows.

    scores/<trial_id>/<task>.parquet        one row, of a trial
    baselines/<name>/<task>.parquet         one row of the same columns, of word matching, with its name as the trial

Knows the columns and who has written what. Never knows a task, mteb or a model. An object is written whole, and
writing it twice is harmless, so any number of processes may evaluate at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from sweeps.score_row import SCORE_SCHEMA, ScoreRow
from sweeps.store import Store, StoreError

if TYPE_CHECKING:
    import pandas as pd

Shelf = Literal["scores", "baselines"]
_READERS = 8


def write_score(store: Store, row: ScoreRow, shelf: Shelf = "scores") -> None:
    """Write the object of one trial and task. Raises ``StoreError`` where there is no room or no permission."""
    store.put(shelf, row.trial_id, row.task, pa.Table.from_pylist([asdict(row)], schema=SCORE_SCHEMA))


def read_score(store: Store, trial_id: str, task: str, shelf: Shelf = "scores") -> ScoreRow | None:
    """The score of one trial on one task; ``None`` where there is none, or none that can be read.

    An object that was damaged is made again, like one that is missing.
    """
    try:
        table = store.get(shelf, trial_id, task, SCORE_SCHEMA)
    except StoreError:
        return None
    [row] = table.to_pylist()
    return ScoreRow(**row)


def read_scores(store: Store, shelf: Shelf = "scores") -> pd.DataFrame:
    """One line for each trial and task that has a score, by both names, with the columns of ``SCORE_SCHEMA``."""
    names = sorted(_names(store, shelf))
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda name: store.get(shelf, name[0], name[1], SCORE_SCHEMA), names))
    rows: pd.DataFrame = pa.concat_tables([SCORE_SCHEMA.empty_table(), *tables]).to_pandas()
    return rows


def _names(store: Store, shelf: Shelf) -> Iterable[tuple[str, str]]:
    """(trial, task) of every object on the shelf."""
    folder = store.root / shelf
    if isinstance(folder, Path):
        names = [path.relative_to(folder).as_posix() for path in folder.glob("*/*.parquet")]
    else:
        names = folder.files_below()
    for name in names:
        trial_id, _, file = name.partition("/")
        if not file.startswith("."):
            yield trial_id, file.removesuffix(".parquet")
