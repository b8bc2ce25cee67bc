"""The report of any table of rows: the fitted laws with intervals, profiles, surface and residuals, on one page.

Knows a table's usable columns by method, what was fitted to them, and how a page is made. Never knows a store: a row is
known by its number among those of its method that could be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.crossover import Crossover
from analysis.explore import explore_table
from analysis.fit import FloatArray
from analysis.fit_table import FittedTable, records
from analysis.law_figures import draw_residuals, draw_surface
from analysis.noise import noise_of_profiles
from analysis.page import write_json, write_page
from analysis.report_tables import surface_table
from analysis.surface import Surface, surface_of
from analysis.table_figures import MAX_PANELS, draw_minima, draw_table_profiles, fit_profiles

Groups = Sequence[tuple[str, Mapping[str, FloatArray]]]


def write_table_report(
    folder: Path, name: str, groups: Groups, fits: Sequence[FittedTable], crossovers: Sequence[Crossover]
) -> Path:
    """Write the report of the table ``name`` into ``folder`` and return the path of its ``index.html``.

    ``groups`` has each method's name and columns (``loss``, ``params``, ``tokens``, ``flops``, ``budget``, each (n,)),
    ``fits`` and ``crossovers`` are what ``fit_table`` made of them. Beside the page: ``figures/`` with PNG, SVG and CSV
    of each, ``rows.csv`` and ``fit.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points = [(method, _points(method, columns)) for method, columns in groups]
    surfaces = [_surface(method, table, dict(groups)[method]) for method, table in points if "num_params" in table]
    profiles = fit_profiles(groups)
    table = pd.concat([own for _, own in points], ignore_index=True)
    path = write_page(
        folder,
        "table.html.jinja",
        {
            "profiles": draw_table_profiles(profiles),
            "minima": draw_minima(profiles),
            "surface": draw_surface(surfaces[:MAX_PANELS]),
            "residuals": draw_residuals(surfaces),
        },
        explore_table(pd.concat([one.points for one in surfaces]) if surfaces else table),
        name=name,
        fits=[_fit_view(fit) for fit in fits],
        crossovers=[crossover.sentence for crossover in crossovers],
        surfaces=surface_table(surfaces),
        num_rows=len(table),
        num_hidden=max(0, len(profiles) - MAX_PANELS),
    )
    table.to_csv(folder / "rows.csv", index=False)
    write_json(folder / "fit.json", records(tuple(fits), tuple(crossovers)))
    return path


def _points(method: str, columns: Mapping[str, FloatArray]) -> pd.DataFrame:
    """The columns under the names of a sweep's points; ``trial_id`` is ``method:number``, from 0."""
    renamed = {"params": "num_params", "budget": "budget_flops", "tokens": "effective_tokens"}
    table = pd.DataFrame({renamed.get(name, name): values for name, values in columns.items()})
    return table.assign(trial_id=[f"{method}:{number}" for number in range(len(table))], method=method)


def _surface(method: str, points: pd.DataFrame, columns: Mapping[str, FloatArray]) -> Surface:
    noise = noise_of_profiles(columns["budget"], columns["params"], columns["loss"])
    is_known = noise.num_repeat_degrees + noise.num_residual_degrees > 0
    return surface_of(method, points, noise.relative_sd if is_known else None)


def _fit_view(fit: FittedTable) -> dict[str, Any]:
    lines = []
    for name, value in fit.values.items():
        within = fit.intervals[name]
        ends = [f"{end:.5g}" if math.isfinite(end) else "not bounded" for end in (within.low, within.high)]
        lines.append((name, f"{value:.6g}", *ends))
    return {
        "title": f"{fit.form}: {fit.formula}" if fit.method is None else f"{fit.method}, {fit.form}: {fit.formula}",
        "lines": lines,
        "used": f"{fit.num_points} points from {fit.num_rows} rows; residuals {100 * fit.residual_sd:.2g} % (one sd)"
        if np.isfinite(fit.residual_sd)
        else f"{fit.num_points} points from {fit.num_rows} rows",
        "notes": [*fit.dropped, *fit.warnings],
    }
