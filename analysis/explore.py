"""The report's interactive figures: every trial under the pointer, the profiles and the frontier under each convention.

Knows rows, readings under counting conventions, and Bokeh. Never knows the page around them: it gives Bokeh's JSON, and
the settings by which the page's own script (``report.js``) answers its menus. Nothing here runs code from a string, so
the page can forbid that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.layouts import column, row
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    HoverTool,
    LogTicker,
    NumeralTickFormatter,
    PanTool,
    PrintfTickFormatter,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from analysis.conventions import FLOPS, SIZES, Reading
from analysis.drawing import kind_colours, ordered_colours
from analysis.law import Law
from analysis.profile import Profile
from trainer.trial import TrialState, format_flops

MAX_TRIALS = 5000
"""More would make the page heavy; the best of each cell come first."""
MARKERS = ("circle", "square", "triangle", "diamond", "hex", "inverted_triangle", "star")
_SIGNS = ("●", "■", "▲", "◆", "⬢", "▼", "★")
_ACROSS: Mapping[str, tuple[str, str]] = {
    "size": ("", "model size"),
    "tokens": ("tokens", "tokens"),
    "learning_rate": ("learning_rate", "learning rate"),
    "booked_flops": ("booked_flops", "booked FLOPs"),
    "measured_flops": ("measured_flops", "measured FLOPs"),
    "epochs": ("epochs", "epochs of the data"),
}
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Menu:
    """A choice above the figures: options are (value, words), the first is chosen."""

    name: str
    label: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Explorer:
    """What the page needs to show the interactive figures."""

    item: Mapping[str, Any]
    """Bokeh's JSON."""
    settings: Mapping[str, Any]
    """For ``report.js``: tables, axes and bindings."""
    menus: tuple[Menu, ...]
    key: tuple[tuple[str, str], ...]
    """(colour, words): what a colour means."""
    methods: tuple[tuple[str, str], ...]
    """(sign, words): what a shape means."""
    num_left_out: int


def explore(rows: pd.DataFrame, found: Sequence[Reading]) -> Explorer:
    """The interactive figures of ``rows`` and their ``found`` readings (the first is the one shown first)."""
    first = found[0].frontier
    labels = [method.label for method in first.methods]
    budgets = sorted({int(budget) for budget in rows["budget_flops"]})
    colours = dict(zip(budgets, ordered_colours(len(budgets)), strict=True))
    trials = _trials(rows, found, colours, labels)
    shown = trials.head(MAX_TRIALS)
    sources = {"trials": _source("trials", shown)}
    sources |= {name: _source(name, table) for name, table in _fits(found, colours).items()}
    flops = [name for name in FLOPS if any(reading.convention.flops == name for reading in found)]
    layout = column(
        _profiles_figure(sources),
        row(
            _law_figure(sources, "loss", "held-out loss of the optimum (nats)", found),
            _law_figure(sources, "size", "size of the optimum (parameters)", found),
            sizing_mode="stretch_width",
        ),
        sizing_mode="stretch_width",
    )
    menus = (
        Menu(name="method", label="Method", options=(*((name, name) for name in labels), ("", "all"))),
        Menu(
            name="budget", label="Budget", options=(("", "all"), *((format_flops(b), format_flops(b)) for b in budgets))
        ),
        Menu(name="shown", label="Trials", options=(("", "all"), ("best", "best of each model"))),
        Menu(name="across", label="Across", options=tuple((key, words) for key, (_, words) in _ACROSS.items())),
        Menu(name="size", label="Parameters counted", options=tuple((name, name) for name in SIZES)),
        Menu(name="flops", label="FLOPs counted", options=tuple((name, name) for name in flops)),
    )
    return Explorer(
        item=json_item(layout, ID("explore-target")),
        settings={"tables": list(sources), **_settings(flops)},
        menus=menus,
        key=tuple((colours[budget], f"{format_flops(budget)} FLOPs") for budget in budgets),
        methods=tuple((_SIGNS[place % len(_SIGNS)], label) for place, label in enumerate(labels)),
        num_left_out=len(trials) - len(shown),
    )


def explore_table(points: pd.DataFrame) -> Explorer:
    """The rows of any table: loss over what a menu says, by method; ``points`` as the surfaces have them."""
    across = {
        name: words
        for name, words in {"num_params": "model size N", "effective_tokens": "tokens D", "flops": "FLOPs C"}.items()
        if name in points
    }
    methods = sorted(points["method"].unique())
    shades = dict(zip(methods, kind_colours(len(methods)), strict=True))
    kept = [name for name in ("trial_id", "method", "loss", "fitted", "budget_flops", *across) if name in points]
    table = points[kept].reset_index(drop=True)
    first = next(iter(across))
    table = table.assign(x=table[first], y=table["loss"], colour=table["method"].map(shades))
    made = _blank("Every row", across[first], "loss", "trials", log_y=True, height=430)
    made.yaxis[0].formatter = NumeralTickFormatter(format="0.[00]")
    source = _source("trials", table.head(MAX_TRIALS))
    dots = made.scatter("x", "y", source=source, size=7, color="colour", fill_alpha=0.55)
    told = {
        "num_params": "N",
        "effective_tokens": "D",
        "flops": "C",
        "budget_flops": "budget",
        "fitted": "by the surface",
    }
    made.add_tools(
        HoverTool(
            renderers=[dots],
            tooltips=[
                ("row", "@trial_id"),
                ("loss", "@loss{%.4f}"),
                *((words, f"@{name}{{%.4g}}") for name, words in told.items() if name in table),
            ],
            formatters={f"@{name}": "printf" for name in ("loss", *told)},
        )
    )
    options = [(name, name) for name in methods]
    return Explorer(
        item=json_item(made, ID("explore-target")),
        settings={
            "tables": ["trials"],
            "axis_menus": ["across"],
            "bindings": {"trials": {"x": {name: name for name in across}}},
            "axes": [{"name": "trials-x", "labels": across}],
        },
        menus=(
            Menu(name="method", label="Method", options=(("", "all"), *options)),
            Menu(name="across", label="Across", options=tuple(across.items())),
        ),
        key=tuple((shade, method) for method, shade in shades.items()),
        methods=(),
        num_left_out=max(0, len(table) - MAX_TRIALS),
    )


def _settings(flops: Sequence[str]) -> dict[str, Any]:
    """Which column is drawn, and what its axis is called, for each choice of the menus across, size and flops."""
    x, x_words, y = {}, {}, {}
    for key, (plain, words) in _ACROSS.items():
        for size, counted in SIZES.items():
            for one in flops:
                choice = f"{key}|{size}|{one}"
                x[choice], y[choice] = plain or counted, f"loss_{one}"
                x_words[choice] = words if plain else f"{size} parameters"
    moved = {"booked": "held-out loss (nats)", "measured": "held-out loss (nats), moved to equal measured FLOPs"}
    law_words = {f"{k}|{s}|{f}": f"budget ({f} training FLOPs)" for k in _ACROSS for s in SIZES for f in flops}
    return {
        "axis_menus": ["across", "size", "flops"],
        "bindings": {"trials": {"x": x, "y": y}},
        "axes": [
            {"name": "trials-x", "labels": x_words},
            {"name": "trials-y", "labels": {choice: moved[choice.rsplit("|", 1)[-1]] for choice in x}},
            {"name": "loss-x", "labels": law_words},
            {"name": "size-x", "labels": law_words},
        ],
    }


def _trials(
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


def _fits(found: Sequence[Reading], colours: Mapping[int, str]) -> dict[str, pd.DataFrame]:
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


def _source(name: str, table: pd.DataFrame) -> ColumnDataSource:
    """Plain lists, which the page's script can take lines from."""
    return ColumnDataSource(data={key: table[key].tolist() for key in table.columns}, name=name)


def _blank(title: str, x: str, y: str, name: str, *, log_y: bool, height: int) -> Any:
    zoom = BoxZoomTool()
    tools = [zoom, PanTool(), WheelZoomTool(), ResetTool(), SaveTool()]
    made = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_type="log",
        y_axis_type="log" if log_y else "linear",
        tools=tools,
        title=title,
        x_axis_label=x,
        y_axis_label=y,
        min_border_right=20,
    )
    made.toolbar.logo = None
    made.toolbar.active_drag = zoom
    made.xaxis[0].name, made.yaxis[0].name = f"{name}-x", f"{name}-y"
    made.grid.grid_line_color = "#e5e7eb"
    return made


def _profiles_figure(sources: Mapping[str, ColumnDataSource]) -> Any:
    made = _blank("Every trial", "non-embedding parameters", "held-out loss (nats)", "trials", log_y=False, height=430)
    made.multi_line("xs", "ys", source=sources["parabolas"], line_color="colour", line_width=2)
    made.segment("low", "y", "high", "y", source=sources["optima"], line_color="colour", line_width=1.5)
    diamonds = made.scatter(
        "x", "y", source=sources["optima"], marker="diamond", size=15, color="colour", line_color="white"
    )
    dots = made.scatter("x", "y", source=sources["trials"], marker="mark", size="dot", color="colour", fill_alpha=0.55)
    made.add_tools(
        HoverTool(
            renderers=[dots],
            tooltips=[
                ("trial", "@trial_id"),
                ("state", "@state"),
                ("model, method", "@model, @method"),
                ("budget", "@budget FLOPs"),
                ("loss", "@loss{%.4f}"),
                ("top-1", "@accuracy{%.3f}"),
                ("learning rate", "@learning_rate{%.3g}"),
                ("temperature", "@temperature{%.3g}"),
                ("weight decay", "@weight_decay{%.3g}"),
                ("tokens, epochs", "@tokens{%.4g}, @epochs{%.3g}"),
                ("FLOPs booked, measured", "@booked_flops{%.4g}, @measured_flops{%.4g}"),
            ],
            formatters={
                f"@{name}": "printf"
                for name in ("loss", "accuracy", "learning_rate", "temperature", "weight_decay", "tokens", "epochs",
                             "booked_flops", "measured_flops")
            },
        ),
        HoverTool(
            renderers=[diamonds],
            tooltips=[
                ("optimum", "@method at @budget FLOPs"),
                ("size (90 %)", "@x{%.4g} (@low{%.3g} to @high{%.3g})"),
                ("loss (90 %)", "@y{%.4f} (@loss_low{%.3f} to @loss_high{%.3f})"),
                ("through", "@models"),
            ],
            formatters={f"@{name}": "printf" for name in ("x", "y", "low", "high", "loss_low", "loss_high")},
        ),
    )  # fmt: skip
    return made


def _law_figure(sources: Mapping[str, ColumnDataSource], of: str, label: str, found: Sequence[Reading]) -> Any:
    made = _blank(
        f"{of.capitalize()} of the optimum over the budget", "budget (booked training FLOPs)", label, of,
        log_y=True, height=360,
    )  # fmt: skip
    y = {"loss": "loss", "size": "optimal"}[of]
    made.yaxis[0].formatter = NumeralTickFormatter(format="0.[00]" if of == "loss" else "0.[0]a")
    lines = made.multi_line("xs", "ys", source=sources[f"laws-{of}"], line_color="colour", line_width=2)
    made.segment("x", f"{of}_low", "x", f"{of}_high", source=sources["measured"], line_color="colour")
    dots = made.scatter("x", y, source=sources["measured"], marker="circle", size=9, color="colour")
    made.add_tools(
        HoverTool(renderers=[lines], tooltips=[("law", "@of_method"), ("exponent (90 %)", "@told")]),
        HoverTool(
            renderers=[dots],
            tooltips=[
                ("method", "@of_method: @state"),
                ("budget", "@x{%.4g} FLOPs"),
                (f"{of} (90 %)", f"@{y}{{%.4g}} (@{of}_low{{%.4g}} to @{of}_high{{%.4g}})"),
                ("best measured", "@model, trial @trial_id"),
            ],
            formatters={f"@{name}": "printf" for name in ("x", y, f"{of}_low", f"{of}_high")},
        ),
    )
    names = found[0].frontier.methods
    for method, shade in zip(names, kind_colours(len(names)), strict=True):
        made.scatter([math.nan], [math.nan], size=9, color=shade, legend_label=method.label)
    made.add_layout(made.legend[0], "below")
    made.legend.orientation = "horizontal"
    made.legend.border_line_color = None
    made.legend.label_text_font_size = "11px"
    made.xaxis[0].ticker = LogTicker(desired_num_ticks=4)
    made.xaxis[0].formatter = PrintfTickFormatter(format="%.1e")
    return made
