"""Any table of rows to fitted laws: one fit a method, in any form, with what a person is told of it.

Knows every form that can be fitted. Never knows which column is which (``rows.py``), files, or the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.allocation import Allocation, allocate, cost_of_rows
from analysis.crossover import Crossover, LogLossAt, find_crossover
from analysis.descent import IntArray
from analysis.envelope import fit_envelope
from analysis.fit import FloatArray, Interval
from analysis.forms import COMPUTE, FORMS
from analysis.isoflops import IsoflopFit, fit_isoflops
from analysis.law import fit_law
from analysis.noise import noise_of_profiles
from analysis.parametric import ParametricFit, fit_parametric
from analysis.repeats import PUBLISHED_DECAY
from analysis.rows import ISOFLOP_WAYS, Request, check_request, groups, usable


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
    optimum: Allocation | None = None
    """At the FLOPs that were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """One record, parameters by their symbols; an open end of an interval is ``null``."""
        record: dict[str, Any] = {} if self.method is None else {"method": self.method}
        record |= {"form": self.form, "formula": self.formula, **self.values}
        record |= {"objective": self.objective, "num_points": self.num_points, "num_rows": self.num_rows}
        record["intervals"] = {name: interval.to_list() for name, interval in self.intervals.items()}
        record |= {"dropped": list(self.dropped), "starts": dict(self.starts), "condition": self.condition}
        record |= {"residual_sd": self.residual_sd, "warnings": list(self.warnings)}
        record |= {} if self.optimum is None else {"optimum": self.optimum.to_dict()}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}


def fit_table(table: pd.DataFrame, request: Request) -> tuple[tuple[FittedTable, ...], tuple[Crossover, ...]]:
    """A fit for each method of ``table`` (one where no method column is named), and the methods' crossovers.

    Crossovers come from IsoFLOP fits of two or more methods, by the law of the loss of their minima over compute.
    Raises ``ValueError`` for columns that are missing or hold no numbers, and where too little is left. Of several
    methods, one with too little has no values and a warning that says why.
    """
    check_request(table, request)
    parts = groups(table, request.method)
    fits, laws, refused = [], {}, []
    budgets: list[float] = []
    for method, rows in parts:
        try:
            columns, dropped = usable(rows, request)
            fitted, law = _fit(columns, request)
        except ValueError as error:
            if request.method is None:
                raise
            refused.append(f"{method}: {error}")
            fits.append(_unfitted(str(method), len(rows), request, str(error)))
            continue
        notes = (*dropped, *fitted.dropped)
        fits.append(replace(fitted, method=method, num_rows=len(rows), dropped=notes))
        if method is not None and law is not None:
            laws[method] = law
            budgets += [columns["budget"].min(), columns["budget"].max()]
    if len(refused) == len(parts):
        raise ValueError(f"--method is {request.method}: none can be fitted; {refused[0]}")
    names = list(laws)
    crossovers = tuple(
        find_crossover((first, second), (laws[first], laws[second]), (min(budgets), max(budgets)))
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    )
    return tuple(fits), crossovers


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
        if math.isfinite(fit.objective):
            lines.append(f"  {'objective':<11}{fit.objective:.9g}")
        lines.append(f"  {'num_points':<11}{fit.num_points} of {fit.num_rows} rows")
        if fit.starts:
            numbers = [fit.starts[name] for name in ("num_starts", "num_converged", "num_at_best")]
            lines.append("  {:<11}{}, of which {} converged and {} found the best".format("starts", *numbers))
        lines += [f"  left out:  {reason}" for reason in fit.dropped]
        lines += [f"  mind:      {warning}" for warning in fit.warnings]
        lines += [f"  {sentence}" for sentence in (fit.optimum.sentences() if fit.optimum else ())]
    return lines + [crossover.sentence for crossover in crossovers]


def _unfitted(method: str, num_rows: int, request: Request, why: str) -> FittedTable:
    form = FORMS.get(request.form)
    return FittedTable(
        method=method,
        form=request.form,
        formula="nothing fitted" if form is None else form.formula,
        values={},
        intervals={},
        objective=math.nan,
        num_points=0,
        num_rows=num_rows,
        dropped=(),
        starts={},
        condition=None,
        residual_sd=math.nan,
        warnings=(f"Nothing can be fitted: {why}.",),
    )


_Law = tuple[FittedTable, LogLossAt | None]


def _fit(columns: dict[str, FloatArray], request: Request) -> _Law:
    if request.form in ISOFLOP_WAYS:
        return _isoflop(columns, request)
    if request.form == "envelope":
        return _envelope(columns, request), None
    form = FORMS["parametric" if request.form == "varpro" else request.form]
    is_varpro = request.form == "varpro"
    fit = fit_parametric(
        form,
        columns,
        columns["loss"],
        way="varpro" if is_varpro else "huber",
        weights=_weights(columns, of_log=not is_varpro),
        groups=columns.get("run"),
        num_draws=request.num_draws,
        seed=request.seed,
    )
    fitted = _from_parametric(fit, request, [*_repeat_notes(columns), *_misfit_notes(fit, columns)])
    return (fitted if request.at is None else replace(fitted, optimum=_allocation(fit, columns, request.at))), None


def _weights(columns: Mapping[str, FloatArray], *, of_log: bool) -> FloatArray | None:
    """Inverse variances of the losses, or of their logarithms, where the noise is given."""
    if "noise" not in columns:
        return None
    return np.asarray((columns["loss"] if of_log else 1.0) ** 2 / columns["noise"] ** 2)


def _misfit_notes(fit: ParametricFit, columns: Mapping[str, FloatArray]) -> list[str]:
    weights = _weights(columns, of_log=True)
    if weights is None:
        return []
    ratio = math.sqrt(float((weights * fit.residuals**2).sum()) / (fit.num_points - fit.theta.size))
    return [f"The residuals are {ratio:.2g} times the noise that was given."]


def _allocation(fit: ParametricFit, columns: Mapping[str, FloatArray], budget_flops: float) -> Allocation:
    """The optimum with the cost a token that these rows paid."""
    sizes, flops = columns["params"], columns["flops"]
    return allocate(
        fit,
        budget_flops,
        cost_of_rows(sizes, columns["tokens"], flops),
        (float(sizes.min()), float(sizes.max())),
        (float(flops.min()), float(flops.max())),
    )


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
    draw, noise_words = _draw(columns, rng, request.num_draws)

    fit = fit_isoflops(
        columns["budget"],
        columns["params"],
        columns["tokens"],
        columns["loss"],
        draw,
        weights=_weights(columns, of_log=False),
        way=ISOFLOP_WAYS[request.form],
    )
    loss_law = _loss_law(fit)
    values, intervals = dict(fit.values), dict(fit.intervals)
    warnings = [f"Noise of a loss: {noise_words}.", *_repeat_notes(columns)]
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


def _draw(
    columns: Mapping[str, FloatArray], rng: np.random.Generator, num_draws: int
) -> tuple[Callable[[IntArray], FloatArray], str]:
    """How losses are drawn anew: by the noise that is given, else by what the profiles and a prior say of it."""
    loss = columns["loss"]
    if "noise" in columns:
        given = columns["noise"]
        words = f"{np.median(given):.3g} (one standard deviation, the median), as given"
        return lambda rows: loss[rows] + given[rows] * rng.standard_normal((num_draws, rows.size)), words
    noise = noise_of_profiles(columns["budget"], columns["params"], loss)
    sd = noise.draw_sd(rng, num_draws)[:, None]
    return lambda rows: loss[rows] * np.exp(sd * rng.standard_normal((num_draws, rows.size))), noise.words


def _loss_law(fit: IsoflopFit) -> ParametricFit | None:
    """The saturating law through the minima's losses, where four budgets or more carry its three parameters.

    Its draws are those of the minima: six budgets are too few to draw budgets.
    """
    used = [one for one in fit.minima if one.is_used]
    if len(used) < 4:
        return None
    flops, loss = np.array([one.budget_flops for one in used]), np.array([one.loss for one in used])
    drawn = np.stack([one.loss_draws for one in used], axis=1)
    weights = 1 / np.nanvar(drawn, axis=0)
    return fit_parametric(COMPUTE, {"flops": flops}, loss, way="varpro", weights=weights, drawn=drawn)


def _curve(fit: IsoflopFit) -> LogLossAt | None:
    """The power law of the minima's losses, for crossovers."""
    used = [one for one in fit.minima if one.is_used]
    if len(used) < 2:
        return None
    loss = np.array([one.loss for one in used])
    draws = np.stack([one.loss_draws for one in used], axis=1)
    law = fit_law(tuple(round(one.budget_flops) for one in used), loss, draws)
    return law.log_over
