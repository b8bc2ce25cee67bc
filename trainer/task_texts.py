"""The texts of evaluation tasks: what a model must not have been trained on.

Knows the forms that mteb's tasks keep their data in. Never knows scores, models or pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.task_data import load
from trainer.tasks import make_task

if TYPE_CHECKING:
    from trainer.nano_rows import NanoRows

_TEXT_COLUMNS = (
    "text",
    "title",
    "sentences",
    "sentence1",
    "sentence2",
    "query",
    "positive",
    "negative",
    "human_summaries",
    "machine_summaries",
)
"""Columns of texts in mteb's forms of data; the others are ids, labels and scores."""
_ROWS_PER_BATCH = 1024


def task_texts(names: Sequence[str], nano: NanoRows | None = None) -> Iterator[tuple[str, Iterator[str]]]:
    """Each task's name and every text that a model sees of its evaluated splits, in English where there is a choice.

    ``names`` are as ``trainer.tasks.task_names`` gives them, ``nano`` the rows of nano tasks. Raises ``ValueError`` for
    a task whose data cannot be loaded.
    """
    for name in names:
        task = make_task(name, nano)
        load(task)
        yield name, _walk(task.dataset, frozenset(task.metadata.eval_splits), frozenset(task.hf_subsets))


def _walk(data: Any, splits: frozenset[str], subsets: frozenset[str]) -> Iterator[str]:
    """The texts in what a task holds: mappings by subset, split or part, and tables at their ends."""
    if isinstance(data, Mapping):
        chosen = [key for key in data if key in splits or key in subsets]
        for key in chosen or data:
            yield from _walk(data[key], splits, subsets)
        return
    columns = [name for name in _TEXT_COLUMNS if name in (getattr(data, "column_names", None) or ())]
    if columns:
        for batch in data.select_columns(columns).iter(_ROWS_PER_BATCH):
            for values in batch.values():
                yield from _flat(values)


def _flat(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, list):
            yield from _flat(value)
