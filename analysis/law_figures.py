"""The figures of how well the laws hold: loss surface, residuals, predicted against measured, noise.

Knows the frontier, surfaces, comparisons and how to draw (``drawing.py``). Never knows the page around a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from analysis import wording
from analysis.drawing import (
    GREY,
    LOSS,
    SIZE,
    Drawing,
    budget_ticks,
    kind_colours,
    legend,
    log_ticks,
    size_ticks,
    styled,
)
from analysis.fit import Interval, percentile_interval
from analysis.frontier import Frontier, MethodFrontier
from analysis.profile import SETTINGS, complete_trials
from analysis.surface import Surface
from trainer.trial import format_flops

NUM_LEVELS = 9
MAX_LINES = 15
"""More budgets than this have no lines and names on the surface."""


@styled
def draw_surface(surfaces: Sequence[Surface], frontier: Frontier | None = None) -> Drawing | None:
    """A panel a surface: contours of the fitted loss over size and tokens, the points, and the frontier's optima.

    ``None`` where no method has a surface.
    """
    fitted = [surface for surface in surfaces if surface.fit is not None]
    if not fitted:
        return None
    columns = min(2, len(fitted))
    lines = math.ceil(len(fitted) / columns)
    figure = Figure(figsize=(10.4, (3.7 if columns > 1 else 4.6) * lines + 0.4), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for panel in panels[len(fitted) :]:
        panel.set_axis_off()
    for panel, surface in zip(panels, fitted, strict=False):
        _draw_contours(panel, surface)
        panel.set_xlabel("model size N" if frontier is None else SIZE)
        panel.set_ylabel("tokens D" if frontier is None else "tokens (worth, as fresh ones)")
        if frontier is not None:
            _draw_path(panel, frontier.method(surface.method))
    legend(
        figure,
        Line2D([], [], color=GREY, linewidth=0.8, label="fitted loss (nats)"),
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", linestyle=":", linewidth=0.8,
               label="a row, a line a budget" if frontier is None else "best trial of a model, a line a budget"),
        *([] if frontier is None else [Line2D([], [], color="#D55E00", marker="D", linewidth=2,
                                              label="the frontier: optimal size and tokens")]),
    )  # fmt: skip
    return Drawing(
        figure=figure,
        data=pd.concat([s.points.assign(method=s.method) for s in fitted], ignore_index=True),
        title="Loss surface: the fitted L(N, D) over model size and tokens, with the trials it goes through",
    )


def _draw_contours(panel: Axes, surface: Surface) -> None:
    points = surface.points
    x, y = points["num_params"].to_numpy(float), points["effective_tokens"].to_numpy(float)
    panel.set(xscale="log", yscale="log")
    loose = surface.unidentified
    panel.set_title(surface.method + (f" ({wording.listing(loose)} not identified: a guide only)" if loose else ""))
    panel.set_xlim(x.min() / 1.5, x.max() * 1.5)
    panel.set_ylim(y.min() / 1.8, y.max() * 1.8)
    grid_x, grid_y = np.meshgrid(np.geomspace(*panel.get_xlim(), 60), np.geomspace(*panel.get_ylim(), 60))
    loss = surface.at(grid_x, grid_y)
    low, high = points["loss"].min(), points["loss"].max()
    levels = MaxNLocator(NUM_LEVELS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    panel.contourf(grid_x, grid_y, loss, levels=levels, cmap="viridis", alpha=0.25, extend="both")
    drawn = panel.contour(grid_x, grid_y, loss, levels=levels, colors=GREY, linewidths=0.7)
    panel.clabel(drawn, fontsize=7, fmt="%g")
    panel.plot(x, y, "o", color="black", markerfacecolor="white", markersize=4)
    lines = [own.sort_values("num_params") for _, own in points.groupby("budget_flops") if len(own) > 1]
    for own in lines if len(lines) <= MAX_LINES else []:
        panel.plot(own["num_params"], own["effective_tokens"], color=GREY, linestyle=":", linewidth=0.8)
        last = own.iloc[-1]
        panel.annotate(
            format_flops(round(last["budget_flops"])), (last["num_params"], last["effective_tokens"]), xytext=(2, 5),
            textcoords="offset points", fontsize=7, color="black", ha="center",
        )  # fmt: skip
    sizes = sorted({int(size) for size in x})
    if len(sizes) <= 12:
        size_ticks(panel, sizes)
    else:
        log_ticks(panel, "x", wording.short_count)
    log_ticks(panel, "y", wording.short_count)
    panel.grid(False)


def _draw_path(panel: Axes, method: MethodFrontier) -> None:
    """The optima over budgets by the laws; its measured ones as diamonds."""
    optima = [profile.optimum for profile in method.profiles if profile.optimum is not None]
    line: dict[str, Any] = {"color": "#D55E00", "zorder": 5}
    panel.plot([o.num_params for o in optima], [o.tokens for o in optima], "D", markeredgecolor="white", **line)
    if method.size_law is not None and method.tokens_law is not None:
        budgets = np.array(method.size_law.budgets_flops, dtype=float)
        grid = np.geomspace(budgets.min(), budgets.max(), 30)
        panel.plot(method.size_law.fit(grid), method.tokens_law.fit(grid), linewidth=2, **line)


@styled
def draw_residuals(surfaces: Sequence[Surface]) -> Drawing | None:
    """Loss by the surfaces against measured, and the residuals over compute, beside the noise. ``None`` without any."""
    fitted = [surface for surface in surfaces if surface.fit is not None]
    if not fitted:
        return None
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    against, over = figure.subplots(1, 2)
    ends = [min(s.points[["loss", "fitted"]].min().min() for s in fitted) / 1.03]
    ends.append(max(s.points[["loss", "fitted"]].max().max() for s in fitted) * 1.03)
    against.plot(ends, ends, color=GREY, linewidth=1)
    over.axhline(0, color=GREY, linewidth=1)
    handles: list[Artist] = []
    for surface, colour in zip(fitted, kind_colours(len(fitted)), strict=True):
        points = surface.points
        dots: dict[str, Any] = {"color": colour, "s": 18, "alpha": 0.8, "linewidths": 0}
        against.scatter(points["fitted"], points["loss"], **dots)
        over.scatter(points["budget_flops"], 100 * points["residual"], **dots)
        words = f"{surface.method}: {100 * surface.residual_sd:.1f} % off"
        if surface.noise_relative_sd is not None:
            words += f" (noise {100 * surface.noise_relative_sd:.1f} %)"
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="none", label=words))
    if noises := [100 * surface.noise_relative_sd for surface in fitted if surface.noise_relative_sd is not None]:
        over.axhspan(-max(noises), max(noises), color=GREY, alpha=0.12, linewidth=0)
        handles.append(Patch(color=GREY, alpha=0.3, label="± 1 sd of the largest noise"))
    for side in (against.set_xscale, against.set_yscale):
        side("log")
    against.set(xlim=ends, ylim=ends, xlabel="loss by the surface (nats)", ylabel="measured loss (nats)")
    against.set_title("Predicted against measured")
    for axis in (against.xaxis, against.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_formatter(NullFormatter())
    over.set(
        xscale="log", title="Residuals", xlabel="budget (training FLOPs)", ylabel="measured over predicted loss (%)"
    )
    budgets = sorted({int(budget) for surface in fitted for budget in surface.points["budget_flops"]})
    over.set_xlim(budgets[0] / 1.3, budgets[-1] * 1.3)
    if len(budgets) <= 20:
        budget_ticks(over, budgets)
    else:
        log_ticks(over, "x", lambda value: format_flops(round(value)))
    legend(figure, *handles)
    return Drawing(
        figure=figure,
        data=pd.concat([s.points.assign(method=s.method) for s in fitted], ignore_index=True),
        title="Residuals of the loss surfaces: predicted against measured, and the share by which they are off",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was foretold of a loss, and what was measured."""

    label: str
    predicted: float
    interval: Interval
    measured: float
    noise_relative_sd: float
    trial_ids: tuple[str, ...]
    """The rows behind the measured loss."""


@styled
def draw_comparisons(comparisons: Sequence[Comparison], title: str) -> Drawing | None:
    """A line a comparison: the foretold loss with its interval, and the measured one with the noise of a trial."""
    if not comparisons:
        return None
    figure = Figure(figsize=(10.4, 1.2 + 0.45 * len(comparisons)), layout="constrained")
    panel = figure.subplots()
    for place, one in enumerate(comparisons):
        noise = one.measured * one.noise_relative_sd
        ends = [one.interval.low, one.interval.high]
        panel.plot(ends, [place - 0.12] * 2, color="#0072B2", linewidth=2.5, solid_capstyle="butt")
        panel.plot(one.predicted, place - 0.12, "D", color="#0072B2", markeredgecolor="white", markersize=8)
        panel.errorbar(one.measured, place + 0.12, xerr=noise, color="black", marker="o", capsize=3, linewidth=1)
        panel.annotate(
            f"error {100 * (one.predicted / one.measured - 1):+.1f} %", (1.01, place), va="center", fontsize=8,
            xycoords=("axes fraction", "data"),
        )  # fmt: skip
    panel.set_yticks(range(len(comparisons)), [one.label for one in comparisons])
    panel.set(xlabel=LOSS, ylim=(len(comparisons) - 0.5, -0.5))
    panel.grid(axis="y", visible=False)
    legend(
        figure,
        Line2D([], [], color="#0072B2", marker="D", linewidth=2.5, label="foretold, 90 % interval"),
        Line2D([], [], color="black", marker="o", linewidth=1, label="measured, ± 1 sd of the noise"),
    )
    data = [
        {"what": one.label, "predicted": one.predicted, "low": one.interval.low, "high": one.interval.high}
        | {"measured": one.measured, "noise_relative_sd": one.noise_relative_sd, "trial_ids": " ".join(one.trial_ids)}
        for one in comparisons
    ]
    return Drawing(figure=figure, data=pd.DataFrame(data), title=title)


@styled
def draw_noise(frontier: Frontier, rows: pd.DataFrame) -> Drawing:
    """How far trials with other seeds, and the points of a parabola, are apart; the noise that follows from it."""
    table = noise_table(frontier, rows)
    figure = Figure(figsize=(10.4, 1.3 + 0.5 * len(frontier.methods)), layout="constrained")
    panel = figure.subplots()
    colours = kind_colours(len(frontier.methods))
    rng = np.random.default_rng(0)
    for place, (method, colour) in enumerate(zip(frontier.methods, colours, strict=True)):
        own = table[table["method"] == method.label]
        sd = percentile_interval(method.noise.draw_sd(rng, 1000))
        for end, alpha in ((sd.high, 0.12), (method.noise.relative_sd, 0.25)):
            panel.fill_between(
                [-100 * end, 100 * end], place - 0.32, place + 0.32, color=colour, alpha=alpha, linewidth=0
            )
        for what, marker, shift in (("seed", "o", -0.13), ("profile", "x", 0.13)):
            part = own[own["what"] == what]
            panel.plot(100 * part["deviation"], np.full(len(part), place + shift), marker, color=colour, markersize=5)
        panel.annotate(
            f"{100 * method.noise.relative_sd:.1f} % (90 %: {100 * sd.low:.1f} to {100 * sd.high:.1f})",
            (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour,
        )  # fmt: skip
    panel.set_yticks(range(len(frontier.methods)), [method.label for method in frontier.methods])
    panel.set(ylim=(len(frontier.methods) - 0.5, -0.5), xlabel="deviation of a loss (%)")
    panel.grid(axis="y", visible=False)
    figure.legend(
        handles=[
            Line2D([], [], color=GREY, marker="o", linestyle="none", label="another seed, from their mean"),
            Line2D([], [], color=GREY, marker="x", linestyle="none", label="a model, from its parabola"),
            Patch(color=GREY, alpha=0.4, label="± 1 sd of the noise; pale: at its upper end"),
        ],
        loc="outside lower center", ncols=3, frameon=False, fontsize=8,
    )  # fmt: skip
    return Drawing(
        figure=figure, data=table, title="Seed noise: how far a loss may be from what another seed would give"
    )


def noise_table(frontier: Frontier, rows: pd.DataFrame) -> pd.DataFrame:
    """Relative deviations by trial: ``seed`` from the mean of trials that differ by their seed alone, ``profile`` from
    the parabola of the trial's profile where that has more than three points."""
    trials, _ = complete_trials(rows)
    lines: list[dict[str, Any]] = []
    for _, group in trials.groupby(["method", "budget_flops", "model", *SETTINGS], dropna=False):
        if group["seed"].nunique() > 1:
            log_loss = np.log(group["loss"])
            for trial, method, off in zip(group["trial_id"], group["method"], log_loss - log_loss.mean(), strict=True):
                lines.append({"what": "seed", "method": method, "trial_id": trial, "deviation": off})
    for method in frontier.methods:
        for profile in method.profiles:
            optimum = profile.optimum
            if optimum is None or len(optimum.models) <= 3:
                continue
            for point in profile.points:
                if point.model in optimum.models:
                    fitted = float(optimum.parabola(np.log10(np.array([float(point.num_params)])))[0])
                    off = point.loss / fitted - 1
                    trial_id = point.trial_id
                    lines.append({"what": "profile", "method": method.label, "trial_id": trial_id, "deviation": off})
    return pd.DataFrame(lines, columns=["what", "method", "trial_id", "deviation"])
