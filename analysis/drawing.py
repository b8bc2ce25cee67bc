"""How figures are drawn and saved: style, colours, axes of sizes and budgets, labels at the ends of lines.

Knows matplotlib. Never knows what a figure shows. Works on ``Figure`` objects alone: no window, no current figure.
Colours are Okabe and Ito's for kinds and viridis for ordered things, so that they hold for colour-blind readers and in
grey.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis import wording
from analysis.fit import Interval
from trainer.trial import format_flops

GREY = "#5b6470"
LOSS = "held-out loss (nats)"
SIZE = "non-embedding parameters"
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    # No panel has ticks above it; to look for them takes a tenth of the drawing.
    "axes.titley": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    # Names come from rows: a dollar sign in one is no formula.
    "text.parse_math": False,
    "svg.fonttype": "path",
    # The same data give the same bytes.
    "svg.hashsalt": "isoflop",
}
_LABEL_SIZE = 8

P = ParamSpec("P")
D = TypeVar("D", bound="Drawing | None")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawing:
    """A figure and the numbers in it."""

    figure: Figure
    data: pd.DataFrame
    title: str
    """What it shows, in a sentence; the alternative text of the picture."""

    def save(self, folder: Path, name: str) -> str:
        """Write ``name`` as PNG, SVG and CSV, and return the ``<svg>`` element, to be put into a page."""
        buffer = io.StringIO()
        with mpl.rc_context(_STYLE):
            # One layout for both files: it takes most of the time.
            if engine := self.figure.get_layout_engine():
                engine.execute(self.figure)
            self.figure.set_layout_engine("none")
            quick = {"compress_level": 3}
            self.figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None}, pil_kwargs=quick)
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        (folder / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")
        self.data.to_csv(folder / f"{name}.csv", index=False)
        return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def styled(draw: Callable[P, D]) -> Callable[P, D]:
    """Draw in the style of this project, and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> D:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def kind_colours(number: int) -> list[str]:
    """Colours of things without an order."""
    return [_OKABE_ITO[place % len(_OKABE_ITO)] for place in range(number)]


def ordered_colours(number: int) -> list[str]:
    """Colours of things with an order, dark to light; the lightest is dark enough for white paper."""
    scale = mpl.colormaps["viridis"]
    return [to_hex(scale(share)) for share in np.linspace(0.05, 0.78, number)]


def size_ticks(panel: Axes, sizes: Sequence[int], axis: str = "x") -> None:
    """A tick at every model's size, labelled where there is room."""
    _ticks(panel, [float(size) for size in sizes], [wording.short_count(size) for size in sizes], axis, room=0.07)


def budget_ticks(panel: Axes, budgets: Sequence[int]) -> None:
    """A tick at every budget, labelled where there is room."""
    _ticks(panel, [float(budget) for budget in budgets], [format_flops(budget) for budget in budgets], "x", room=0.13)


def log_ticks(panel: Axes, axis: str, say: Callable[[float], str]) -> None:
    """Ticks on a log axis with final limits, labelled by ``say``: decades, or 1, 2 and 5 of each if few."""
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = math.log10(high / low) < 2
    places = [step * 10.0**decade for decade in decades for step in ((1, 2, 5) if few else (1,))]
    inside = [place for place in places if low <= place <= high]
    # Every second, third, ... decade where they are many.
    inside = inside[:: math.ceil(len(inside) / 7)]
    _ticks(panel, inside, [say(place) for place in inside], axis, room=0.02)


def _ticks(panel: Axes, places: list[float], labels: list[str], axis: str, room: float) -> None:
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    last = -np.inf
    for index, place in enumerate(places):
        at = np.log(place / low) / np.log(high / low)
        if at - last < room:
            labels[index] = ""
        else:
            last = at
    side = panel.xaxis if axis == "x" else panel.yaxis
    side.set_major_locator(FixedLocator(places))
    side.set_major_formatter(FixedFormatter(labels))
    side.set_minor_locator(NullLocator())


def clip(interval: Interval, low: float, high: float) -> tuple[float, float]:
    """Both ends, none of them outside ``low`` to ``high``."""
    return max(interval.low, low), min(interval.high, high)


def legend(figure: Figure, *handles: Artist) -> None:
    """A line or two below all panels that say what each sign means."""
    columns = len(handles) if len(handles) <= 4 else math.ceil(len(handles) / 2)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def label_ends(panel: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name to the right of the panel, at the height of its end and clear of the others.

    Each end is (x, y, name, colour) in data coordinates; the panel's limits must be final. Names with a y outside them
    stand at the border. Of more names than find room only every second, third, ... has one.
    """
    if not ends:
        return
    figure, place = panel.get_figure(root=True), panel.get_subplotspec()
    assert figure is not None and place is not None
    height = figure.get_figheight() / place.get_gridspec().nrows * 72 * 0.7
    gap = _LABEL_SIZE * 1.25 / height
    ends = sorted(ends, key=lambda end: end[1])[:: math.ceil(len(ends) * gap / 1.2)]
    panel.get_ylim()  # settles the limits, which the transform below only reads
    to_share = panel.transScale + panel.transLimits
    starts = np.clip(to_share.transform([(x, y) for x, y, _, _ in ends]), 0.0, 1.0)
    heights = _spread([float(start) for start in starts[:, 1]], gap=gap)
    # As one collection: an arrow for each is clipped at its text and its end, which takes ten times as long to draw.
    leaders = [[start, (1.015, at)] for start, at in zip(starts, heights, strict=True)]
    colours = [colour for _, _, _, colour in ends]
    panel.add_artist(
        LineCollection(leaders, colors=colours, linewidths=0.5, transform=panel.transAxes, clip_on=False)
    ).set_in_layout(False)
    for (_, _, name, colour), at in zip(ends, heights, strict=True):
        panel.text(1.02, at, name, transform=panel.transAxes, va="center", color=colour, fontsize=_LABEL_SIZE)


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near ``wanted`` that are at least ``gap`` apart, in the same order, centred on what was wanted."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(wanted[index])
        # Neighbours that would overlap become one block around their common centre.
        while len(groups) > 1 and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            last = groups.pop()
            groups[-1] += last
            centres.pop()
            centres[-1] = float(np.mean([wanted[member] for member in groups[-1]]))
    places = [0.0] * len(wanted)
    for group, centre in zip(groups, centres, strict=True):
        for rank, member in enumerate(group):
            places[member] = centre + gap * (rank - (len(group) - 1) / 2)
    return places
