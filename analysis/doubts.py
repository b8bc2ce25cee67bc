"""What there is to say against a parametric fit, in sentences: what the data leave free, and what did not converge.

Knows a form, the outcome of its fit and the columns that it was fitted to. Never knows how it was fitted, or tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.descent import BoolArray
from analysis.fit import FloatArray, Interval
from analysis.forms import Additive, Form

MAX_CONDITION = 1e6
MIN_RATIO_RANGE = 4.0
WIDE_INTERVAL = 3.0


def condition_number(jacobian: FloatArray, weight: FloatArray) -> float:
    """Of a fit's normal equations, columns scaled to one length: ``jacobian`` (n, num_params), ``weight`` (n,).

    Infinite where a parameter changes nothing.
    """
    scaled = jacobian * np.sqrt(weight)[:, None]
    lengths = np.sqrt((scaled**2).sum(axis=0))
    if not (lengths > 0).all():
        return math.inf
    singular = np.linalg.svd(scaled / lengths, compute_uv=False)
    return float((singular[0] / singular[-1]) ** 2) if singular[-1] > 0 else math.inf


def doubts(
    form: Form,
    converged: BoolArray,
    condition: float,
    intervals: Mapping[str, Interval],
    draws: FloatArray,
    values: Mapping[str, FloatArray],
    absent: Sequence[str],
) -> tuple[str, ...]:
    """Of a fit whose starts ``converged`` (num_starts,) or not, with bootstrap ``draws`` (num_draws, num_params).

    ``values`` are the columns that it was fitted to, each (n,). ``absent`` coefficients are 0 or next to it.
    """
    found = []
    if not converged.all():
        found.append(f"{int((~converged).sum())} of {converged.size} starts did not converge.")
    if condition > MAX_CONDITION:
        found.append(
            f"The parameters cannot be told apart well: the condition number is {condition:.1e}, so predictions "
            "inside the data hold better than the parameters."
        )
    if {"params", "tokens"} <= set(values):
        ratio = np.asarray(values["tokens"]) / np.asarray(values["params"])
        spread = float(ratio.max() / ratio.min())
        if spread < MIN_RATIO_RANGE:
            found.append(
                f"Tokens per parameter vary by a factor of {spread:.2g} only, so the effect of size and that of tokens "
                "cannot be told apart."
            )
    for name in absent:
        also = " and ".join(["its interval", *_exponents_of(form, name)])
        found.append(f"{name} is 0 in the best fit, the end of its range: {also} tell nothing.")
    for name, interval in intervals.items():
        if name in form.exponents and interval.high < 0:
            found.append(f"{name} is negative: the loss rises with what it is the exponent of.")
        elif name in form.exponents and not (interval.low > 0 and interval.high < WIDE_INTERVAL * interval.low):
            found.append(f"{name} is not identified: its 90 % interval is wider than a factor of {WIDE_INTERVAL:g}.")
    failed = int(np.isnan(draws[:, 0]).sum())
    if failed:
        found.append(f"{failed} of {len(draws)} bootstrap draws did not converge and count as unknown.")
    return tuple(found)


def _exponents_of(form: Form, coefficient: str) -> list[str]:
    """The exponents that stand in no other term than this coefficient's."""
    if not isinstance(form, Additive):
        return []
    others = {exponent for name, powers in form.terms if name != coefficient for exponent, _ in powers}
    return [exponent for exponent, _ in dict(form.terms)[coefficient] if exponent not in others]
