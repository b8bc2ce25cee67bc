"""The report: one HTML page that needs no network, with its figures, tables and data beside it.

Knows the frontier, the recommendation, the rows and what the caller wants said (``ReportContext``). Never knows where
the rows came from or how the sweep ran. Names and errors in rows are untrusted text: the template escapes everything,
and the page forbids itself every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import wording
from analysis.drawing import Drawing
from analysis.figures import draw_curves, draw_frontier, draw_profiles
from analysis.fit import Interval
from analysis.frontier import Frontier
from analysis.law import Law
from analysis.recommend import MAX_EXTRAPOLATION, Recommendation, describe
from analysis.validation import foretell_largest
from trainer.trial import TrialState, format_flops

MAX_TABLE_ROWS = 2000
MAX_FAILURES = 50
EXPECTED_ORDER = ("full", "lora", "freeze", "bias")

# Sorts a table by the column whose heading is clicked: by data-value where a cell has one, else by its text.
_SCRIPT = """
for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.tabIndex = 0;
  const sort = () => {
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [m, n] = [Number(x), Number(y)];
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
  heading.addEventListener("click", sort);
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportContext:
    """What the page says beside the rows and the fits."""

    sweep: str
    """The sweep's name."""
    manifest: tuple[tuple[str, str], ...] = ()
    """Facts of the data: (label, value)."""
    plan: tuple[tuple[str, str], ...] = ()
    """Facts of the plan: (label, value)."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Cells that were not run: (cell in words, reason)."""
    notes: tuple[str, ...] = ()
    """What a reader must know about this sweep, in sentences."""


def write_report(
    folder: Path,
    rows: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    frontier: Frontier,
    recommendation: Recommendation | None,
    context: ReportContext,
) -> Path:
    """Write the report into ``folder`` and return the path of its ``index.html``.

    ``rows`` has the store's columns, ``curves`` maps trial ids to curve tables. ``recommendation`` is ``None`` where
    nothing can be recommended; the page then says so. Beside the page: ``figures/`` with PNG, SVG and CSV of each,
    ``trials.csv``, ``frontier.json``, ``recommendation.json``.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    pictures = {
        name: {"svg": Markup(drawing.save(figures, name)), "title": drawing.title, "name": name}
        for name, drawing in _drawings(frontier, recommendation, curves).items()
    }
    rows.to_csv(folder / "trials.csv", index=False)
    _write_json(folder / "frontier.json", frontier.to_dict())
    if recommendation is not None:
        _write_json(folder / "recommendation.json", recommendation.to_dict())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        context=context,
        script=Markup(_SCRIPT),
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        answer=None if recommendation is None else _answer(recommendation),
        pictures=pictures,
        order=order_sentence(frontier),
        rankings=_ranking_table(frontier),
        laws=_law_table(frontier),
        crossovers=[crossover.sentence for crossover in frontier.crossovers],
        foretold=[one.sentence for one in foretell_largest(rows, frontier)],
        notes=frontier.notes,
        counts=_state_counts(rows),
        failures=_failures(rows),
        trials=_trial_table(rows),
        num_trials=len(rows),
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def order_sentence(frontier: Frontier) -> str:
    """How the methods order by loss at the largest budget, and whether that is the order that was expected."""
    if not frontier.rankings:
        return ""
    ranking = frontier.rankings[-1]
    seen = " < ".join(f"{standing.method} ({wording.loss(standing.loss)})" for standing in ranking.standings)
    # A kind may come with several settings: its best one stands for it.
    kinds = list(dict.fromkeys(frontier.method(standing.method).method.kind for standing in ranking.standings))
    expected = [kind for kind in EXPECTED_ORDER if kind in kinds]
    sentence = f"Held-out loss at the largest budget ({wording.flops(ranking.budget_flops)}): {seen}"
    if len(kinds) < 2:
        return f"{sentence}. With one kind of method there is no order to compare."
    words = " < ".join(expected)
    if kinds == expected:
        return f"{sentence}. This is the order that was expected: {words}."
    return f"{sentence}. The expected order was {words}, so this sweep saw another one."


def _drawings(
    frontier: Frontier, recommendation: Recommendation | None, curves: Mapping[str, pd.DataFrame]
) -> dict[str, Drawing]:
    if not frontier.methods:
        return {}
    drawn = {
        "frontier": draw_frontier(frontier, recommendation),
        "profiles": draw_profiles(frontier),
        "curves": draw_curves(frontier, curves),
    }
    return {name: drawing for name, drawing in drawn.items() if drawing is not None}


def _answer(recommendation: Recommendation) -> dict[str, Any]:
    """The answer's headline, sentences, key figures and the methods' chances."""
    hyper = recommendation.hyperparameters
    size, within = recommendation.optimal_num_params, recommendation.optimal_num_params_interval
    loss, loss_within = recommendation.loss, recommendation.loss_interval
    facts = [
        ("Budget", wording.flops(recommendation.budget_flops)),
        ("Model", recommendation.model),
        ("Non-embedding parameters", wording.count(recommendation.num_params)),
        ("Optimal size (90 %)", _with_interval(size, within, wording.count)),
        ("Method", describe(recommendation.method)),
        ("Tokens", wording.count(recommendation.tokens)),
        ("Pairs", wording.count(recommendation.pairs)),
        ("Steps", f"{wording.count(recommendation.steps)} of {hyper.batch_size} pairs"),
        ("Epochs of the data", wording.times(recommendation.epochs)),
        ("Learning rate", f"{hyper.learning_rate:.3g}"),
        ("Temperature", f"{hyper.temperature:.3g}"),
        ("Weight decay", f"{hyper.weight_decay:.3g}"),
        ("Expected held-out loss (90 %)", _with_interval(loss, loss_within, wording.loss)),
    ]
    sentences = recommendation.sentences()
    return {
        "headline": f"Train {recommendation.model} by {describe(recommendation.method)}",
        "budget": wording.flops(recommendation.budget_flops),
        "sentences": sentences[: len(sentences) - len(recommendation.cautions)],
        "cautions": recommendation.cautions,
        "loud": recommendation.extrapolation > MAX_EXTRAPOLATION,
        "facts": facts,
        "standings_budget": wording.flops(recommendation.ranking.budget_flops),
        "standings": [
            {
                "method": standing.method,
                "loss": _with_interval(standing.loss, standing.loss_interval, wording.loss),
                "share": wording.share(standing.probability_best),
                "width": f"{100 * standing.probability_best:.1f}",
            }
            for standing in recommendation.ranking.standings
        ],
    }


def _with_interval(value: float | None, interval: Interval | None, say: Callable[[float], str]) -> str:
    if value is None or interval is None:
        return "not known"
    return f"{say(value)} ({wording.interval(interval, say)})"


def _ranking_table(frontier: Frontier) -> list[dict[str, Any]]:
    """A line a budget and method; the best method of each budget is marked."""
    table = []
    for ranking in frontier.rankings:
        for place, standing in enumerate(ranking.standings):
            profiles = frontier.method(standing.method).profiles
            profile = next(p for p in profiles if p.budget_flops == ranking.budget_flops)
            size = f"no optimum: {profile.state.value}"
            if profile.optimum is not None:
                size = _with_interval(profile.optimum.num_params, profile.optimum.num_params_interval, wording.count)
            cells = [
                format_flops(ranking.budget_flops),
                standing.method,
                _with_interval(standing.loss, standing.loss_interval, wording.loss),
                wording.share(standing.probability_best),
                size,
                f"{profile.best.model}: {wording.loss(profile.best.loss)}",
            ]
            table.append({"cells": cells, "best": place == 0})
    return table


def _law_table(frontier: Frontier) -> list[list[str]]:
    def say(law: Law | None) -> str:
        if law is None:
            return "no law"
        within = law.exponent_interval
        bounded = math.isfinite(within.low) and math.isfinite(within.high)
        interval = f"{within.low:.2f} to {within.high:.2f}" if bounded else "not bounded"
        return f"{law.fit.exponent:.3f} ({interval}; {law.fit.num_points} budgets)"

    return [
        [method.label, say(method.size_law), say(method.tokens_law), say(method.loss_law), method.noise.words]
        for method in frontier.methods
    ]


def _state_counts(rows: pd.DataFrame) -> str:
    """``48 trials: 45 COMPLETE, 3 FAILED``."""
    if rows.empty:
        return "no trials yet"
    counts = rows["state"].value_counts()
    states = [f"{counts[state]} {state}" for state in map(str, TrialState) if state in counts]
    return f"{len(rows)} trial{'s' if len(rows) != 1 else ''}: {', '.join(states)}"


_COLUMNS: Sequence[tuple[str, str, Callable[[Any], str]]] = (
    ("state", "State", str),
    ("budget_flops", "Budget", format_flops),
    ("method", "Method", str),
    ("model", "Model", str),
    ("loss", "Loss", wording.loss),
    ("accuracy", "Top-1", "{:.3f}".format),
    ("learning_rate", "Learning rate", "{:.3g}".format),
    ("temperature", "Temperature", "{:.3g}".format),
    ("weight_decay", "Weight decay", "{:.3g}".format),
    ("tokens", "Tokens", "{:,.0f}".format),
    ("steps", "Steps", "{:,.0f}".format),
    ("epochs", "Epochs", "{:.2f}".format),
    ("seconds", "Seconds", "{:,.1f}".format),
    ("trial_id", "Trial", str),
    ("error", "Error", str),
)


def _trial_table(rows: pd.DataFrame) -> dict[str, Any]:
    """Headings and lines of (text, sort value); trials that did not complete first, then by budget, method and loss."""
    headings = [heading for _, heading, _ in _COLUMNS]
    if rows.empty:
        return {"headings": headings, "lines": []}
    incomplete = rows["state"] != TrialState.COMPLETE
    ordered = rows.assign(incomplete=incomplete).sort_values(
        ["incomplete", "budget_flops", "method", "loss"], ascending=[False, True, True, True]
    )
    lines = [
        {"incomplete": record["incomplete"], "cells": [_cell(record[column], say) for column, _, say in _COLUMNS]}
        for record in ordered.head(MAX_TABLE_ROWS).to_dict("records")
    ]
    return {"headings": headings, "lines": lines}


def _cell(value: Any, say: Callable[[Any], str]) -> tuple[str, str]:
    """What is shown and what is sorted by."""
    return ("", "") if value is None or pd.isna(value) else (say(value), str(value))


def _failures(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """State, trial and error of the trials that did not complete."""
    if rows.empty:
        return []
    failed = rows[rows["state"] != TrialState.COMPLETE].sort_values(["state", "trial_id"]).head(MAX_FAILURES)
    return [
        (str(state), str(trial), str(error))
        for state, trial, error in zip(failed["state"], failed["trial_id"], failed["error"], strict=True)
    ]


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
