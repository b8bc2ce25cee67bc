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
from analysis.explore_data import fits_tables, trials_table
from trainer.trial import format_flops

MAX_TRIALS = 5000
"""More would make the page heavy; the best of each cell come first."""
_SIGNS = ("●", "■", "▲", "◆", "⬢", "▼", "★")
_ACROSS: Mapping[str, tuple[str, str]] = {
    "size": ("", "model size"),
    "tokens": ("tokens", "tokens"),
    "learning_rate": ("learning_rate", "learning rate"),
    "booked_flops": ("booked_flops", "booked FLOPs"),
    "measured_flops": ("measured_flops", "measured FLOPs"),
    "epochs": ("epochs", "epochs of the data"),
}


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
    trials = trials_table(rows, found, colours, labels)
    shown = trials.head(MAX_TRIALS)
    sources = {"trials": _source("trials", shown)}
    sources |= {name: _source(name, table) for name, table in fits_tables(found, colours).items()}
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


def _source(name: str, table: pd.DataFrame) -> ColumnDataSource:
    """Plain lists, which the page's script can take lines from. A browser has no integers as large as FLOPs."""
    data = {key: [float(value) if type(value) is int else value for value in table[key]] for key in table.columns}
    return ColumnDataSource(data=data, name=name)


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
                ("tokens, epochs", "@tokens{%.2e}, @epochs{%.3g}"),
                ("FLOPs booked, measured", "@booked_flops{%.2e}, @measured_flops{%.2e}"),
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
                ("budget", "@x{%.2e} FLOPs"),
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
