"""The figures of any table's IsoFLOP points: the profiles, and their minima over compute with the laws.

Knows columns of numbers by method, the IsoFLOP fit and how to draw (``drawing.py``). Never knows a store's rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import wording
from analysis.descent import IntArray
from analysis.drawing import (
    GREY,
    Drawing,
    clip,
    kind_colours,
    label_ends,
    legend,
    log_ticks,
    ordered_colours,
    styled,
)
from analysis.fit import FloatArray, locate_minima, percentile_interval
from analysis.isoflops import IsoflopFit, fit_isoflops
from analysis.noise import noise_of_profiles
from trainer.trial import format_flops

MIN_SIZES = 3
NUM_DRAWS = 300
MAX_PANELS = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Isoflops:
    """A method's points that lie in profiles, and the IsoFLOP fit through them."""

    method: str
    columns: Mapping[str, FloatArray]
    """``budget``, ``params``, ``tokens``, ``loss``: each (n,)."""
    fit: IsoflopFit


def fit_profiles(groups: Sequence[tuple[str, Mapping[str, FloatArray]]], *, seed: int = 0) -> tuple[Isoflops, ...]:
    """The methods that have a budget with three sizes or more, with their minima by the points around the lowest."""
    found = []
    for method, columns in groups:
        if "params" not in columns:
            continue
        sizes = pd.Series(columns["params"]).groupby(columns["budget"]).nunique()
        here = np.isin(columns["budget"], sizes.index[sizes >= MIN_SIZES].to_numpy())
        if not here.any():
            continue
        own = {name: columns[name][here] for name in ("budget", "params", "tokens", "loss")}
        rng = np.random.default_rng(seed)
        noise = noise_of_profiles(own["budget"], own["params"], own["loss"]).draw_sd(rng, NUM_DRAWS)[:, None]

        draw = _drawer(own["loss"], noise, rng)
        fit = fit_isoflops(own["budget"], own["params"], own["tokens"], own["loss"], draw, way="window")
        found.append(Isoflops(method=method, columns=own, fit=fit))
    return tuple(found)


def _drawer(loss: FloatArray, noise: FloatArray, rng: np.random.Generator) -> Callable[[IntArray], FloatArray]:
    """Draws of the losses of some points, as other seeds would have them; ``noise`` (num_draws, 1) is relative."""

    def draw(some: IntArray) -> FloatArray:
        return np.asarray(loss[some] * np.exp(noise * rng.standard_normal((len(noise), some.size))))

    return draw


@styled
def draw_table_profiles(found: Sequence[Isoflops]) -> Drawing | None:
    """A panel a method: loss over size, a colour a budget, with the parabola around the lowest point."""
    if not found:
        return None
    shown = found[:MAX_PANELS]
    columns = min(2, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(10.4, 3.7 * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, one in zip(panels, shown, strict=False):
        _draw_panel(panel, one)
    legend(
        figure,
        Line2D([], [], color=GREY, marker="o", linewidth=0.8, markersize=4, label="a row of the table"),
        Line2D([], [], color=GREY, label="parabola around the lowest"),
        Line2D([], [], color=GREY, marker="D", linestyle="none", label="minimum"),
    )
    data = pd.concat([pd.DataFrame(dict(one.columns)).assign(method=one.method) for one in found], ignore_index=True)
    return Drawing(figure=figure, data=data, title="IsoFLOP profiles: loss over model size, a line a budget")


def _draw_panel(panel: Axes, one: Isoflops) -> None:
    budgets = np.unique(one.columns["budget"])
    panel.set(xscale="log", title=one.method, xlabel="model size N", ylabel="loss")
    sizes = one.columns["params"]
    panel.set_xlim(sizes.min() / 1.3, sizes.max() * 1.3)
    ends = []
    for budget, colour in zip(budgets, ordered_colours(len(budgets)), strict=True):
        here = one.columns["budget"] == budget
        order = np.argsort(sizes[here])
        x, y = sizes[here][order], one.columns["loss"][here][order]
        panel.plot(x, y, color=colour, marker="o", markersize=3, linewidth=0.6, alpha=0.7)
        ends.append((float(x[-1]), float(y[-1]), format_flops(int(budget)), colour))
        unique, first = np.unique(x, return_index=True)
        minima = locate_minima(np.log10(unique), y[first][None])
        if math.isfinite(minima.x[0]):
            near = slice(int(minima.start[0]), int(minima.stop[0]))
            grid = np.geomspace(unique[near][0], unique[near][-1], 50)
            fitted = minima.y[0] + minima.curvature[0] * (np.log10(grid) - minima.x[0]) ** 2
            panel.plot(grid, fitted, color=colour)
            panel.plot(10 ** minima.x[0], minima.y[0], "D", color=colour, markeredgecolor="white", zorder=5)
    log_ticks(panel, "x", wording.short_count)
    label_ends(panel, ends)


@styled
def draw_minima(found: Sequence[Isoflops]) -> Drawing | None:
    """Size and tokens of the minima over compute, a colour a method, with the laws. ``None`` without a law."""
    lawful = [one for one in found if one.fit.size_law is not None]
    if not lawful:
        return None
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    colours = kind_colours(len(lawful))
    data: list[dict[str, Any]] = []
    for panel, name, label in zip(panels, ("num_params", "tokens"), ("N*, model size", "D*, tokens"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="FLOPs C", ylabel=label, title=label)
        ends = []
        for one, colour in zip(lawful, colours, strict=True):
            law = one.fit.size_law if name == "num_params" else one.fit.tokens_law
            assert law is not None
            used = [minimum for minimum in one.fit.minima if minimum.is_used]
            for minimum in used:
                within = percentile_interval(getattr(minimum, f"{name}_draws"))
                value = float(getattr(minimum, name))
                panel.plot([minimum.budget_flops] * 2, clip(within, value / 30, value * 30), color=colour, linewidth=1)
                panel.plot(minimum.budget_flops, value, "o", color=colour, markersize=5)
                data.append(
                    {"method": one.method, "quantity": name, "budget_flops": minimum.budget_flops, "value": value}
                    | {"low": within.low, "high": within.high, "law": law.at(minimum.budget_flops)}
                )
            grid = np.geomspace(float(min(law.budgets_flops)), float(max(law.budgets_flops)), 20)
            panel.plot(grid, law.fit(grid), color=colour, linewidth=1.2)
            exponent = law.exponent_interval
            words = f"{law.fit.exponent:.3f} ({exponent.low:.2f} to {exponent.high:.2f})"
            ends.append((float(grid[-1]), law.at(float(grid[-1])), words if len(lawful) == 1 else one.method, colour))
        shown = [line["value"] for line in data if line["quantity"] == name]
        panel.set_ylim(min(shown) / 4, max(shown) * 4)
        log_ticks(panel, "x", lambda value: format_flops(round(value)))
        log_ticks(panel, "y", wording.short_count)
        label_ends(panel, ends)
    title = "Minima of the profiles over compute, with 90 % intervals and the power laws through them"
    return Drawing(figure=figure, data=pd.DataFrame(data), title=title)
