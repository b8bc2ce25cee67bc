"""The figures of a sweep: profiles by method, the frontier, training curves. Each comes with its data as a table.

Knows the frontier, the recommendation and how to draw (``drawing.py``). Never knows rows, the page around a figure, or
how a law was fitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis import wording
from analysis.drawing import (
    GREY,
    LOSS,
    SIZE,
    Drawing,
    budget_ticks,
    clip,
    kind_colours,
    label_ends,
    legend,
    ordered_colours,
    size_ticks,
    styled,
)
from analysis.fit import FloatArray
from analysis.frontier import Frontier, MethodFrontier, Ranking
from analysis.law import Law
from analysis.profile import Profile, ProfileState
from analysis.recommend import Recommendation
from analysis.tables import curves_table, frontier_table, profiles_table
from trainer.trial import format_flops

MAX_CURVE_COLUMNS = 3


@styled
def draw_profiles(frontier: Frontier) -> Drawing:
    """A panel a method: loss over size, a colour a budget; parabolas, optima with intervals, and edges."""
    columns = min(2, len(frontier.methods))
    lines = math.ceil(len(frontier.methods) / columns)
    figure = Figure(figsize=(10.4, (3.4 if columns > 1 else 4.4) * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False).flat)
    colours = dict(zip(frontier.budgets_flops, ordered_colours(len(frontier.budgets_flops)), strict=True))
    sizes = _sizes(frontier)
    for panel, method in zip(panels, frontier.methods, strict=False):
        panel.set_title(method.label)
        for profile in method.profiles:
            _draw_profile(panel, profile, colours[profile.budget_flops], sizes)
    panels[0].set_xscale("log")
    panels[0].set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    size_ticks(panels[0], sizes)
    for panel in panels[len(frontier.methods) :]:
        panel.set_axis_off()
    for panel, method in zip(panels, frontier.methods, strict=False):
        panel.tick_params(labelbottom=True, labelleft=True)
        panel.set_xlabel(SIZE)
        panel.set_ylabel(LOSS)
        last = [(profile.budget_flops, profile.points[-1]) for profile in method.profiles]
        label_ends(panel, [(p.num_params, p.loss, format_flops(budget), colours[budget]) for budget, p in last])
    legend(
        figure,
        Line2D([], [], color=GREY, marker="o", linewidth=0.8, markersize=4, label="best trial of a model"),
        Line2D([], [], color=GREY, label="parabola near the minimum"),
        Line2D([], [], color=GREY, marker="D", linewidth=1, label="optimum, 90 % interval of its size"),
        Line2D([], [], color=GREY, marker="<", markerfacecolor="white", linestyle="none", markersize=8,
               label="lowest at an edge: no optimum"),
    )  # fmt: skip
    return Drawing(
        figure=figure,
        data=profiles_table(frontier),
        title="IsoFLOP profiles: loss over model size, one panel a method, one line a budget (training FLOPs)",
    )


def _draw_profile(panel: Axes, profile: Profile, colour: str, sizes: Sequence[int]) -> None:
    x, y = [point.num_params for point in profile.points], [point.loss for point in profile.points]
    panel.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
    panel.scatter(x, y, color=colour, s=16, zorder=3)
    edge = {ProfileState.EDGE_LOW: "<", ProfileState.EDGE_HIGH: ">"}.get(profile.state)
    if edge:
        best = profile.best
        panel.plot(
            best.num_params, best.loss, marker=edge, markersize=9, color=colour, markerfacecolor="white", zorder=4
        )
    optimum = profile.optimum
    if optimum is None:
        return
    used = [point.num_params for point in profile.points if point.model in optimum.models]
    grid = np.geomspace(min(used), max(used), 80)
    panel.plot(grid, optimum.parabola(np.log10(grid)), color=colour)
    ends = clip(optimum.num_params_interval, sizes[0] / 1.4, sizes[-1] * 1.4)
    panel.plot(ends, [optimum.loss] * 2, color=colour, linewidth=1, marker="|", markersize=5, zorder=4)
    panel.plot(optimum.num_params, optimum.loss, marker="D", color=colour, markeredgecolor="white", zorder=5)


@styled
def draw_frontier(frontier: Frontier, recommendation: Recommendation | None) -> Drawing:
    """Loss and size of each method's optimum over budgets: a colour a method, laws with bands, measured optima."""
    figure = Figure(figsize=(10.4, 4.8), layout="constrained")
    losses, sizes = figure.subplots(1, 2, width_ratios=[1.2, 1])
    grid = _budget_grid(frontier, recommendation)
    colours = kind_colours(len(frontier.methods))
    # Methods stand a little beside each other, so that intervals at one budget do not hide one another.
    beside = (grid[-1] / grid[0]) ** (0.006 * (np.arange(len(colours)) - (len(colours) - 1) / 2))
    for method, colour, shift in zip(frontier.methods, colours, beside, strict=True):
        _draw_law(losses, method.loss_law, grid, colour)
        _draw_law(sizes, method.size_law, grid, colour)
        _draw_losses(losses, method.label, frontier.rankings, colour, float(shift))
        _draw_optimal_sizes(sizes, method, colour, float(shift))
    ticks = [*frontier.budgets_flops]
    shown = recommendation is not None and grid[0] < recommendation.budget_flops < grid[-1]
    if recommendation is not None and shown:
        ticks = sorted({*ticks, recommendation.budget_flops})
    for panel in (losses, sizes):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(grid[0], grid[-1])
        panel.set_xlabel("budget (booked training FLOPs)")
        budget_ticks(panel, ticks)
    losses.set(title="Loss of the optimum", ylabel=LOSS, ylim=_loss_limits(frontier, grid))
    losses.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    losses.yaxis.set_minor_locator(NullLocator())
    losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    models = _sizes(frontier)
    sizes.set(title="Size of the optimum", ylabel=SIZE, ylim=(models[0] / 1.6, models[-1] * 1.6))
    size_ticks(sizes, models, axis="y")
    if recommendation is not None and shown:
        _draw_recommended(losses, sizes, recommendation)
    named = list(zip(frontier.methods, colours, strict=True))
    label_ends(losses, [(*_end(m.loss_law, grid, m.profiles[-1].loss), m.label, c) for m, c in named])
    label_ends(sizes, [(*_end(m.size_law, grid, 0), _size_label(m, grid), c) for m, c in named if m.size_law])
    legend(
        figure,
        Line2D([], [], color=GREY, marker="o", linestyle="none", label="optimum, 90 % interval"),
        Line2D([], [], color=GREY, marker="v", markerfacecolor="white", linestyle="none", markersize=7,
               label="no optimum: lowest measured loss"),
        Line2D([], [], color=GREY, label="law, 90 % band (dotted: not measured)"),
        Line2D([], [], color="black", marker="*", linestyle="none", markersize=11, label="recommended"),
    )  # fmt: skip
    return Drawing(
        figure=figure,
        data=frontier_table(frontier, grid),
        title="The frontier: loss and size of each method's optimum over the budget, with 90 % bands",
    )


def _budget_grid(frontier: Frontier, recommendation: Recommendation | None) -> FloatArray:
    """From the smallest to the largest budget shown. A far budget would squeeze what was measured into a corner."""
    low, high = float(frontier.budgets_flops[0]), float(frontier.budgets_flops[-1])
    wanted = high if recommendation is None else float(recommendation.budget_flops)
    if low / 30 < wanted < high * 30:
        low, high = min(low, wanted), max(high, wanted)
    return np.geomspace(low / 1.3, high * 1.3, 120)


def _draw_law(panel: Axes, law: Law | None, grid: FloatArray, colour: str) -> None:
    if law is None:
        return
    panel.plot(grid, law.fit(grid), color=colour, linestyle=":")
    low, high = law.band(grid)
    bounded = np.isfinite(low) & np.isfinite(high)
    inside = (grid >= min(law.budgets_flops)) & (grid <= max(law.budgets_flops)) & bounded
    panel.plot(grid[inside], law.fit(grid[inside]), color=colour)
    # A band without bounds would fill the panel and hide the others.
    panel.fill_between(grid[bounded], low[bounded], high[bounded], color=colour, alpha=0.15, linewidth=0)


def _draw_losses(panel: Axes, label: str, rankings: Sequence[Ranking], colour: str, shift: float) -> None:
    for ranking in rankings:
        for standing in ranking.standings:
            if standing.method == label:
                x, ends = ranking.budget_flops * shift, clip(standing.loss_interval, 1e-30, 1e30)
                marker, size, fill = ("o", 6, colour) if standing.is_optimum else ("v", 7, "white")
                panel.plot([x, x], ends, color=colour, linewidth=1)
                panel.plot(x, standing.loss, color=colour, marker=marker, markersize=size, markerfacecolor=fill)


def _draw_optimal_sizes(panel: Axes, method: MethodFrontier, colour: str, shift: float) -> None:
    for profile in method.profiles:
        if profile.optimum is not None:
            ends = clip(profile.optimum.num_params_interval, 1e-30, 1e30)
            panel.plot([profile.budget_flops * shift] * 2, ends, color=colour, linewidth=1)
            panel.plot(profile.budget_flops * shift, profile.optimum.num_params, color=colour, marker="o")


def _draw_recommended(losses: Axes, sizes: Axes, recommendation: Recommendation) -> None:
    star: dict[str, Any] = {"color": "black", "marker": "*", "markersize": 13, "markeredgecolor": "white", "zorder": 6}
    words: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right",
        "va": "top",
        "fontsize": 8,
        "fontweight": "bold",
    }
    if recommendation.loss is not None:
        at = (recommendation.budget_flops, recommendation.loss)
        losses.plot(*at, **star)
        losses.annotate(f"{recommendation.model}: {wording.loss(recommendation.loss)}", at, xytext=(-4, -8), **words)
    at = (recommendation.budget_flops, recommendation.num_params)
    sizes.plot(*at, **star)
    sizes.annotate(recommendation.model, at, xytext=(-8, 12), **words)


def _end(law: Law | None, grid: FloatArray, otherwise: float) -> tuple[float, float]:
    return float(grid[-1]), otherwise if law is None else law.at(float(grid[-1]))


def _size_label(method: MethodFrontier, grid: FloatArray) -> str:
    assert method.size_law is not None
    within = method.size_law.interval_at(float(grid[-1]))
    return (
        method.label if math.isfinite(within.low) and math.isfinite(within.high) else f"{method.label}\n(not bounded)"
    )


def _loss_limits(frontier: Frontier, grid: FloatArray) -> tuple[float, float]:
    """Round all points and laws, with room below for the recommendation's label; bands may run out of the panel."""
    shown = [standing.loss for ranking in frontier.rankings for standing in ranking.standings]
    for method in frontier.methods:
        if method.loss_law is not None:
            shown += [method.loss_law.at(float(grid[0])), method.loss_law.at(float(grid[-1]))]
    return min(shown) / 1.15, max(shown) * 1.07


@styled
def draw_curves(frontier: Frontier, curves: Mapping[str, pd.DataFrame]) -> Drawing | None:
    """Training loss over the spent share of the budget: a panel a method and budget, a line a model's best trial.

    Of many budgets the smallest, a middle and the largest are drawn; the data have all. ``curves`` maps trial ids to
    tables with the store's curve columns; trials without one are left out. ``None`` where there is no curve at all.
    """
    table = curves_table(frontier, curves)
    if table.empty:
        return None
    budgets, methods = frontier.budgets_flops, frontier.methods
    if len(budgets) > MAX_CURVE_COLUMNS:
        budgets = (budgets[0], budgets[len(budgets) // 2], budgets[-1])
    width, height = 1.0 + 3.1 * len(budgets), 0.7 + 2.2 * len(methods)
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(len(methods), len(budgets), sharex=True, sharey=True, squeeze=False)
    # Room in inches, fixed: to find it out for so many panels would take seconds.
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.5 / width, bottom=0.5 / height, top=1 - 0.3 / height)
    figure.subplots_adjust(wspace=0.25, hspace=0.25)
    sizes = _sizes(frontier)
    colours = dict(zip(sizes, ordered_colours(len(sizes)), strict=True))
    late = table.loc[table["share_of_budget"] > 0.05, "train_loss"]
    panels[0][0].set_ylim(late.min() - 0.3, late.max() + 0.3)
    panels[0][0].set_xlim(0, 1)
    panels[0][0].set_xticks([0, 0.25, 0.5, 0.75])
    panels[0][0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    for line, method in zip(panels, methods, strict=True):
        line[0].set_ylabel("training loss (nats)")
        for panel, budget in zip(line, budgets, strict=True):
            panel.set_title(f"{method.label}, {format_flops(budget)}", fontsize=9)
            here = table[(table["method"] == method.label) & (table["budget_flops"] == budget)]
            ends = []
            for size, curve in here.groupby("num_params"):
                colour = colours[int(str(size))]
                panel.plot(curve["share_of_budget"], curve["train_loss"], color=colour, linewidth=1.2)
                ends.append((1.0, float(curve["train_loss"].iloc[-1]), wording.short_count(int(str(size))), colour))
            label_ends(panel, ends)
    for panel in panels[-1]:
        panel.set_xlabel("share of the budget")
    return Drawing(
        figure=figure,
        data=table,
        title="Training loss over the share of the budget spent, best trial of each model; names are sizes",
    )


def _sizes(frontier: Frontier) -> list[int]:
    return sorted({point.num_params for m in frontier.methods for profile in m.profiles for point in profile.points})
