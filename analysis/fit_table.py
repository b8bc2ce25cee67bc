"""Any table of rows to fitted laws: which column is which, which rows can be used, one fit a method.

Knows tables (CSV, Parquet) and every form that can be fitted. Never knows the store's columns: the caller names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.crossover import Crossover, LossAt, find_crossover
from analysis.envelope import fit_envelope
from analysis.fit import FloatArray, Interval
from analysis.forms import COMPUTE, FORMS
from analysis.isoflops import IsoflopFit, fit_isoflops
from analysis.law import fit_law
from analysis.noise import noise_of_profiles
from analysis.parametric import ParametricFit, fit_parametric
from analysis.repeats import PUBLISHED_DECAY, effective_tokens

ISOFLOP_WAYS = {"isoflop": "parabola", "isoflop-window": "window", "isoflop-akima": "akima"}
OFFERED = ("envelope", *ISOFLOP_WAYS, "varpro", *FORMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to fit. Every field named like a quantity is a column's name, or ``None``."""

    form: str = "parametric"
    loss: str = "loss"
    params: str | None = None
    tokens: str | None = None
    flops: str | None = None
    budget: str | None = None
    method: str | None = None
    run: str | None = None
    share: str | None = None
    epochs: str | None = None
    drop_worst: int = 0
    num_draws: int = 1000
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTable:
    """One method's fit: parameters and intervals by symbol, and how far to trust them."""

    method: str | None
    form: str
    formula: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    objective: float
    num_points: int
    num_rows: int
    dropped: tuple[str, ...]
    """Which rows or budgets were left out and why, a sentence each."""
    starts: Mapping[str, float]
    """Numbers of starts, of those that converged and of those that ended at the best objective; empty without."""
    condition: float | None
    residual_sd: float
    """Standard deviation of the residuals: of ln loss, or of ln size about the law for envelope and IsoFLOP fits."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One record, parameters by their symbols; an open end of an interval is ``null``."""
        record: dict[str, Any] = {} if self.method is None else {"method": self.method}
        record |= {"form": self.form, "formula": self.formula, **self.values}
        record |= {"objective": self.objective, "num_points": self.num_points, "num_rows": self.num_rows}
        record["intervals"] = {name: interval.to_list() for name, interval in self.intervals.items()}
        record |= {"dropped": list(self.dropped), "starts": dict(self.starts), "condition": self.condition}
        record |= {"residual_sd": self.residual_sd, "warnings": list(self.warnings)}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a CSV or Parquet file, or of a folder of Parquet files."""
    if not path.exists():
        raise ValueError(f"TABLE is {path}, which does not exist: give a CSV or Parquet file, or a folder of Parquet")
    if path.is_dir() or path.suffix in (".parquet", ".pq"):
        return pd.read_parquet(path)
    if path.suffix in (".csv", ".gz", ".tsv", ".txt"):
        return pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    raise ValueError(f"TABLE is {path.name}: its name must end in .csv, .tsv or .parquet")


def fit_table(table: pd.DataFrame, request: Request) -> tuple[tuple[FittedTable, ...], tuple[Crossover, ...]]:
    """A fit for each method of ``table`` (one where no method column is named), and the methods' crossovers.

    Crossovers come from IsoFLOP fits of two or more methods, by the law of the loss of their minima over compute.
    Raises ``ValueError`` for columns that are missing or hold no numbers, and where too little is left.
    """
    _check_request(table, request)
    groups = [(None, table)] if request.method is None else _groups(table, request.method)
    fits, laws = [], {}
    budgets: list[float] = []
    for method, rows in groups:
        columns, dropped = _usable(rows, request)
        fitted, law = _fit(columns, request)
        notes = (*dropped, *fitted.dropped)
        fits.append(replace(fitted, method=method, num_rows=len(rows), dropped=notes))
        if method is not None and law is not None:
            laws[method] = law
            budgets += [columns["budget"].min(), columns["budget"].max()]
    names = list(laws)
    crossovers = tuple(
        find_crossover((first, second), (laws[first], laws[second]), (min(budgets), max(budgets)))
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    )
    return tuple(fits), crossovers


def usable_columns(table: pd.DataFrame, request: Request) -> list[tuple[str, dict[str, FloatArray]]]:
    """Each method's name (``all`` where no method column is named) and the columns that its fit uses."""
    groups = [(None, table)] if request.method is None else _groups(table, request.method)
    return [(name or "all", _usable(rows, request)[0]) for name, rows in groups]


def records(fits: tuple[FittedTable, ...], crossovers: tuple[Crossover, ...]) -> dict[str, Any]:
    """For JSON: the one fit's record, or each method's under ``methods`` with the crossovers beside them."""
    if fits[0].method is None:
        return fits[0].to_dict()
    return {
        "methods": {str(fit.method): fit.to_dict() for fit in fits},
        "crossovers": [crossover.to_dict() for crossover in crossovers],
    }


def sentences(fits: tuple[FittedTable, ...], crossovers: tuple[Crossover, ...]) -> list[str]:
    """For a person: each parameter with its interval on a line, then what was left out and what to mind."""
    lines = []
    for fit in fits:
        lines.append(f"{'' if fit.method is None else f'{fit.method}: '}{fit.form}, {fit.formula}")
        for name, value in fit.values.items():
            interval = fit.intervals[name]
            low, high = (f"{end:.6g}" if math.isfinite(end) else "not bounded" for end in (interval.low, interval.high))
            lines.append(f"  {name:<11}{value:<14.7g}90 % interval: {low} to {high}")
        lines.append(f"  {'objective':<11}{fit.objective:.9g}")
        lines.append(f"  {'num_points':<11}{fit.num_points} of {fit.num_rows} rows")
        if fit.starts:
            numbers = [fit.starts[name] for name in ("num_starts", "num_converged", "num_at_best")]
            lines.append("  {:<11}{}, of which {} converged and {} found the best".format("starts", *numbers))
        lines += [f"  left out:  {reason}" for reason in fit.dropped]
        lines += [f"  mind:      {warning}" for warning in fit.warnings]
    return lines + [crossover.sentence for crossover in crossovers]


def _check_request(table: pd.DataFrame, request: Request) -> None:
    if request.form not in OFFERED:
        raise ValueError(f"--form is {request.form}: give one of {', '.join(OFFERED)}")
    if request.drop_worst < 0:
        raise ValueError(f"--drop-worst is {request.drop_worst}: give a number of rows from 0")
    for option in ("loss", "params", "tokens", "flops", "budget", "method", "run", "share", "epochs"):
        column = getattr(request, option)
        if column is not None and column not in table.columns:
            names = ", ".join(map(str, table.columns[:20]))
            raise ValueError(f"--{option} is {column}, which is no column of the table: it has {names}")
    needed = set() if request.form == "compute" else {"params"}
    given = {option for option in ("params", "tokens", "flops", "budget") if getattr(request, option) is not None}
    if missing := needed - given:
        raise ValueError(f"--{min(missing)} is missing: form {request.form} needs the column of the model sizes")
    if not given & {"tokens", "flops", "budget"} or (request.form == "compute" and given == {"tokens"}):
        raise ValueError(f"--tokens or --flops is missing: form {request.form} needs the column of one of them")
    if request.form == "share" and request.share is None:
        raise ValueError("--share is missing: form share needs the column of the trained share of the parameters")


def _groups(table: pd.DataFrame, column: str) -> list[tuple[str | None, pd.DataFrame]]:
    return [(str(name), rows) for name, rows in table.groupby(column, sort=True)]


def _usable(rows: pd.DataFrame, request: Request) -> tuple[dict[str, FloatArray], list[str]]:
    """The columns as numbers, of the rows that can be used, and why the others cannot."""
    columns = {}
    for option in ("loss", "params", "tokens", "flops", "budget", "share", "epochs"):
        name = getattr(request, option)
        if name is not None:
            numbers = pd.to_numeric(rows[name], errors="coerce")
            if numbers.notna().sum() == 0 and rows[name].notna().any():
                raise ValueError(f"--{option} is {name}, which holds no numbers: name a column of numbers")
            columns[option] = numbers.to_numpy(dtype=np.float64)
    if request.run is not None:
        columns["run"] = pd.factorize(rows[request.run])[0].astype(np.float64)
    dropped = []
    good = np.ones(len(rows), dtype=bool)
    for option, values in columns.items():
        bad = good & ~(np.isfinite(values) & ((values > 0) | (option == "run")))
        if bad.any():
            dropped.append(f"{bad.sum()} rows: {getattr(request, option)} is not a positive number.")
        good &= ~bad
    kept = pd.DataFrame(columns)[good]
    if (copies := kept.duplicated()).any():
        dropped.append(f"{copies.sum()} rows: equal to another in every column that is used.")
        kept = kept[~copies]
    if request.drop_worst:
        kept = kept.sort_values("loss", kind="stable").head(max(0, len(kept) - request.drop_worst)).sort_index()
        dropped.append(f"{request.drop_worst} rows: the highest losses, as asked for.")
    if kept.empty:
        raise ValueError(f"--loss is {request.loss}: no row has positive numbers in every column that is named")
    return _completed({option: kept[option].to_numpy() for option in columns}), dropped


def _completed(columns: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The columns with those that follow from others: C = 6 N D where one of the three is missing."""
    if "flops" not in columns and "budget" in columns:
        columns["flops"] = columns["budget"]
    if "flops" not in columns and {"params", "tokens"} <= columns.keys():
        columns["flops"] = 6 * columns["params"] * columns["tokens"]
    if "tokens" not in columns and "params" in columns:
        columns["tokens"] = columns["flops"] / (6 * columns["params"])
    columns.setdefault("budget", columns["flops"])
    if "epochs" in columns:
        columns["tokens"] = effective_tokens(columns["tokens"], columns["epochs"])
    return columns


_Law = tuple[FittedTable, LossAt | None]


def _fit(columns: dict[str, FloatArray], request: Request) -> _Law:
    if request.form in ISOFLOP_WAYS:
        return _isoflop(columns, request)
    if request.form == "envelope":
        return _envelope(columns, request), None
    form = FORMS["parametric" if request.form == "varpro" else request.form]
    fit = fit_parametric(
        form,
        columns,
        columns["loss"],
        way="varpro" if request.form == "varpro" else "huber",
        groups=columns.get("run"),
        num_draws=request.num_draws,
        seed=request.seed,
    )
    return _from_parametric(fit, request, _repeat_notes(columns)), None


def _repeat_notes(columns: Mapping[str, FloatArray]) -> list[str]:
    if "epochs" not in columns or (columns["epochs"] <= 1).all():
        return []
    seen = int((columns["epochs"] > 1).sum())
    return [
        f"{seen} rows saw their data more than once: their tokens count as fresh ones by R* = {PUBLISHED_DECAY:.2f} "
        "(Muennighoff et al. 2023)."
    ]


def _from_parametric(fit: ParametricFit, request: Request, notes: list[str]) -> FittedTable:
    return FittedTable(
        method=None,
        form=request.form,
        formula=fit.form.formula,
        values=fit.values,
        intervals=fit.intervals,
        objective=fit.objective,
        num_points=fit.num_points,
        num_rows=fit.num_points,
        dropped=(),
        starts={
            "num_starts": fit.starts.value.size,
            "num_converged": int(fit.starts.converged.sum()),
            "num_at_best": fit.starts.num_at_best,
        },
        condition=fit.condition,
        residual_sd=float(fit.residuals.std()),
        warnings=(*notes, *fit.warnings),
    )


def _envelope(columns: dict[str, FloatArray], request: Request) -> FittedTable:
    fit = fit_envelope(
        columns.get("run", columns["params"]),
        columns["params"],
        columns["tokens"],
        columns["flops"],
        columns["loss"],
        num_draws=request.num_draws,
        seed=request.seed,
    )
    edge = f"{fit.num_edge} FLOP counts: the smallest or largest size is the lowest, an edge of the grid."
    return FittedTable(
        method=None,
        form="envelope",
        formula="N* = N0 C^a, D* = D0 C^b",
        values=fit.values,
        intervals=fit.intervals,
        objective=fit.objective,
        num_points=fit.num_points,
        num_rows=columns["loss"].size,
        dropped=(edge,) if fit.num_edge else (),
        starts={},
        condition=None,
        residual_sd=float(fit.residuals.std()),
        warnings=tuple(_repeat_notes(columns)),
    )


def _isoflop(columns: dict[str, FloatArray], request: Request) -> _Law:
    rng = np.random.default_rng(request.seed)
    noise = noise_of_profiles(columns["budget"], columns["params"], columns["loss"])
    sd = noise.draw_sd(rng, request.num_draws)[:, None]

    def draw(loss: FloatArray) -> FloatArray:
        return loss * np.exp(sd * rng.standard_normal((request.num_draws, loss.size)))

    fit = fit_isoflops(
        columns["budget"],
        columns["params"],
        columns["tokens"],
        columns["loss"],
        draw,
        way=ISOFLOP_WAYS[request.form],
    )
    loss_law = _loss_law(fit, request)
    values, intervals = dict(fit.values), dict(fit.intervals)
    warnings = [f"Noise of a loss: {noise.words}.", *_repeat_notes(columns)]
    if fit.size_law is None:
        warnings.append(f"{fit.num_points} budgets have a minimum, so no law can be fitted: two are needed.")
    elif fit.num_points == 2:
        warnings.append("The laws go through two budgets alone, so nothing checks them.")
    if loss_law is not None:
        values |= loss_law.values
        intervals |= loss_law.intervals
        warnings += [f"Loss over compute: {warning}" for warning in loss_law.warnings]
    fitted = FittedTable(
        method=None,
        form=request.form,
        formula="N* = N0 C^a, D* = D0 C^b, L* = E + A/C^alpha",
        values=values,
        intervals=intervals,
        objective=fit.objective,
        num_points=fit.num_points,
        num_rows=columns["loss"].size,
        dropped=fit.dropped,
        starts={},
        condition=None,
        residual_sd=float(fit.residuals.std()) if fit.residuals.size else math.nan,
        warnings=tuple(warnings),
    )
    return fitted, _curve(fit)


def _loss_law(fit: IsoflopFit, request: Request) -> ParametricFit | None:
    """The saturating law through the minima's losses, where four budgets or more carry its three parameters."""
    used = [one for one in fit.minima if one.is_used]
    if len(used) < 4:
        return None
    flops, loss = np.array([one.budget_flops for one in used]), np.array([one.loss for one in used])
    return fit_parametric(COMPUTE, {"flops": flops}, loss, num_draws=request.num_draws, seed=request.seed)


def _curve(fit: IsoflopFit) -> LossAt | None:
    """The power law of the minima's losses, for crossovers."""
    used = [one for one in fit.minima if one.is_used]
    if len(used) < 2:
        return None
    loss = np.array([one.loss for one in used])
    draws = np.stack([one.loss_draws for one in used], axis=1)
    law = fit_law(tuple(round(one.budget_flops) for one in used), loss, draws)
    return law.over
