"""Forms against each other: fitted to the smaller FLOPs of a table, and asked for the losses of the largest.

Knows the parametric forms and a table's columns by their quantity. Never knows files, or what a form is used for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import wording
from analysis.descent import BoolArray
from analysis.fit import FloatArray
from analysis.forms import FORMS, Form
from analysis.parametric import fit_parametric
from analysis.rows import Request, check_request, groups, usable

HELD_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class FormError:
    """How far a form's predictions are off, in root mean square of ln loss."""

    form: str
    num_params: int
    fitted: float
    held_out: float


def compare_forms(
    forms: Sequence[Form], values: Mapping[str, FloatArray], loss: FloatArray, held: BoolArray
) -> tuple[FormError, ...]:
    """Fit each form to the points (n,) that are not ``held`` and predict those that are; the best first."""
    found = []
    for form in forms:
        kept = {name: values[name][~held] for name in form.columns}
        fit = fit_parametric(form, kept, loss[~held], num_draws=1)
        off = np.log(fit.predict({name: values[name][held] for name in form.columns}) / loss[held])
        found.append(
            FormError(
                form=form.name,
                num_params=fit.theta.size,
                fitted=math.sqrt(float((fit.residuals**2).mean())),
                held_out=math.sqrt(float((off**2).mean())),
            )
        )
    return tuple(sorted(found, key=lambda error: error.held_out))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One method's forms, the one with the least error first."""

    method: str | None
    errors: tuple[FormError, ...]
    num_fitted: int
    num_held: int
    held: str
    """Which rows were held back."""
    noise_relative: float | None
    """Median standard deviation of the held losses, where it is given."""
    left_out: tuple[str, ...]
    """Forms that were not compared and why, a sentence each."""

    def sentences(self) -> list[str]:
        whose = "" if self.method is None else f"{self.method}: "
        lines = [f"{whose}fitted to {self.num_fitted} rows, asked for {self.num_held}: {self.held}"]
        lines += [
            f"  {error.form:<15}held-out error {100 * error.held_out:.3g} %   fitted {100 * error.fitted:.3g} %   "
            f"{error.num_params} parameters"
            for error in self.errors
        ]
        if self.noise_relative is not None:
            lines.append(f"  {'noise':<15}{100 * self.noise_relative:.3g} % of the held losses, as given")
        return lines + [f"  left out:  {reason}" for reason in self.left_out]

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "forms": [
                {
                    "form": error.form,
                    "held_out_error": error.held_out,
                    "fitted_error": error.fitted,
                    "num_params": error.num_params,
                }
                for error in self.errors
            ],
            "num_fitted": self.num_fitted,
            "num_held": self.num_held,
            "held": self.held,
            "noise_relative": self.noise_relative,
            "left_out": list(self.left_out),
        }


def compare_table(table: pd.DataFrame, request: Request) -> tuple[Comparison, ...]:
    """Each method's parametric forms by their error at the largest FLOPs: those of the largest budget, where a column
    of budgets is named, else the fifth of the rows with the most FLOPs.

    Raises ``ValueError`` as ``fit_table`` does, and where too few rows are left for any form.
    """
    check_request(table, request)
    return tuple(_compare(method, rows, request) for method, rows in groups(table, request.method))


def _compare(method: str | None, rows: pd.DataFrame, request: Request) -> Comparison:
    columns, _ = usable(rows, request)
    flops, loss = columns["budget"], columns["loss"]
    if request.budget is not None:
        held, words = flops == flops.max(), f"those of the largest budget, {wording.flops(flops.max())}"
    else:
        limit = np.quantile(flops, 1 - HELD_SHARE)
        held, words = flops > limit, f"the fifth with the most FLOPs, above {wording.flops(limit)}"
    forms, left_out = [], []
    for form in FORMS.values():
        missing = sorted(set(form.columns) - columns.keys())
        num_params = len(form.coefficients) + len(form.exponents)
        if missing:
            left_out.append(f"{form.name}: no column of the {wording.listing(missing)}.")
        elif (~held).sum() <= num_params:
            left_out.append(f"{form.name}: {num_params} parameters, and {(~held).sum()} rows to fit them to.")
        elif same := [name for name in form.columns if np.unique(columns[name][~held]).size < 2]:
            left_out.append(f"{form.name}: all rows that are fitted have one value of {wording.listing(same)}.")
        else:
            forms.append(form)
    if not forms or not held.any():
        whose = "TABLE" if method is None else f"--method {method}"
        raise ValueError(f"{whose} has {(~held).sum()} rows below its largest FLOPs: too few to compare forms")
    noise = float(np.median(columns["noise"][held] / loss[held])) if "noise" in columns else None
    return Comparison(
        method=method,
        errors=compare_forms(forms, columns, loss, held),
        num_fitted=int((~held).sum()),
        num_held=int(held.sum()),
        held=words,
        noise_relative=noise,
        left_out=tuple(left_out),
    )
