"""What the adaptive allocation costs on the nano grid, as a distribution: its measured losses, drawn again.

``python -m benchmarks.search_nano STORE [--draws N]`` fits a law to the losses of a whole quickstart grid, and runs the
agenda against N surfaces drawn from it: on the same grid, on one with more models and budgets between the same ends,
and on one whose budgets grow by four times, where the law is stretched far beyond what was measured. Nothing is
trained. The results are the key ``nano`` of ``benchmarks/results/search.json``.

The law of each method is ``ln L = level + slope ln C + k (ln N - ln N*)^2`` with ``N*`` a power of C whose exponent all
methods share, fitted to the first trial of each cell. A surface is the law, moved in each cell by as much as the law
misses the measured cells (beyond the noise between seeds), which no rule can foresee. A second trial of a cell is off
the first by one of the measured ratios. What is measured of it has the noise between seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares

from benchmarks.search import CLOSE, FAR, RESULTS
from cluster.answers import prepared_of
from sweeps.agenda import Agenda
from sweeps.plan import Cell, DataFacts, Study, plan, studies
from sweeps.search import Finished
from sweeps.spec import Allocation, SweepSpec
from sweeps.store import Store
from trainer.ladder import LADDERS, SHAPES
from trainer.result import TrialState

SEED_NOISE = 0.008
"""Relative; seen on nano models (``analysis/noise.py``)."""
NEEDED = 3
"""Models of a profile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """The losses of the measured grid, smoothed."""

    levels: Mapping[str, float]
    slopes: Mapping[str, float]
    log_sizes: Mapping[str, float]
    """ln of the optimal size at the pivot."""
    curvatures: Mapping[str, float]
    size_exponent: float
    pivot: float
    """FLOPs."""
    misfit: float
    """Relative standard deviation of a cell from the law, beyond the noise between seeds."""
    ratios: tuple[float, ...]
    """ln of a cell's second loss over its first, of the cells that have two."""

    def at(self, label: str, budget: float, num_params: int) -> float:
        """ln of the loss."""
        over = math.log(budget / self.pivot)
        off = math.log(num_params) - self.log_sizes[label] - self.size_exponent * over
        return self.levels[label] + self.slopes[label] * over + self.curvatures[label] * off**2


def fit(rows: pd.DataFrame) -> Law:
    """The law of complete rows, of which each cell has one or two."""
    first, second = (rows[rows["number"] == n].set_index(["method", "budget_flops", "model"])["loss"] for n in (0, 1))
    ratios = np.log(second / first.loc[second.index])
    table = rows[rows["number"] == 0]
    labels = sorted(table["method"].unique())
    method = table["method"].map(labels.index).to_numpy()
    size = np.log(table["num_params_non_embedding"].to_numpy(float))
    pivot = math.exp(float(np.log(table["budget_flops"]).mean()))
    over = np.log(table["budget_flops"].to_numpy(float) / pivot)
    loss = np.log(table["loss"].to_numpy(float))

    def residuals(flat: np.ndarray) -> np.ndarray:
        level, slope, best, curve = flat[1:].reshape(4, len(labels))
        off = size - best[method] - flat[0] * over
        return np.asarray(level[method] + slope[method] * over + np.exp(curve[method]) * off**2 - loss)

    starts = [float(loss[method == i].min()) for i in range(len(labels))]
    ones = [1.0] * len(labels)
    start = np.array([0.5, *starts, *(-0.1 * one for one in ones), *(size.mean() for _ in ones), *(-2.0 for _ in ones)])
    found = least_squares(residuals, start)
    level, slope, best, curve = (dict(zip(labels, part, strict=True)) for part in found.x[1:].reshape(4, -1).tolist())
    variance = 2 * found.cost / (len(table) - len(found.x))
    return Law(
        levels=level,
        slopes=slope,
        log_sizes=best,
        curvatures={label: math.exp(value) for label, value in curve.items()},
        size_exponent=float(found.x[0]),
        pivot=pivot,
        misfit=math.sqrt(max(0.0, variance - SEED_NOISE**2)),
        ratios=tuple(ratios.tolist()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """One draw of the law."""

    law: Law
    number: int

    def true(self, study: Study, number: int) -> float:
        """The loss of a trial without the noise of its seed."""
        cell = study.cell
        drawn = random.Random(f"{self.number} {study.key}")
        moved = drawn.gauss(0, self.law.misfit) + (drawn.choice(self.law.ratios) if number else 0.0)
        return math.exp(self.law.at(cell.label, cell.budget_flops, study.num_params) + moved)

    def measured(self, study: Study, number: int) -> float:
        drawn = random.Random(f"{self.number} {study.key} seed {number}")
        return self.true(study, number) * math.exp(drawn.gauss(0, SEED_NOISE))


def replay(all_studies: Sequence[Study], surface: Surface) -> dict[str, Any]:
    """What the adaptive allocation spends on a surface, on what, and how far off its recommendation is."""
    agenda = Agenda(all_studies)
    ran: list[tuple[Study, int]] = []
    while item := next(agenda.ready(), None):
        spec = agenda.trial(*item)
        agenda.tell(Finished(spec=spec, state=TrialState.COMPLETE, loss=surface.measured(*item)))
        ran.append(item)
    whole = [(study, n) for study in all_studies for n in range(study.num_trials)]
    total = sum(study.cell.budget_flops for study, _ in whole)
    target = max(study.cell.budget_flops for study in all_studies)
    smallest = min(study.cell.budget_flops for study in all_studies)
    best = min(surface.true(*item) for item in whole if item[0].cell.budget_flops == target)
    verdicts = {decision.cell: decision.verdict for decision in agenda.decisions}

    def regret(items: Sequence[tuple[Study, int]]) -> float:
        chosen = min((i for i in items if i[0].cell.budget_flops == target), key=lambda i: surface.measured(*i))
        return surface.true(*chosen) / best - 1

    def spent(cells: set[Cell]) -> float:
        return sum(study.cell.budget_flops for study, _ in ran if study.cell in cells) / total

    below = {cell for cell in verdicts if cell.budget_flops == smallest}
    checks = {cell for cell, verdict in verdicts.items() if verdict == "check"} - below
    return {
        "surface": surface.number,
        "spent": spent(set(verdicts)),
        "spent_smallest_budget": spent(below),
        "spent_checks": spent(checks),
        "spent_brackets": spent(set(verdicts) - below - checks),
        "regret": regret(ran),
        "regret_grid": regret(whole),
        "methods_at_target": len({c.label for c, v in verdicts.items() if c.budget_flops == target and v == "run"}),
    }


def floor(all_studies: Sequence[Study], kept: str) -> float:
    """The least share of the grid's FLOPs that the rule can ask for, where no study ends early.

    Three models of every method at the smallest budget; at each further one three of ``kept`` and a check of each of
    the others.
    """
    trials = {study.cell.label: study.num_trials for study in all_studies}
    budgets = sorted({study.cell.budget_flops for study in all_studies})
    first, later = NEEDED * sum(trials.values()), (NEEDED - 1) * trials[kept] + sum(trials.values())
    least = first * budgets[0] + later * sum(budgets[1:])
    return least / sum(study.num_trials * study.cell.budget_flops for study in all_studies)


def studies_of(spec: SweepSpec, facts: DataFacts) -> tuple[Study, ...]:
    adaptive = replace(spec, allocation=Allocation(kind="adaptive", drop_below=0.05, stop_below=0.25))
    made = plan(adaptive, facts, SHAPES)
    return studies(adaptive, made, data="d", revisions=dict.fromkeys(spec.models, "r"), shapes=SHAPES)


def grids(spec: SweepSpec, tokens_per_pair: float, num_pairs: int) -> dict[str, tuple[Study, ...]]:
    """The measured grid, and two finer ones of its methods and settings."""
    facts = DataFacts(num_train_pairs=num_pairs, tokens_per_pair=tokens_per_pair, measured=True)
    models = tuple(shape.name for shape in LADDERS["nano"])
    wide = replace(spec, models=models, methods=tuple(replace(method, models=models) for method in spec.methods))
    low, high = min(spec.budgets_flops), max(spec.budgets_flops)
    between = tuple(round(low * (high / low) ** (place / 5)) for place in range(6))
    return {
        f"measured: {len(spec.budgets_flops)} budgets, {len(spec.models)} models": studies_of(spec, facts),
        f"6 budgets between the same ends, {len(models)} models": studies_of(
            replace(wide, budgets_flops=between), facts
        ),
        # The law knows no end of the data, so the plan must not either.
        f"6 budgets, each four times the last, {len(models)} models": studies_of(
            replace(wide, budgets_flops=tuple(low * 4**place for place in range(6))),
            replace(facts, num_train_pairs=None),
        ),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    spent, regret = np.array([row["spent"] for row in rows]), np.array([row["regret"] for row in rows])
    whole = np.array([row["regret_grid"] for row in rows])
    parts = ("spent_smallest_budget", "spent_checks", "spent_brackets")
    return {
        "spent_median": float(np.median(spent)),
        "spent_min": float(spent.min()),
        "spent_90": float(np.quantile(spent, 0.9)),
        "spent_max": float(spent.max()),
        **{f"{part}_mean": float(np.mean([row[part] for row in rows])) for part in parts},
        "regret_median": float(np.median(regret)),
        "regret_max": float(regret.max()),
        "share_within_1_percent": float((regret <= CLOSE).mean()),
        "share_within_2_percent": float((regret <= FAR).mean()),
        "grid_share_within_1_percent": float((whole <= CLOSE).mean()),
        "grid_regret_max": float(whole.max()),
    }


def main() -> None:
    """Fit, draw, replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="of a whole quickstart grid")
    parser.add_argument("--draws", type=int, default=50)
    flags = parser.parse_args()
    store = Store.open(flags.store)
    prepared = prepared_of(store)
    law = fit(store.read_trials())
    table = Table(title=f"{flags.draws} surfaces; shares of each grid's FLOPs")
    for column in (
        "grid",
        "trials",
        "least",
        "spent: median, range",
        "smallest budget",
        "checks",
        "brackets",
        "regret: median, most",
        "within 1 %, 2 %",
        "grid within 1 %, most",
    ):
        table.add_column(column)
    found = {}
    sides = grids(store.spec, prepared.statistics.tokens_per_pair, prepared.manifest.num_pairs["train"])
    for name, all_studies in sides.items():
        rows = [replay(all_studies, Surface(law=law, number=number)) for number in range(flags.draws)]
        s, least = summary(rows), floor(all_studies, min(law.levels, key=law.levels.__getitem__))
        num_trials = sum(study.num_trials for study in all_studies)
        found[name] = {"num_trials": num_trials, "least": least, "summary": s, "surfaces": rows}
        table.add_row(
            name,
            str(num_trials),
            f"{least:.3f}",
            f"{s['spent_median']:.3f}, {s['spent_min']:.3f} to {s['spent_max']:.3f}",
            *(f"{s[f'spent_{part}_mean']:.3f}" for part in ("smallest_budget", "checks", "brackets")),
            f"{s['regret_median']:.2%}, {s['regret_max']:.2%}",
            f"{s['share_within_1_percent']:.0%}, {s['share_within_2_percent']:.0%}",
            f"{s['grid_share_within_1_percent']:.0%}, {s['grid_regret_max']:.2%}",
        )
    Console(width=220).print(table)
    record = json.loads(RESULTS.read_text()) | {"nano": {"law": asdict(law), "grids": found}}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
