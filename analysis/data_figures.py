"""The figures of a sweep's pairs: lengths with the cut, repeats, overlap of sources, languages, shares of a mixture.

Knows the tables of a ``DataSheet`` and how to draw (``drawing.py``). Never knows where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter

from analysis.data_sheet import DataSheet
from analysis.drawing import Drawing, kind_colours, legend, styled

SIDES = ("query", "positive")
MAX_PANELS = 4
"""Tokenizers that are drawn; the data beside the figure have all."""
MAX_LANGUAGES = 5
_LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "D", "^", "v", "P", "X")
_TICKS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LINE_INCHES = 0.34


@styled
def draw_lengths(sheet: DataSheet) -> Drawing:
    """A row a tokenizer, a panel a side: how long whole texts are, each source, and where they are cut."""
    table = sheet.lengths
    tokenizers = list(table["tokenizer"].unique())[:MAX_PANELS]
    names = list(sheet.sources["source"])
    figure = Figure(figsize=(10.4, 2.7 * len(tokenizers) + 0.5), layout="constrained")
    panels = figure.subplots(len(tokenizers), 2, squeeze=False)
    longest = 2.0 * max(sheet.max_length, float(table.loc[table["share"] > 0, "tokens_from"].max()))
    for line, tokenizer in zip(panels, tokenizers, strict=True):
        for panel, side in zip(line, SIDES, strict=True):
            own = table[(table["tokenizer"] == tokenizer) & (table["side"] == side)]
            cuts = sheet.cuts[(sheet.cuts["tokenizer"] == tokenizer) & (sheet.cuts["side"] == side)]
            _draw_lengths(panel, own, names, longest)
            panel.axvline(sheet.max_length, color="black", linewidth=1.2)
            lost = cuts["truncated_share"]
            words = (
                f"{100 * lost.min():.1f} %" if len(lost) == 1 else f"{100 * lost.min():.1f} to {100 * lost.max():.1f} %"
            )
            panel.set_title(f"{side}: {words} lose tokens\n{tokenizer}", fontsize=9)
            panel.set_ylabel("share of texts")
            panel.set_xlabel("tokens of the whole text")
    handles = [
        Line2D([], [], color=colour, linestyle=_LINES[place % len(_LINES)], linewidth=2, label=_short(name))
        for place, (name, colour) in enumerate(zip(names, kind_colours(len(names)), strict=True))
    ]
    _name(figure, [*handles, Line2D([], [], color="black", label=f"cut at {sheet.max_length} tokens")])
    return Drawing(
        figure=figure,
        data=table.merge(sheet.cuts, on=["source", "tokenizer", "side"]).assign(max_length=sheet.max_length),
        title="How many tokens queries and positives have, and where they are cut",
    )


def _draw_lengths(panel: Axes, own: pd.DataFrame, names: list[str], longest: float) -> None:
    colours = kind_colours(len(names))
    for place, name in enumerate(names):
        bars = own[own["source"] == name]
        edges = bars["tokens_from"].to_numpy(dtype=float)
        shares = bars["share"].to_numpy(dtype=float)
        filled = np.flatnonzero(shares)
        last = (filled[-1] if len(filled) else 0) + 1
        # On a log axis the first bar begins above zero, and the last is as wide as the one before it.
        edges = np.append(np.maximum(edges[:last], 2.0), edges[last] if last < len(edges) else edges[-1] * 2)
        style = _LINES[place % len(_LINES)]
        panel.stairs(shares[:last], edges, color=colours[place], linestyle=style, linewidth=1.8)
        if len(names) == 1:
            panel.stairs(shares[:last], edges, color=colours[place], fill=True, alpha=0.25)
    panel.set_xscale("log")
    inside = [tick for tick in _TICKS if tick <= longest]
    panel.xaxis.set_major_locator(FixedLocator(inside))
    panel.xaxis.set_major_formatter(FixedFormatter([str(tick) for tick in inside]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    panel.set_xlim(2, longest)
    panel.set_ylim(0, None)


@styled
def draw_repeats(sheet: DataSheet) -> Drawing:
    """A line a kind of repetition, a sign a source: the share of pairs or texts that it concerns."""
    table = sheet.repeats
    kinds = list(dict.fromkeys(table["kind"]))
    names = list(sheet.sources["source"])
    figure = Figure(figsize=(10.4, _LINE_INCHES * len(kinds) + 1.2), layout="constrained")
    panel = figure.subplots()
    colours = kind_colours(len(names))
    # Signs of one line stand a little apart, so that equal shares do not hide each other.
    gaps = np.linspace(-0.22, 0.22, len(names)) if len(names) > 1 else np.zeros(1)
    for place, name in enumerate(names):
        own = table[table["source"] == name].set_index("kind")["share"].reindex(kinds)
        panel.plot(
            100 * own.to_numpy(dtype=float),
            np.arange(len(kinds)) + gaps[place],
            linestyle="none",
            marker=_MARKS[place % len(_MARKS)],
            color=colours[place],
            markersize=6,
        )
        if len(names) == 1:
            for line, share in enumerate(own):
                panel.annotate(
                    f"{100 * share:.2f} %", (100 * share, line), xytext=(8, 0), textcoords="offset points", va="center"
                )
    panel.set_yticks(range(len(kinds)), kinds)
    panel.invert_yaxis()
    panel.set_xlabel("per cent")
    panel.set_xlim(-0.02 * max(1.0, 100 * table["share"].max()), max(1.0, 115 * table["share"].max()))
    panel.grid(axis="y", visible=True)
    if len(names) > 1:
        _name(figure, _signs(names))
    return Drawing(figure=figure, data=table, title="How much of the pairs is empty, repeated or nearly repeated")


def _signs(names: list[str]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker=_MARKS[place % len(_MARKS)], color=colour, label=_short(name))
        for place, (name, colour) in enumerate(zip(names, kind_colours(len(names)), strict=True))
    ]


@styled
def draw_overlap(sheet: DataSheet) -> Drawing | None:
    """A panel a side: which share of a source's texts has a near-duplicate in another; ``None`` for one source."""
    names = list(sheet.sources["source"])
    if len(names) < 2:
        return None
    figure = Figure(figsize=(10.4, 0.42 * len(names) + 2.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    top = max(0.01, float(sheet.overlap["share"].max()))
    for panel, side in zip(panels, SIDES, strict=True):
        own = sheet.overlap[sheet.overlap["side"] == side]
        grid = own.pivot(index="source", columns="seen_in", values="share").loc[names, names].to_numpy(dtype=float)
        panel.imshow(grid, cmap="viridis", vmin=0, vmax=top, aspect="auto")
        for (row, column), share in np.ndenumerate(grid):
            light = mpl.colormaps["viridis"](share / top)[:3]
            panel.text(
                column,
                row,
                f"{100 * share:.1f}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if sum(light) > 1.5 else "white",
            )
        panel.set_xticks(range(len(names)), [_short(name) for name in names], rotation=35, ha="right", fontsize=8)
        panel.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
        panel.set_title(f"{side} texts, per cent")
        panel.set_xlabel("that are nearly in the train pairs of")
        panel.grid(visible=False)
    panels[0].set_ylabel("of")
    return Drawing(figure=figure, data=sheet.overlap, title="Which sources repeat each other's texts")


@styled
def draw_languages(sheet: DataSheet) -> Drawing:
    """A bar for each source and side: shares of the languages that were guessed, and of the guesses in doubt."""
    table = sheet.languages
    order = table.groupby("language")["share"].sum().sort_values(ascending=False).index
    shown = list(order[:MAX_LANGUAGES])
    colours = dict(zip([*shown, "others"], [*kind_colours(len(shown)), "#b8bec7"], strict=True))
    bars = [(name, side) for name in sheet.sources["source"] for side in SIDES]
    figure = Figure(figsize=(10.4, _LINE_INCHES * len(bars) + 1.3), layout="constrained")
    panel = figure.subplots()
    for line, (name, side) in enumerate(bars):
        own = table[(table["source"] == name) & (table["side"] == side)]
        shares = own.set_index("language")["share"]
        parts = {language: float(shares.get(language, 0.0)) for language in shown}
        left = 0.0
        for language, share in {**parts, "others": max(0.0, 1 - sum(parts.values()))}.items():
            panel.barh(line, 100 * share, left=100 * left, color=colours[language], edgecolor="white", height=0.62)
            if share > 0.04:
                middle = 100 * (left + share / 2)
                panel.text(middle, line, language, ha="center", va="center", color="white", fontsize=8)
            left += share
        doubtful = 100 * float(own["doubtful"].iloc[0])
        panel.plot(doubtful, line, marker="D", color="black", markerfacecolor="white", markersize=6, linestyle="none")
    panel.set_yticks(range(len(bars)), [f"{_short(name)}, {side}" for name, side in bars])
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_xlabel("per cent of a sample's texts")
    handles: list[Any] = [Patch(color=colour, label=language) for language, colour in colours.items()]
    diamond = Line2D([], [], marker="D", color="black", markerfacecolor="white", linestyle="none", label="in doubt")
    legend(figure, *handles, diamond)
    return Drawing(
        figure=figure, data=table, title="Which languages the texts seem to be in, and how many are in doubt"
    )


@styled
def draw_sources(sheet: DataSheet) -> Drawing | None:
    """Each source's share of the pairs, and of what is trained on; ``None`` for one source."""
    table = sheet.sources
    if len(table) < 2:
        return None
    figure = Figure(figsize=(10.4, _LINE_INCHES * len(table) * 1.3 + 1.2), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(table))
    blue, orange = kind_colours(2)
    for offset, column, colour, hatch in ((-0.2, "share_of_pairs", blue, ""), (0.2, "share_drawn", orange, "///")):
        panel.barh(places + offset, 100 * table[column], height=0.36, color=colour, hatch=hatch, edgecolor="white")
    for place, (share, drawn, pairs) in enumerate(
        zip(table["share_of_pairs"], table["share_drawn"], table["train"], strict=True)
    ):
        panel.annotate(
            f"{pairs:,} pairs", (100 * max(share, drawn), place), xytext=(6, 0), textcoords="offset points", va="center"
        )
    panel.set_yticks(places, [_short(name) for name in table["source"]])
    panel.invert_yaxis()
    panel.set_xlabel("per cent")
    panel.set_xlim(0, min(125.0, 1.25 * 100 * float(table[["share_of_pairs", "share_drawn"]].to_numpy().max())))
    legend(
        figure,
        Patch(color=blue, label="of all train pairs"),
        Patch(
            facecolor=orange, hatch="///", edgecolor="white", label="of the pairs that are trained on, by the weights"
        ),
    )
    return Drawing(figure=figure, data=table, title="How large each source is, and how often it is drawn")


def _name(figure: Figure, handles: Sequence[Artist]) -> None:
    """What each sign means, below all panels, in columns wide enough for names of data sets."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _short(name: str) -> str:
    """A source's name without its owner or folder, for an axis."""
    return name.rstrip("/").rpartition("/")[2]


def drawings_of(sheet: DataSheet) -> dict[str, Drawing | None]:
    """Every figure of the pairs, by the name of its files."""
    return {
        "data-lengths": draw_lengths(sheet),
        "data-repeats": draw_repeats(sheet),
        "data-overlap": draw_overlap(sheet),
        "data-languages": draw_languages(sheet),
        "data-sources": draw_sources(sheet),
    }
