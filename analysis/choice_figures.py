"""The figures of what to choose: regions of the methods, the answer by counting convention, cost to serve.

Knows the frontier, readings, lifetimes and how to draw (``drawing.py``). Never knows the page around a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import wording
from analysis.conventions import Reading, readings_table
from analysis.drawing import (
    GREY,
    LOSS,
    Drawing,
    budget_ticks,
    kind_colours,
    label_ends,
    legend,
    log_ticks,
    ordered_colours,
    styled,
)
from analysis.fit import FloatArray
from analysis.frontier import Frontier
from analysis.lifetime import Lifetime, Option, Service, lifetime
from analysis.recommend import Recommendation
from trainer.ladder import ModelShape
from trainer.trial import format_flops

REACH = 4.0
"""How many times beyond the measured budgets the regions are drawn."""
SERVING_SHARES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
FRONT_SHARES = (0.1, 1.0, 10.0)
"""FLOPs to serve over those to train the recommendation: for which costs, and of these a front, are drawn."""


@styled
def draw_regions(frontier: Frontier) -> Drawing | None:
    """The probability that each method is best over the budget, and the crossovers with their intervals.

    ``None`` where fewer than two methods have a law of the loss.
    """
    lawful = [method for method in frontier.methods if method.loss_law is not None]
    if len(lawful) < 2:
        return None
    low, high = frontier.budgets_flops[0], frontier.budgets_flops[-1]
    grid = np.geomspace(low / REACH, high * REACH, 160)
    shares = _shares(frontier, grid)
    colours = dict(zip([m.label for m in frontier.methods], kind_colours(len(frontier.methods)), strict=True))
    crossovers = frontier.crossovers
    heights = [3.0, 0.7 + 0.28 * len(crossovers)]
    figure = Figure(figsize=(10.4, sum(heights) + 0.5), layout="constrained")
    areas, lines = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    areas.stackplot(grid, shares.T, colors=[colours[m.label] for m in lawful], alpha=0.75, linewidth=0)
    _name_areas(areas, grid, shares, [method.label for method in lawful])
    areas.set(xscale="log", ylim=(0, 1), xlim=(grid[0], grid[-1]), ylabel="probability of being best")
    areas.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    areas.set_title("Method regions, by the laws")
    areas.tick_params(labelbottom=False)
    for place, crossing in enumerate(crossovers):
        ends = np.clip([crossing.interval.low, crossing.interval.high], grid[0], grid[-1])
        lines.plot(ends, [place] * 2, color=GREY, linewidth=3, solid_capstyle="butt", alpha=0.5)
        # An arrow where the interval goes on beyond the panel.
        if crossing.interval.low < grid[0]:
            lines.plot(grid[0] * 1.02, place, "<", color=GREY)
        if crossing.interval.high > grid[-1]:
            lines.plot(grid[-1] / 1.02, place, ">", color=GREY)
        if crossing.budget_flops is not None and grid[0] <= crossing.budget_flops <= grid[-1]:
            lines.plot(crossing.budget_flops, place, "o", color="black")
    names = [f"{one.below} → {one.above}" for one in crossovers]
    lines.set_yticks(range(len(names)), names, fontsize=8)
    lines.set(ylim=(len(names) - 0.4, -0.6), title="Crossovers, 90 % intervals")
    lines.set_xlabel("budget (booked training FLOPs); dotted: the smallest and the largest measured one")
    lines.grid(axis="y", visible=False)
    budget_ticks(lines, frontier.budgets_flops)
    for panel in (areas, lines):
        for end in (low, high):
            panel.axvline(end, color="black", linestyle=":", linewidth=1)
    data = pd.DataFrame(shares, columns=[f"probability_{method.label}" for method in lawful])
    data.insert(0, "budget_flops", grid)
    return Drawing(
        figure=figure, data=data, title="Method regions: the probability that each method is best, and the crossovers"
    )


def _shares(frontier: Frontier, grid: FloatArray) -> FloatArray:
    """The share of the draws in which each method with a law is lowest: (num_budgets, num_methods)."""
    draws = [m.loss_law.draws_over(grid) for m in frontier.methods if m.loss_law is not None]
    winners = np.where(np.isnan(draws), np.inf, draws).argmin(axis=0)
    return np.stack([(winners == place).mean(axis=0) for place in range(len(draws))], axis=1)


def _name_areas(panel: Axes, grid: FloatArray, shares: FloatArray, names: Sequence[str]) -> None:
    """Each name where its area is thickest, if it is thick enough to hold it."""
    tops = shares.cumsum(axis=1)
    for place, name in enumerate(names):
        inner = slice(len(grid) // 12, -len(grid) // 12)
        at = int(shares[inner, place].argmax()) + len(grid) // 12
        if shares[at, place] > 0.12:
            height = tops[at, place] - shares[at, place] / 2
            panel.annotate(name, (grid[at], height), ha="center", va="center", fontweight="bold")


@styled
def draw_exponents(found: Sequence[Reading]) -> Drawing | None:
    """The exponents of size and loss under each convention, a colour a method. ``None`` where no law has any."""
    table = readings_table(found)
    if table[["a", "c"]].isna().all(axis=None):
        return None
    figure = Figure(figsize=(10.4, 1.6 + 0.55 * len(found)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    methods = [method.label for method in found[0].frontier.methods]
    colours = kind_colours(len(methods))
    words = [reading.convention.words for reading in found]
    for panel, name, title in zip(panels, ("a", "c"), ("a: size N* ~ C^a", "c: loss ~ C^c"), strict=True):
        known = table[name].dropna()
        spread = max(0.1, float(known.max() - known.min())) if len(known) else 1.0
        limits = (known.min() - 0.6 * spread, known.max() + 0.6 * spread) if len(known) else (-1.0, 1.0)
        for number, (method, colour) in enumerate(zip(methods, colours, strict=True)):
            shift = 0.16 * (number - (len(methods) - 1) / 2)
            for place, reading in enumerate(found):
                own = table[(table["method"] == method) & (table["size"] == reading.convention.size)]
                line = own[own["flops"] == reading.convention.flops].iloc[0]
                if not math.isnan(line[name] if line[name] is not None else math.nan):
                    ends = np.clip([line[f"{name}_low"], line[f"{name}_high"]], *limits)
                    panel.plot(ends, [place + shift] * 2, color=colour, linewidth=1.2)
                    panel.plot(line[name], place + shift, "o", color=colour, markersize=5)
        panel.set(title=title, xlim=limits, xlabel="exponent (90 % interval)")
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(words)), words)
    panels[0].set_ylim(len(words) - 0.5, -0.5)
    legend(figure, *[Line2D([], [], color=c, marker="o", label=m) for m, c in zip(methods, colours, strict=True)])
    return Drawing(figure=figure, data=table, title="Exponents of the laws under each way of counting")


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a service embeds of a text, and with which models it may."""

    shapes: tuple[ModelShape, ...]
    tokens_per_query: float
    tokens_per_document: float

    def queries(self, number: float) -> Service:
        """So many queries in all."""
        return Service(
            queries_per_month=number,
            months=1.0,
            tokens_per_query=self.tokens_per_query,
            tokens_per_document=self.tokens_per_document,
        )


@styled
def draw_lifetime(frontier: Frontier, recommendation: Recommendation, served: Served) -> Drawing | None:
    """What the recommended loss costs over queries served, and the fronts of loss over lifetime FLOPs.

    ``None`` where no loss is known, so that nothing can be compared.
    """
    shape = next(shape for shape in served.shapes if shape.name == recommendation.model)
    even = recommendation.budget_flops / (served.queries(1e6).flops(shape) / 1e6)
    lives = [
        lifetime(frontier, recommendation, served.shapes, served.queries(even * share)) for share in SERVING_SHARES
    ]
    fronts = [(share, life) for share, life in zip(SERVING_SHARES, lives, strict=True) if share in FRONT_SHARES]
    if not fronts[0][1].front:
        return None
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    costs, front = figure.subplots(1, 2)
    _draw_costs(costs, lives, recommendation)
    lines = _draw_fronts(front, fronts)
    return Drawing(
        figure=figure,
        data=pd.DataFrame([*_cost_lines(lives), *lines]),
        title="Cost to serve: training and serving FLOPs over queries, and the lowest loss for lifetime FLOPs",
    )


def _draw_costs(panel: Axes, lives: Sequence[Lifetime], recommendation: Recommendation) -> None:
    queries = [life.service.num_queries for life in lives]
    panel.set(xscale="log", yscale="log", title="FLOPs for the recommended loss", xlabel="queries served")
    panel.set_ylabel("training and serving FLOPs")
    panel.plot(queries, [life.recommended.lifetime_flops for life in lives], color="#0072B2")
    best = [life.optimum for life in lives if life.optimum is not None]
    if best:
        panel.plot(queries, [option.lifetime_flops for option in best], color="#D55E00", marker="o", markersize=4)
    panel.axhline(recommendation.budget_flops, color=GREY, linestyle=":", linewidth=1)
    panel.set_xlim(queries[0], queries[-1])
    last = lives[-1].recommended.lifetime_flops
    panel.set_ylim(min([recommendation.budget_flops, *(o.lifetime_flops for o in best)]) / 2, last * 2)
    log_ticks(panel, "x", wording.short_count)
    log_ticks(panel, "y", format_flops)
    panel.annotate(
        "training alone", (queries[0], recommendation.budget_flops), xytext=(2, -10), textcoords="offset points",
        fontsize=8, color=GREY,
    )  # fmt: skip
    ends = [(queries[-1], float(last), f"{recommendation.model}, recommended", "#0072B2")]
    if best:
        ends.append((queries[-1], float(best[-1].lifetime_flops), f"{best[-1].model}, the least", "#D55E00"))
    label_ends(panel, ends)


def _draw_fronts(panel: Axes, fronts: Sequence[tuple[float, Lifetime]]) -> list[dict[str, object]]:
    """A line an amount of service, with a dot where another model or method takes over; names on the first line."""
    lines: list[dict[str, object]] = []
    panel.set(xscale="log", title="Lowest loss for lifetime FLOPs", xlabel="training and serving FLOPs", ylabel=LOSS)
    for place, ((share, life), colour) in enumerate(zip(fronts, ordered_colours(len(fronts)), strict=True)):
        x, y = [option.lifetime_flops for option in life.front], [option.known_loss for option in life.front]
        panel.plot(x, y, color=colour, label=f"{wording.count(life.service.num_queries)} queries")
        firsts: dict[tuple[str, str], Option] = {}
        for option in life.front:
            firsts.setdefault((option.model, option.method), option)
        for (model, method), first in firsts.items():
            panel.plot(first.lifetime_flops, first.known_loss, "o", color=colour, markersize=4)
            if place == 0:
                panel.annotate(
                    f"{model}, {method}",
                    (first.lifetime_flops, first.known_loss),
                    xytext=(-5, -2),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    fontsize=7,
                    color=colour,
                )
        lines += [_option_line(option, life, f"front at {share:g} times") for option in life.front]
    low, high = fronts[0][1].front[0].lifetime_flops, fronts[-1][1].front[-1].lifetime_flops
    panel.set_xlim(low / (high / low) ** 0.3, high * 1.2)
    log_ticks(panel, "x", format_flops)
    panel.legend(fontsize=8, frameon=False)
    return lines


def _cost_lines(lives: Sequence[Lifetime]) -> list[dict[str, object]]:
    found = []
    for life in lives:
        found.append(_option_line(life.recommended, life, "recommended"))
        if life.optimum is not None:
            found.append(_option_line(life.optimum, life, "least"))
    return found


def _option_line(option: Option, life: Lifetime, what: str) -> dict[str, object]:
    return {"what": what, "num_queries": life.service.num_queries, "model": option.model, "method": option.method} | {
        "training_flops": option.training_flops,
        "serving_flops": option.serving_flops,
        "lifetime_flops": option.lifetime_flops,
        "loss": option.loss,
    }
