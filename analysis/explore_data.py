"""What the interactive figures show, as tables: trials, parabolas, optima and laws under each counting convention.

Knows rows and readings. Never knows Bokeh, menus or the page. A column that a menu is named after says which choice a
line belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.conventions import SIZES, Reading
from analysis.drawing import kind_colours
from analysis.law import Law
from analysis.profile import Profile
from trainer.result import TrialState
from trainer.trial import format_flops

MARKERS = ("circle", "square", "triangle", "diamond", "hex", "inverted_triangle", "star")
_SHOWN = (
    "trial_id",
    "model",
    "method",
    "state",
    "loss",
    "learning_rate",
    "temperature",
    "weight_decay",
    "tokens",
    "epochs",
    "accuracy",
    "booked_flops",
    "measured_flops",
    *SIZES.values(),
)


def trials_table(
    rows: pd.DataFrame, found: Sequence[Reading], colours: Mapping[int, str], labels: Sequence[str]
) -> pd.DataFrame:
    """A line a trial; one without a loss stands above all others, as a cross. The best of each cell come first."""
    table = rows.drop_duplicates("trial_id")[[*_SHOWN, "budget_flops"]].reset_index(drop=True)
    done = (table["state"] == TrialState.COMPLETE) & (table["loss"] > 0) & np.isfinite(table["loss"].astype(float))
    highest = float(table.loc[done, "loss"].max())
    marks = {label: MARKERS[place % len(MARKERS)] for place, label in enumerate(labels)}
    best = {p.trial_id for method in found[0].frontier.methods for profile in method.profiles for p in profile.points}
    table["loss_booked"] = table["loss_measured"] = table["loss"].where(done, 1.04 * highest)
    for reading in found:
        if reading.convention.flops == "measured":
            moved = table["trial_id"].map(dict(reading.losses)).astype(float)
            table["loss_measured"] = np.where(moved.notna(), moved, table["loss_measured"])
    is_best = table["trial_id"].isin(best)
    table["shown"] = np.where(is_best, "best", "other")
    table["budget"] = [format_flops(int(budget)) for budget in table["budget_flops"]]
    table["colour"] = [colours[int(budget)] for budget in table["budget_flops"]]
    table["mark"] = np.where(done, [marks.get(name, "circle") for name in table["method"]], "x")
    table["dot"] = np.where(is_best, 9, 6)
    table["x"], table["y"] = table["num_params_non_embedding"], table["loss_booked"]
    return table.loc[np.argsort(~is_best, kind="stable")]


def fits_tables(found: Sequence[Reading], colours: Mapping[int, str]) -> dict[str, pd.DataFrame]:
    """Parabolas, optima, laws and the measured optima of each convention, as tables that the menus choose from."""
    parabolas, optima, laws, points = [], [], [], []
    booked = found[0].frontier.budgets_flops
    for reading in found:
        kind = {"size": reading.convention.size, "flops": reading.convention.flops}
        shades = kind_colours(len(reading.frontier.methods))
        for method, shade in zip(reading.frontier.methods, shades, strict=True):
            for profile in method.profiles:
                budget = booked[reading.frontier.budgets_flops.index(profile.budget_flops)]
                own = kind | {"method": method.label, "budget": format_flops(budget), "across": "size"}
                own["colour"] = colours[budget]
                points.append(kind | {"of_method": method.label, "colour": shade} | _measured(profile))
                if profile.optimum is not None:
                    parabolas.append(own | _parabola(profile))
                    optima.append(own | _optimum(profile))
            for quantity, law in (("loss", method.loss_law), ("size", method.size_law)):
                if law is not None:
                    grid = np.geomspace(reading.frontier.budgets_flops[0] / 1.3, 1.3 * reading.budget_flops, 40)
                    laws.append(kind | {"of_method": method.label, "colour": shade, "of": quantity} | _law(law, grid))
    law_table = pd.DataFrame(laws, columns=["size", "flops", "of_method", "colour", "of", "xs", "ys", "told"])
    keys = ["size", "flops", "method", "budget", "across", "colour"]
    ends = ["x", "y", "low", "high", "loss_low", "loss_high", "models"]
    return {
        "parabolas": pd.DataFrame(parabolas, columns=[*keys, "xs", "ys"]),
        "optima": pd.DataFrame(optima, columns=[*keys, *ends]),
        "laws-loss": law_table[law_table["of"] == "loss"],
        "laws-size": law_table[law_table["of"] == "size"],
        "measured": pd.DataFrame(points),
    }


def _parabola(profile: Profile) -> dict[str, list[float]]:
    assert profile.optimum is not None
    used = [point.num_params for point in profile.points if point.model in profile.optimum.models]
    grid = np.geomspace(min(used), max(used), 30)
    return {"xs": _short(grid), "ys": _short(profile.optimum.parabola(np.log10(grid)))}


def _optimum(profile: Profile) -> dict[str, Any]:
    assert profile.optimum is not None
    optimum, edge = profile.optimum, [point.num_params for point in profile.points]
    low, high = optimum.num_params_interval.low, optimum.num_params_interval.high
    return {
        "x": optimum.num_params,
        "y": optimum.loss,
        "low": max(low, min(edge) / 1.4),
        "high": min(high, max(edge) * 1.4),
        "loss_low": optimum.loss_interval.low,
        "loss_high": optimum.loss_interval.high,
        "models": ", ".join(optimum.models),
    }


def _measured(profile: Profile) -> dict[str, Any]:
    """A profile's place in the two figures over budgets; NaN where it has no optimum, and so no size."""
    optimum = profile.optimum
    within = None if optimum is None else optimum.num_params_interval
    return {
        "x": float(profile.budget_flops),
        "loss": profile.loss,
        "loss_low": profile.loss if optimum is None else optimum.loss_interval.low,
        "loss_high": profile.loss if optimum is None else optimum.loss_interval.high,
        "optimal": math.nan if optimum is None else optimum.num_params,
        "size_low": math.nan if within is None else _bounded(within.low),
        "size_high": math.nan if within is None else _bounded(within.high),
        "state": profile.state.value,
        "model": profile.best.model,
        "trial_id": profile.best.trial_id,
    }


def _bounded(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else math.nan


def _law(law: Law, grid: np.ndarray) -> dict[str, Any]:
    within = law.exponent_interval
    return {
        "xs": _short(grid),
        "ys": _short(law.fit(grid)),
        "told": f"{law.fit.exponent:.3f} ({within.low:.2f} to {within.high:.2f})",
    }


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
