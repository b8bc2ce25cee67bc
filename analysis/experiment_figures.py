"""Figures of what a sweep varied beside size and budget: temperature and decay, pooling, rank, learning rate, share.

Knows rows (the store's columns) and how to draw. Which figures there are follows from what varies in the rows, never
from a sweep's name. Never knows a frontier, or the page around a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy.special import stdtrit

from analysis import wording
from analysis.drawing import GREY, LOSS, Drawing, kind_colours, label_ends, legend, ordered_colours, styled
from analysis.profile import complete_trials
from trainer.trial import format_flops

CAPTIONS = {
    "temperature-weight-decay": "Held-out loss over training temperature and weight decay, all else equal; the frame "
    "is the least one. The held-out loss is calibrated, so that temperatures can be compared.",
    "pooling": "The best trial of each pooling. A line is the 90 % interval of the mean over its seeds; without one "
    "there is one seed. The dotted line is chance.",
    "ranks": "The best trial of each rank; the diamond is the best rank. A line is the 90 % interval over seeds.",
    "rates": "All else equal. In units of the rate that each model was pre-trained with, where that is known. The "
    "diamond is the best one. Where a method has many lines, those of the largest budget are drawn, and where there is "
    "room of the smallest; the data have all.",
    "shares": "The best trial of each share of the blocks that train; the diamond is the best share. The square at the "
    "right is training everything, the input embedding too, which frozen trials never train.",
}
MIN_RATES, MIN_RANKS = 4, 3
MAX_PANELS = 6
MAX_LINES = 16
"""More in a panel than this cannot be told apart."""
BESIDE = 1.14
"""Where training everything stands on an axis of shares."""
CELL = ("budget_flops", "model", "method")
# What must be equal in a cell for losses over the learning rate alone, or over temperature and decay.
HELD = (
    "temperature",
    "weight_decay",
    "warmup_fraction",
    "pooling",
    "method_rank",
    "method_alpha",
    "method_active_fraction",
)


def draw_experiments(rows: pd.DataFrame, pretraining_rates: Mapping[str, float]) -> dict[str, Drawing]:
    """The figures for what varies in ``rows``, by the names of ``CAPTIONS``; none for a sweep of sizes and methods.

    ``pretraining_rates`` has the learning rate that models were pre-trained with, 0 or nothing where it is not known.
    """
    trials, _ = complete_trials(rows)
    found = {
        "temperature-weight-decay": _draw_heat(trials),
        "pooling": _draw_poolings(trials),
        "ranks": _draw_ranks(trials),
        "rates": _draw_rates(trials, pretraining_rates),
        "shares": _draw_shares(trials),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def best(trials: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """The least loss of each combination of ``keys``, a mean over seeds, with a 90 % interval where they are several.

    ``trials`` come from ``complete_trials``. Columns: the keys, ``num_params``, ``loss``, ``low``, ``high``,
    ``num_seeds`` and ``learning_rate``; ``low`` and ``high`` are NaN where there is one seed.
    """
    same = trials.groupby([*keys, "settings"], dropna=False)
    means = same.agg(
        loss=("loss", "mean"),
        deviation=("loss", "std"),
        num_seeds=("loss", "size"),
        num_params=("num_params_non_embedding", "first"),
        learning_rate=("learning_rate", "first"),
    ).reset_index()
    least = means.sort_values("loss", kind="stable").drop_duplicates(list(keys)).sort_values(list(keys))
    quantile = stdtrit(np.maximum(least["num_seeds"] - 1, 1), 0.95)
    half = quantile * least["deviation"] / np.sqrt(least["num_seeds"])
    least = least.assign(low=least["loss"] - half, high=least["loss"] + half)
    return least.loc[:, [*keys, "num_params", "loss", "low", "high", "num_seeds", "learning_rate"]].reset_index(
        drop=True
    )


@styled
def _draw_heat(trials: pd.DataFrame) -> Drawing | None:
    """A panel for each cell that has a full grid of temperatures and weight decays."""
    grids = []
    alike = [*CELL, "learning_rate"]
    varied = trials.groupby(alike)[["temperature", "weight_decay"]].transform("nunique").min(axis=1) >= 2
    for _, cell in trials[varied].groupby(alike, sort=True):
        pairs = cell.drop_duplicates(["temperature", "weight_decay"])
        sides = pairs["temperature"].nunique(), pairs["weight_decay"].nunique()
        if max(sides) >= 3 and len(pairs) == math.prod(sides):
            grids.append(best(cell, *CELL, "temperature", "weight_decay"))
    if not grids:
        return None
    data = pd.concat(grids, ignore_index=True)
    shown = grids[:MAX_PANELS]
    figure, panels = _panels(len(shown), height=3.6)
    losses = pd.concat(shown)["loss"]
    low, high = float(losses.min()), float(losses.max())
    for panel, grid in zip(panels, shown, strict=False):
        _fill_heat(panel, grid, (low, high))
        first = grid.iloc[0]
        panel.set_title(
            f"{_short(first['model'])}, {first['method']}, {format_flops(first['budget_flops'])}", fontsize=9
        )
    return Drawing(figure=figure, data=data, title="Held-out loss over temperature and weight decay")


def _fill_heat(panel: Axes, grid: pd.DataFrame, limits: tuple[float, float]) -> None:
    table = grid.pivot(index="weight_decay", columns="temperature", values="loss")
    values = table.to_numpy()
    low, high = limits
    colours = mpl.colormaps["viridis_r"]
    panel.imshow(values, cmap=colours, vmin=low, vmax=max(high, low + 1e-9), aspect="auto", origin="lower")
    panel.grid(visible=False)
    for (line, column), value in np.ndenumerate(values):
        dark = (value - low) / max(high - low, 1e-9) > 0.55
        panel.text(
            column, line, f"{value:.3f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )
    line, column = np.unravel_index(int(values.argmin()), values.shape)
    panel.add_patch(
        mpl.patches.Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5)
    )
    panel.set_xticks(range(len(table.columns)), [f"{value:.3g}" for value in table.columns])
    panel.set_yticks(range(len(table.index)), [f"{value:.3g}" for value in table.index])
    panel.set_xlabel("temperature")
    panel.set_ylabel("weight decay")


@styled
def _draw_poolings(trials: pd.DataFrame) -> Drawing | None:
    """Groups of bars, a group a cell and a bar a pooling."""
    varied = trials.groupby(list(CELL))["pooling"].transform("nunique") > 1
    if not varied.any():
        return None
    data = best(trials[varied], *CELL, "pooling")
    cells = [cell for _, cell in data.groupby(["budget_flops", "num_params", "method"], sort=True)]
    poolings = sorted(
        data["pooling"].unique(), key=lambda name: float(data.loc[data["pooling"] == name, "loss"].mean())
    )
    colours = dict(zip(poolings, kind_colours(len(poolings)), strict=True))
    figure = Figure(figsize=(min(10.4, 2.4 + 0.75 * len(data)), 3.8), layout="constrained")
    panel = figure.subplots()
    place, places = 0.0, []
    for cell in cells:
        start = place
        for bar in cell.sort_values("loss").to_dict("records"):
            colour = colours[bar["pooling"]]
            panel.bar(place, bar["loss"], color=colour, width=0.8)
            if bar["num_seeds"] > 1:
                panel.plot([place, place], [bar["low"], bar["high"]], color="black", linewidth=1.6)
            top = bar["high"] if bar["num_seeds"] > 1 else bar["loss"]
            panel.text(place, top * 1.01, f"{bar['loss']:.3f}", ha="center", va="bottom", fontsize=8)
            place += 1
        first = cell.iloc[0]
        words = f"{_short(first['model'])}, {first['method']}\n{format_flops(first['budget_flops'])} FLOPs"
        places.append(((start + place - 1) / 2, words))
        place += 0.8
    panel.axhline(math.log(float(trials["num_candidates"].max())), color=GREY, linestyle=":")
    panel.set_xticks([x for x, _ in places], [words for _, words in places], fontsize=8)
    panel.grid(visible=False, axis="x")
    panel.set_ylabel(LOSS)
    panel.margins(y=0.1)
    legend(figure, *(mpl.patches.Patch(color=colour, label=name) for name, colour in colours.items()))
    return Drawing(figure=figure, data=data, title="Held-out loss by pooling, with 90 % intervals over seeds")


@styled
def _draw_ranks(trials: pd.DataFrame) -> Drawing | None:
    lora = trials[trials["method_rank"].notna()]
    varied = lora.groupby(["budget_flops", "model"])["method_rank"].transform("nunique") >= MIN_RANKS
    if not varied.any():
        return None
    data = best(lora[varied], "budget_flops", "model", "method_rank")
    figure = _lines(data, "method_rank", "LoRA's rank", log=True)
    return Drawing(figure=figure, data=data, title="Held-out loss over LoRA's rank, by model and budget")


@styled
def _draw_rates(trials: pd.DataFrame, pretraining_rates: Mapping[str, float]) -> Drawing | None:
    """A panel for each method, a line for each model and budget in which the rate alone varies."""
    alike = trials.groupby([*CELL, *HELD], dropna=False)
    varied = alike["learning_rate"].transform("nunique") >= MIN_RATES
    if not varied.any():
        return None
    # The methods that come along with fewer rates are shown beside.
    few = alike["learning_rate"].transform("nunique") >= MIN_RATES - 1
    data = best(trials[few].rename(columns={"learning_rate": "rate"}).assign(learning_rate=lambda t: t["rate"]),
                *CELL, "rate")  # fmt: skip
    units = data["model"].map(lambda model: pretraining_rates.get(model, 0.0))
    known = bool((units > 0).all())
    data = data.assign(relative_rate=data["rate"] / units if known else data["rate"])
    words = "learning rate / pre-training rate" if known else "learning rate"
    figure = _lines(data, "relative_rate", words, log=True, panel_by="method")
    return Drawing(figure=figure, data=data, title=f"Held-out loss over the {words}, by size")


@styled
def _draw_shares(trials: pd.DataFrame) -> Drawing | None:
    frozen = trials[trials["method_active_fraction"].notna()]
    varied = frozen.groupby(["budget_flops", "model"])["method_active_fraction"].transform("nunique") > 1
    if not varied.any():
        return None
    data = best(frozen[varied], "budget_flops", "model", "method_active_fraction")
    full = trials[trials["method_kind"] == "full"]
    whole = best(full, "budget_flops", "model") if len(full) else pd.DataFrame(columns=data.columns)
    figure = _lines(data, "method_active_fraction", "share of the blocks that train", whole=whole)
    together = pd.concat([data.assign(method="freeze"), whole.assign(method="full")], ignore_index=True)
    return Drawing(
        figure=figure, data=together, title="Held-out loss over the share of the blocks that train, by model"
    )


def _lines(
    data: pd.DataFrame,
    column: str,
    words: str,
    *,
    log: bool = False,
    panel_by: str = "budget_flops",
    whole: pd.DataFrame | None = None,
) -> Figure:
    """A panel for each value of ``panel_by``, a line for each model (and budget); ``whole`` adds a square beside."""
    shown = _parts(data, panel_by)
    figure, panels = _panels(len(shown), height=3.6)
    sizes = sorted(data["num_params"].unique())
    colours = dict(zip(sizes, ordered_colours(len(sizes)), strict=True))
    # Rates in units of others differ in their last digits.
    places = sorted({float(f"{place:.3g}") for place in data[column]})
    for panel, (title, part) in zip(panels, shown, strict=False):
        panel.set_title(title, fontsize=9)
        _axis(panel, places, words, log=log, beside=whole is not None and len(whole) > 0)
        ends = []
        for (size, budget), line in part.groupby(["num_params", "budget_flops"], sort=True):
            colour = colours[size]
            _line(panel, line.sort_values(column), column, colour)
            name = _short(line["model"].iloc[0])
            if part["budget_flops"].nunique() > 1:
                name = f"{name}, {format_flops(line['budget_flops'].iloc[0])}"
            end = line.sort_values(column).iloc[-1]
            ends.append((float(end[column]), float(end["loss"]), name, colour))
            if whole is not None:
                for full in whole[(whole["num_params"] == size) & (whole["budget_flops"] == budget)].to_dict("records"):
                    panel.plot(BESIDE, full["loss"], marker="s", color=colour, linestyle="none")
        panel.set_ylabel(LOSS)
        label_ends(panel, ends)
    handles = [Line2D([], [], color=GREY, marker="D", linestyle="none", label="the best")]
    if whole is not None and len(whole):
        handles.append(Line2D([], [], color=GREY, marker="s", linestyle="none", label="training everything"))
    legend(figure, *handles)
    return figure


def _parts(data: pd.DataFrame, panel_by: str) -> list[tuple[str, pd.DataFrame]]:
    """(title, lines) of each panel. Of methods with many lines the largest budget has one, and where there is room the
    smallest."""
    parts = [(value, data[data[panel_by] == value]) for value in list(data[panel_by].unique())[:MAX_PANELS]]
    if panel_by == "budget_flops":
        return [(wording.flops(value), part) for value, part in parts]
    if all(len(part.drop_duplicates(["num_params", "budget_flops"])) <= MAX_LINES for _, part in parts):
        return [(str(value), part) for value, part in parts]
    ends = [data["budget_flops"].min(), data["budget_flops"].max()][2 * len(parts) > MAX_PANELS :]
    return [
        (f"{value}, {wording.flops(budget)}", part[part["budget_flops"] == budget])
        for value, part in parts
        for budget in ends
        if (part["budget_flops"] == budget).any()
    ]


def _line(panel: Axes, line: pd.DataFrame, column: str, colour: str) -> None:
    panel.plot(line[column], line["loss"], color=colour, marker="o", markersize=4)
    for point in line[line["num_seeds"] > 1].to_dict("records"):
        panel.plot([point[column]] * 2, [point["low"], point["high"]], color=colour, linewidth=1)
    least = line.sort_values("loss").iloc[0]
    panel.plot(least[column], least["loss"], color=colour, marker="D", markersize=8, markeredgecolor="white", zorder=5)


def _axis(panel: Axes, places: Sequence[float], words: str, *, log: bool, beside: bool) -> None:
    panel.set_xlabel(words)
    if not log:
        panel.set_xlim(0, BESIDE + 0.06 if beside else 1.05)
        ticks = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1", **({BESIDE: "all"} if beside else {})}
        panel.set_xticks(list(ticks), list(ticks.values()))
        return
    panel.set_xscale("log")
    panel.set_xlim(min(places) / 1.25, max(places) * 1.25)
    shown = places[:: math.ceil(len(places) / 9)]
    panel.xaxis.set_major_locator(FixedLocator(list(shown)))
    panel.xaxis.set_major_formatter(
        FixedFormatter([f"{place:.2g}" if place < 100 else f"{place:.0f}" for place in shown])
    )
    panel.xaxis.set_minor_locator(NullLocator())


def _panels(number: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(2, number)
    lines = math.ceil(number / columns)
    figure = Figure(figsize=(5.2 * columns, height * lines + 0.3), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels[number:]:
        panel.set_axis_off()
    return figure, panels


def _short(model: object) -> str:
    return str(model).rstrip("/").rsplit("/", 1)[-1]
