"""The parts of a reproducibility sheet that come from rows: endings, best trials, failures, compute, software, scores.

Knows the store's columns and the scores beside them. Never knows a spec, or which trials were wanted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from sweeps.document import Block, Section, Table, facts
from trainer.result import TrialState
from trainer.trial import TrialSpec, format_flops

HOUR_SECONDS = 3600
HASH_DIGITS = 12
"""Of a trial's id: its last part."""
_STATES = tuple(state.value for state in TrialState)


_PLACEMENT = (
    ("num_threads", "threads of a worker"),
    ("num_workers", "workers"),
    ("dtype", "computed in"),
    ("num_resumes", "times resumed"),
    ("num_out_of_memory", "times out of memory"),
)


def trials(rows: pd.DataFrame) -> Section:
    """Trials by budget, method and ending."""
    lines = []
    for _, own in rows.groupby(["budget_flops", "method"], sort=True):
        budget, method = own["budget_flops"].iloc[0], own["method"].iloc[0]
        counts = Counter(own["state"])
        lines.append((format_flops(budget), str(method), *(str(counts[state]) for state in _STATES), str(len(own))))
    every = Counter(rows["state"])
    lines.append(("all", "all", *(str(every[state]) for state in _STATES), str(len(rows))))
    headings = ("budget", "method", *(state.lower() for state in _STATES), "trials")
    return Section(heading="Trials by ending", blocks=(Table(headings=headings, lines=tuple(lines), num_words=2),))


_Say = Callable[[Any], str]
_CELL: tuple[tuple[str, str, _Say], ...] = (
    ("loss", "loss", "{:.4f}".format),
    ("accuracy", "top-1", "{:.3f}".format),
    ("learning_rate", "learning rate", "{:.4g}".format),
    ("temperature", "temperature", "{:.4g}".format),
    ("weight_decay", "weight decay", "{:.4g}".format),
    ("seed", "seed", str),
)
_SPENT: tuple[tuple[str, str, _Say], ...] = (
    ("tokens", "tokens", "{:,}".format),
    ("steps", "steps", "{:,}".format),
    ("epochs", "epochs", "{:.3g}".format),
    ("booked_flops", "booked FLOPs", "{:.6g}".format),
    ("measured_flops", "measured FLOPs", "{:.4g}".format),
    ("device_seconds", "device seconds", "{:.1f}".format),
)


def best(rows: pd.DataFrame) -> Section:
    """Hyperparameters of every cell: those of its complete trial of least loss."""
    done = complete(rows)
    order = ["budget_flops", "method", "num_params_non_embedding"]
    best = done.groupby(["budget_flops", "method", "model"], sort=False).head(1).sort_values([*order, "trial_id"])
    numbers = done.groupby(["budget_flops", "method", "model"]).size()
    lines, spent = [], []
    for row in best.to_dict("records"):
        method = TrialSpec.from_json(row["spec"]).method.label  # where studies search the rank, the row's is the kind
        cell = (format_flops(row["budget_flops"]), method, row["model"])
        trials = str(numbers[row["budget_flops"], row["method"], row["model"]])
        lines.append((*cell, row["trial_id"][-HASH_DIGITS:], trials, *(say(row[name]) for name, _, say in _CELL)))
        spent.append((row["trial_id"], *(say(row[name]) for name, _, say in _SPENT)))
    headings = ("budget", "method", "model", "trial", "trials", *(heading for _, heading, _ in _CELL))
    return Section(
        heading="Best trial of every cell",
        blocks=(
            Table(headings=headings, lines=tuple(lines), num_words=4),
            "Trials are named by the last digits of their ids here, in full below; 'trials' counts complete ones.",
            Table(headings=("trial", *(heading for _, heading, _ in _SPENT)), lines=tuple(spent)),
        ),
    )


def failures(rows: pd.DataFrame) -> Section:
    """The trials that did not complete, and the last line of why."""
    failed = rows[rows["state"] != TrialState.COMPLETE].sort_values(["state", "trial_id"])
    if failed.empty:
        return Section(
            heading="What did not complete", blocks=("Every trial that was begun and recorded is complete.",)
        )
    lines = tuple(
        (str(state), str(trial), (str(error).strip().splitlines() or ["no word"])[-1])
        for state, trial, error in zip(failed["state"], failed["trial_id"], failed["error"], strict=True)
    )
    table = Table(headings=("ending", "trial", "last line of the error"), lines=lines, num_words=3)
    return Section(heading="What did not complete", blocks=(table,))


def compute(rows: pd.DataFrame, unrecorded_seconds: float) -> Section:
    """What was spent on which devices; ``unrecorded_seconds`` are device seconds of trials without a row."""
    lines = []
    for device, own in [*rows.groupby("device", sort=True), ("all", rows)]:
        lines.append(
            (
                str(device) or "not known",
                str(own["host"].nunique()),
                str(len(own)),
                f"{own['device_seconds'].sum() / HOUR_SECONDS:.4g}",
                f"{own['booked_flops'].sum():.6g}",
                f"{own['measured_flops'].sum():.6g}",
                f"{own['tokens'].sum():,}",
                f"{own['peak_memory_bytes'].max() / 2**30:.2f}" if len(own) else "",
            )
        )
    headings = (
        "device", "machines", "trials", "device hours", "booked FLOPs", "measured FLOPs", "tokens", "peak GiB a worker"
    )  # fmt: skip
    blocks: list[Block] = [
        Table(headings=headings, lines=tuple(lines)),
        "Booked FLOPs are what a budget counts (6N, 2N + 4N_t or 4N + 2N_t a token by method). Measured FLOPs also "
        "count attention, padding, recomputation and evaluation.",
        facts([(words, _counted(rows[name])) for name, words in _PLACEMENT]),
    ]
    if unrecorded_seconds:
        hours = unrecorded_seconds / HOUR_SECONDS
        blocks.append(f"Trials that have no row have used {hours:.4g} device hours more.")
    return Section(heading="Hardware and compute", blocks=tuple(blocks))


def software(rows: pd.DataFrame) -> Section:
    """Versions and commits, each with its number of trials where there are several."""
    versions: dict[str, Counter[str]] = {}
    for text in rows["versions"]:
        for name, version in json.loads(text).items():
            versions.setdefault(name, Counter())[version] += 1
    said = [(name, _tallied(versions[name])) for name in sorted(versions)]
    commits = [commit or "not a checkout" for commit in rows["git_commit"]]
    table = facts([*said, ("commit of isoflop", _tallied(Counter(commits)))])
    return Section(heading="Software", blocks=(table,))


def scored(scores: pd.DataFrame) -> Section:
    """What was evaluated, and the best score on each task."""
    extra = [name for name in ("task_type", "main_metric", "dataset_revision", "mteb_version") if name in scores]
    lines = []
    for task, own in scores.groupby("task", sort=True):
        ordered = own.sort_values(["score", "trial_id"], ascending=[False, True])
        told = [values(own[name]) for name in extra]
        lines.append((str(task), *told, str(len(own)), f"{ordered['score'].iloc[0]:.4f}", ordered["trial_id"].iloc[0]))
    headings = ("task", *(name.replace("_", " ") for name in extra), "trials", "best score", "of trial")
    return Section(
        heading="Evaluation scores", blocks=(Table(headings=headings, lines=tuple(lines), num_words=1 + len(extra)),)
    )


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """The trials that have a loss, the least first; of equal ones by id."""
    return rows[rows["state"] == TrialState.COMPLETE].sort_values(["loss", "trial_id"])


def values(found: Iterable[Any]) -> str:
    """Each value once, in order."""
    return ", ".join(map(str, sorted({value for value in found if not pd.isna(value)})))


def _counted(values: Iterable[Any]) -> str:
    return _tallied(Counter(map(str, values)))


def _tallied(counts: Counter[str]) -> str:
    """One value as it is, several with the number of trials of each."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({number} trials)" for value, number in sorted(counts.items())) or "none"
