"""A person's table of scores as models by tasks: which column is which, and what had to be left out.

Knows two forms: long (a line for each model and task) and wide (a line for each model, a column for each task). Never
knows what the scores are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

MODELS = ("trial_id", "model", "model_name", "name", "Model")
TASKS = ("task", "task_name", "Task")
SCORE = ("score", "main_score", "Score")
MOST_MISSING = 0.5
"""A task that fewer models than this share have is left out, rather than those models."""


def models_by_tasks(table: pd.DataFrame, without: Sequence[str] = ()) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A line for each model and a column for each task, without gaps, and sentences about what was left out.

    ``without`` names columns (wide) or tasks (long) that are none of the tasks, such as a leaderboard's own average.
    Raises ``ValueError`` where it can be read in neither form, or nothing is left.
    """
    wide = _from_long(table) if _one_of(table, TASKS) else _from_wide(table)
    if unknown := sorted(set(without) - set(wide.columns)):
        raise ValueError(
            f"--without is {unknown[0]!r}, which is no task of the table: give one of {_few(wide.columns)}"
        )
    wide = wide.drop(columns=list(without))
    notes = []
    rare = [str(task) for task in wide.columns if wide[task].notna().mean() < MOST_MISSING]
    if rare:
        notes.append(f"Left out, since fewer than half of the models have them: {', '.join(rare)}.")
    kept = wide.drop(columns=rare)
    whole = kept.dropna()
    if len(whole) < len(kept):
        notes.append(f"{len(kept) - len(whole)} of {len(kept)} models are left out, since they lack a task.")
    same = [str(task) for task in whole.columns if len(whole) and whole[task].nunique() == 1]
    if same:
        notes.append(f"Left out, since all models have the same score: {', '.join(same)}.")
    found = whole.drop(columns=same)
    if found.shape[1] < 2:
        raise ValueError(f"the table has {found.shape[1]} tasks that can be used: give scores on two or more tasks")
    return found.astype("float64"), tuple(notes)


def _from_long(table: pd.DataFrame) -> pd.DataFrame:
    model, task, score = (_one_of(table, names) for names in (MODELS, TASKS, SCORE))
    assert task is not None, "without one the table is read as wide"
    if model is None or score is None:
        missing = f"model ({', '.join(MODELS)})" if model is None else f"score ({', '.join(SCORE)})"
        raise ValueError(f"the table has a column {task!r} and none of the {missing}: name one so")
    repeated = table[table.duplicated([model, task])]
    if len(repeated):
        first = repeated.iloc[0]
        raise ValueError(f"the table has two scores of {first[model]!r} on {first[task]!r}: keep one of each")
    return table.pivot(index=model, columns=task, values=score)


def _from_wide(table: pd.DataFrame) -> pd.DataFrame:
    """The first column of words names the models; every column of numbers is a task."""
    numbers = table.select_dtypes("number")
    names = [column for column in table.columns if column not in numbers.columns]
    if numbers.shape[1] < 2:
        raise ValueError(
            "the table has fewer than two columns of numbers, and no column 'task': give a line a model and a column a "
            "task, or columns model, task and score"
        )
    return numbers.set_axis(table[names[0]].astype(str)) if names else numbers


def _one_of(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _few(names: Sequence[object] | pd.Index) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")
