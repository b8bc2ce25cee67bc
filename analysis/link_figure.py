"""The figure of the links from loss to score: a panel a task, its trials, both curves, and what is expected.

Knows links and how to draw (``drawing.py``). Never knows how a link was fitted, or the page around the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import GREY, LOSS, Drawing, kind_colours, legend, styled
from analysis.expected_score import ExpectedScore
from analysis.link import Curve, Link

_NUM_POINTS = 80
_SPARE = 0.06
"""Of the measured losses' range, that the curves are drawn beyond it."""


@styled
def draw_links(links: Sequence[Link], expected: ExpectedScore | None = None) -> Drawing | None:
    """Score over loss, a panel a link: dots are trials, the curve that answers with its 90 % band, the other dashed.

    ``None`` where there is nothing to draw.
    """
    if not links:
        return None
    columns = min(3, len(links))
    height = math.ceil(len(links) / columns)
    figure = Figure(figsize=(1.0 + 3.4 * columns, 0.8 + 2.9 * height), layout="constrained")
    panels = list(figure.subplots(height, columns, squeeze=False).flat)
    methods = list(dict.fromkeys(method for link in links for method in link.points["method"]))
    colours = dict(zip(methods, kind_colours(len(methods)), strict=True))
    tables = [
        _draw_link(panel, link, colours, expected if expected is not None and expected.task == link.task else None)
        for panel, link in zip(panels, links, strict=False)
    ]
    for panel in panels[len(links) :]:
        panel.set_axis_off()
    handles = [Line2D([], [], color=colours[m], marker="o", linestyle="none", label=m) for m in methods]
    legend(
        figure,
        *handles,
        Line2D([], [], color="black", label="curve that answers, 90 % band"),
        Line2D([], [], color=GREY, linestyle="--", label="the other curve"),
        *([] if expected is None else [_diamond(label="expected of the recommendation")]),
    )
    return Drawing(
        figure=figure,
        data=pd.concat(tables, ignore_index=True),
        title="Held-out loss against evaluation scores, one panel a task, with the curves from loss to score",
    )


def _draw_link(panel: Axes, link: Link, colours: Mapping[str, str], expected: ExpectedScore | None) -> pd.DataFrame:
    points = link.points
    for method, own in points.groupby("method", sort=False):
        panel.scatter(own["loss"], own["score"], color=colours[str(method)], s=18, zorder=3)
    low, high = link.losses
    spare = _SPARE * (high - low or 1.0)
    ends = low - spare, high + spare
    if expected is not None:
        ends = min(ends[0], expected.loss - spare), max(ends[1], expected.loss + spare)
    tables = [points.assign(kind="trial")]
    for place, curve in enumerate(link.curves):
        # Beyond the measured losses the isotonic curve says nothing.
        first, last = link.losses if curve.name == "isotonic" else ends
        grid = np.linspace(first, last, _NUM_POINTS)
        tables.append(_draw_curve(panel, curve, grid, answers=place == 0))
    if expected is not None:
        within = expected.interval
        panel.plot([expected.loss] * 2, [within.low, within.high], color="black", linewidth=1.2, zorder=4)
        panel.add_line(_diamond(x=[expected.loss], y=[expected.score]))
        tables.append(
            pd.DataFrame([{"kind": "expected", "loss": expected.loss, "score": expected.score} | _ends(expected)])
        )
    rank = "" if link.rank is None else f" (rank {link.rank.value:.2f}{', weak' if link.is_weak else ''})"
    panel.set(title=f"{link.task}{rank}", xlabel=LOSS, ylabel="score", xlim=ends)
    _settle(panel, points["score"].to_numpy(dtype=np.float64), expected)
    return pd.concat(tables, ignore_index=True).assign(task=link.task)


def _draw_curve(panel: Axes, curve: Curve, grid: np.ndarray, *, answers: bool) -> pd.DataFrame:
    score = curve.at(grid)
    low, high = np.nanquantile(curve.draws_at(grid), [0.05, 0.95], axis=0)
    if answers:
        panel.fill_between(grid, low, high, color="black", alpha=0.12, linewidth=0)
    panel.plot(grid, score, color="black" if answers else GREY, linestyle="-" if answers else "--", linewidth=1.3)
    return pd.DataFrame({"kind": curve.name, "loss": grid, "score": score, "low": low, "high": high})


def _settle(panel: Axes, scores: np.ndarray, expected: ExpectedScore | None) -> None:
    """Limits from what was measured: a band that runs away at an end must not flatten the rest."""
    seen = scores if expected is None else np.append(scores, [expected.interval.low, expected.interval.high])
    spare = 0.25 * (float(np.ptp(seen)) or 0.1)
    panel.set_ylim(float(seen.min()) - spare, float(seen.max()) + spare)


def _diamond(*, x: Sequence[float] = (), y: Sequence[float] = (), label: str = "") -> Line2D:
    return Line2D(x, y, color="black", marker="D", linestyle="none", markersize=6, label=label, zorder=5)


def _ends(expected: ExpectedScore) -> dict[str, float]:
    return {"low": expected.interval.low, "high": expected.interval.high}
