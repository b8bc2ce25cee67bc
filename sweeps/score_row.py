"""The row of a score: what one trial is worth on one evaluation task.

Knows the columns, their types and their meaning. Never knows a file, a task or mteb.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """What one trial, or one baseline, is worth on one task."""

    trial_id: str
    task: str
    task_type: str
    score: float | None
    main_metric: str
    metrics: str
    dataset_revision: str
    mteb_version: str
    weights_hash: str
    seconds: float
    finished_at: str


_MEANINGS = {
    "trial_id": ("", "The trial; the baseline's name under `baselines/`"),
    "task": ("", "mteb's name of the task; the file's name"),
    "task_type": ("", "mteb's type of task: the category of averages"),
    "score": ("", "Main metric, at most 1; absent where it is not defined, as for equal embeddings of all texts"),
    "main_metric": ("", "Which one that is"),
    "metrics": ("JSON", "All that mteb reports, by split and subset"),
    "dataset_revision": ("", "Commit of the task's data set; of nano tasks a hash of their rows"),
    "mteb_version": ("", "Version of mteb that evaluated"),
    "weights_hash": ("", "Hash of the trial's spec and trained weights: what was evaluated; of a baseline its version"),
    "seconds": ("s", "Wall time, loading the task's data included"),
    "finished_at": ("ISO 8601", "When, in UTC"),
}
_TYPES = {"score": pa.float64(), "seconds": pa.float64()}
SCORE_SCHEMA = pa.schema(
    [pa.field(name, _TYPES.get(name, pa.string()), nullable=name == "score") for name in _MEANINGS]
)


def score_columns() -> list[tuple[str, str, str, str]]:
    """(column, type, unit, meaning) for the documentation."""
    return [
        (field.name, f"{field.type}{', may be absent' if field.nullable else ''}", *_MEANINGS[field.name])
        for field in SCORE_SCHEMA
    ]
