"""The tables of a sweep's report, in words: rankings, laws, counting conventions, surfaces, trials, failures.

Knows the frontier, readings, surfaces and rows, and how numbers are said. Never knows the page, or how a fit was made.
A cell names the trials behind its number, so that each can be traced to rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import wording
from analysis.conventions import Reading
from analysis.fit import Interval
from analysis.frontier import Frontier, MethodFrontier
from analysis.law import Law
from analysis.link import Link, link_of
from analysis.link_groups import Group
from analysis.profile import Profile
from analysis.surface import Surface
from trainer.result import TrialState
from trainer.trial import TrialSpec, format_flops

MAX_TABLE_ROWS = 2000
MAX_FAILURES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is shown, and the trials that it rests on."""

    text: str
    trial_ids: tuple[str, ...] = ()


def with_interval(value: float | None, interval: Interval | None, say: Callable[[float], str]) -> str:
    if value is None or interval is None:
        return "not known"
    return f"{say(value)} ({wording.interval(interval, say)})"


def ranking_table(frontier: Frontier) -> list[dict[str, Any]]:
    """A line a budget and method; the best method of each budget is marked."""
    table = []
    for ranking in frontier.rankings:
        for place, standing in enumerate(ranking.standings):
            profiles = frontier.method(standing.method).profiles
            profile = next(p for p in profiles if p.budget_flops == ranking.budget_flops)
            cells = [
                Cell(text=format_flops(ranking.budget_flops)),
                Cell(text=standing.method),
                Cell(
                    text=with_interval(standing.loss, standing.loss_interval, wording.loss),
                    trial_ids=_behind(profile),
                ),
                Cell(text=wording.share(standing.probability_best)),
                Cell(text=_optimal_size(profile), trial_ids=_behind(profile)),
                Cell(
                    text=f"{profile.best.model}: {wording.loss(profile.best.loss)}", trial_ids=(profile.best.trial_id,)
                ),
            ]
            table.append({"cells": cells, "best": place == 0})
    return table


def _optimal_size(profile: Profile | None) -> str:
    if profile is None or profile.optimum is None:
        return "not run" if profile is None else f"no optimum: {profile.state.value}"
    return with_interval(profile.optimum.num_params, profile.optimum.num_params_interval, wording.count)


def _behind(profile: Profile) -> tuple[str, ...]:
    """The trials that the profile's parabola goes through, or its best one where there is none."""
    if profile.optimum is None:
        return (profile.best.trial_id,)
    return tuple(point.trial_id for point in profile.points if point.model in profile.optimum.models)


def behind_law(method: MethodFrontier, law: Law | None) -> tuple[str, ...]:
    """The best trials of the budgets that a law rests on."""
    budgets = () if law is None else law.budgets_flops
    return tuple(p.trial_id for one in method.profiles if one.budget_flops in budgets for p in one.points)


def law_table(frontier: Frontier) -> list[list[Cell]]:
    """A line a method: its exponents with intervals, and the noise."""
    return [
        [
            Cell(text=method.label),
            *(_exponent(method, law) for law in (method.size_law, method.tokens_law, method.loss_law)),
            Cell(text=method.noise.words),
        ]
        for method in frontier.methods
    ]


def _exponent(method: MethodFrontier, law: Law | None) -> Cell:
    if law is None:
        return Cell(text="no law")
    return Cell(
        text=f"{law.fit.exponent:.3f} ({_ends(law.exponent_interval)}; {law.fit.num_points} budgets)",
        trial_ids=behind_law(method, law),
    )


def _short_exponent(method: MethodFrontier, law: Law | None) -> Cell:
    if law is None:
        return Cell(text="no law")
    return Cell(text=f"{law.fit.exponent:.2f} ({_ends(law.exponent_interval)})", trial_ids=behind_law(method, law))


def _ends(within: Interval) -> str:
    bounded = math.isfinite(within.low) and math.isfinite(within.high)
    return f"{within.low:.2f} to {within.high:.2f}" if bounded else "not bounded"


def reading_table(found: Sequence[Reading]) -> list[list[Cell]]:
    """A line a convention: its choice, and the laws and the optimum at the largest budget of the method it chooses."""
    table = []
    for reading in found:
        best, largest = reading.best, reading.frontier.budgets_flops[-1]
        profile = next((p for p in best.profiles if p.budget_flops == largest), None)
        table.append(
            [
                Cell(text=reading.convention.size),
                Cell(text=reading.convention.flops),
                Cell(text=f"{reading.model} by {reading.method}"),
                Cell(text=wording.share(reading.probability_best)),
                *(_short_exponent(best, law) for law in (best.size_law, best.tokens_law, best.loss_law)),
                Cell(text=_optimal_size(profile), trial_ids=() if profile is None else _behind(profile)),
            ]
        )
    return table


def reading_sentence(found: Sequence[Reading]) -> str:
    """Whether the choice depends on how parameters and FLOPs are counted."""
    chosen: dict[str, dict[str, list[str]]] = {}
    for reading in found:
        sizes = chosen.setdefault(f"{reading.model} by {reading.method}", {})
        sizes.setdefault(reading.convention.size, []).append(reading.convention.flops)
    if len(chosen) == 1:
        return f"All {len(found)} ways of counting choose {next(iter(chosen))}."
    every = {reading.convention.flops for reading in found}
    told = []
    for choice, sizes in chosen.items():
        ways = [size if set(flops) == every else f"{size} with {flops[0]} FLOPs" for size, flops in sizes.items()]
        told.append(f"{choice} where parameters are counted {wording.listing(ways)}")
    return f"The choice depends on the counting: {'; '.join(told)}."


def surface_table(surfaces: Sequence[Surface]) -> list[list[Cell]]:
    """A line a method: the parameters of its loss surface with intervals, or why there are none."""
    table = []
    for surface in surfaces:
        ids = tuple(surface.points["trial_id"])
        if surface.fit is None:
            table.append([Cell(text=surface.method), Cell(text=surface.reason), *[Cell(text="")] * 5])
            continue
        values, within = surface.fit.values, surface.fit.intervals
        loose = {*surface.unidentified} | {{"alpha": "A", "beta": "B"}[name] for name in surface.unidentified}
        cells = [
            Cell(text="not identified")
            if name in loose
            else Cell(text=f"{values[name]:.3g} ({within[name].low:.3g} to {within[name].high:.3g})", trial_ids=ids)
            for name in ("E", "A", "B", "alpha", "beta")
        ]
        table.append(
            [Cell(text=surface.method), *cells, Cell(text=f"{100 * surface.residual_sd:.1f} %", trial_ids=ids)]
        )
    return table


def link_table(links: Sequence[Link]) -> list[list[Cell]]:
    """A line a method and a budget: how the trials within it go, and how far they lie off the common curve."""
    link = link_of(links)
    return [
        [
            Cell(text="method" if kind.by == "method" else "budget"),
            Cell(text=group.name),
            Cell(text=str(group.num_trials)),
            Cell(text="too few" if group.rank is None else f"{group.rank:.2f}"),
            Cell(text=_offset(group)),
        ]
        for kind in (() if link is None else link.stability)
        for group in kind.groups
    ]


def _offset(group: Group) -> str:
    within = group.offset_interval
    if group.offset is None or within is None:
        return "not known"
    return f"{group.offset:+.3f} ({within.low:+.3f} to {within.high:+.3f})"


def state_counts(rows: pd.DataFrame) -> str:
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


def trial_table(rows: pd.DataFrame) -> dict[str, Any]:
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
        for record in _with_settings(ordered.head(MAX_TABLE_ROWS)).to_dict("records")
    ]
    return {"headings": headings, "lines": lines}


def _with_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """With each trial's own method, where trials of one method differ in its settings."""
    return rows.assign(method=[TrialSpec.from_json(spec).method.label for spec in rows["spec"]])


def _cell(value: Any, say: Callable[[Any], str]) -> tuple[str, str]:
    """What is shown and what is sorted by."""
    return ("", "") if value is None or pd.isna(value) else (say(value), str(value))


def failures(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """State, trial and error of the trials that did not complete."""
    if rows.empty:
        return []
    failed = rows[rows["state"] != TrialState.COMPLETE].sort_values(["state", "trial_id"]).head(MAX_FAILURES)
    return [
        (str(state), str(trial), str(error))
        for state, trial, error in zip(failed["state"], failed["trial_id"], failed["error"], strict=True)
    ]
