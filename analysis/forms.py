"""The parametric forms of a loss: what each one is, its value and its gradient for many parameter vectors at once.

Knows formulas over log columns (size, tokens, FLOPs, share of parameters trained). Never knows how a form is fitted, or
where the columns come from.

A form's parameters are its coefficients in log and its exponents as they are, so that every loss is positive. Columns
are log and centred on their means, which takes most of the correlation out of the parameters; ``to_symbols`` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from analysis.fit import FloatArray

Pullback = Callable[[FloatArray], FloatArray]
"""``weights (m, n) -> sum over points of weights * d ln(loss) / d theta``, shape (m, num_params)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """A form's columns in log, centred: ``logs`` (num_columns, n), ``centres`` (num_columns,)."""

    logs: FloatArray
    centres: FloatArray

    @classmethod
    def of(cls, values: Mapping[str, FloatArray], names: tuple[str, ...]) -> Columns:
        logs = np.log(np.stack([np.asarray(values[name], dtype=np.float64) for name in names]))
        centres = logs.mean(axis=1)
        return cls(logs=logs - centres[:, None], centres=centres)

    def at(self, values: Mapping[str, FloatArray], names: tuple[str, ...]) -> Columns:
        """Other points, about the same centres."""
        logs = np.log(np.stack([np.asarray(values[name], dtype=np.float64) for name in names]))
        return Columns(logs=logs - self.centres[:, None], centres=self.centres)


class Form(Protocol):
    """A loss as a formula in its columns."""

    @property
    def name(self) -> str: ...
    @property
    def formula(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def coefficients(self) -> tuple[str, ...]: ...
    @property
    def exponents(self) -> tuple[str, ...]: ...

    def evaluate(self, theta: FloatArray, columns: Columns) -> tuple[FloatArray, Pullback]:
        """``ln(loss)`` of shape (m, n) for ``theta`` (m, num_coefficients + num_exponents), and its pullback."""

    def shift(self, theta: FloatArray, centres: FloatArray) -> FloatArray:
        """``theta`` for columns that are centred on 0, from one for columns centred on ``centres``."""

    def to_symbols(self, theta: FloatArray) -> dict[str, FloatArray]:
        """The parameters by symbol from uncentred ``theta`` (m, p): each (m,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Additive:
    """A sum of terms, each a coefficient times powers of columns: ``E + A/N^alpha + B/D^beta`` and its relatives."""

    name: str
    formula: str
    columns: tuple[str, ...]
    terms: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """(coefficient, ((exponent, column), ...)): the term is ``coefficient * prod(column^-exponent)``."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(coefficient for coefficient, _ in self.terms)

    @property
    def exponents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(exponent for _, powers in self.terms for exponent, _ in powers))

    def powers(self, coefficient: str) -> FloatArray:
        """Which exponents lower which columns in a term: (num_exponents, num_columns) of 0 and 1."""
        found = np.zeros((len(self.exponents), len(self.columns)))
        for exponent, column in dict(self.terms)[coefficient]:
            found[self.exponents.index(exponent), self.columns.index(column)] = 1.0
        return found

    def evaluate(self, theta: FloatArray, columns: Columns) -> tuple[FloatArray, Pullback]:
        num_terms = len(self.terms)
        exponents = theta[:, num_terms:]
        moved = [self.powers(name) @ columns.logs for name in self.coefficients]  # each (num_exponents, n)
        terms = []
        for place, lowered in enumerate(moved):
            if lowered.any():
                log_term = exponents @ lowered
                np.subtract(theta[:, place : place + 1], log_term, out=log_term)
                terms.append(np.exp(log_term, out=log_term))
            else:
                terms.append(np.exp(theta[:, place : place + 1]))
        total = np.zeros((len(theta), columns.logs.shape[1]))
        for term in terms:
            total += term

        def pullback(weights: FloatArray) -> FloatArray:
            gradient = np.zeros_like(theta)
            share = weights / total
            for place, (term, lowered) in enumerate(zip(terms, moved, strict=True)):
                if not lowered.any():
                    gradient[:, place] = share.sum(axis=1) * term[:, 0]
                    continue
                pulled = share * term
                gradient[:, place] = pulled.sum(axis=1)
                gradient[:, num_terms:] -= pulled @ lowered.T
            return gradient

        return np.log(total), pullback

    def shift(self, theta: FloatArray, centres: FloatArray) -> FloatArray:
        shifted = theta.copy()
        for place, name in enumerate(self.coefficients):
            shifted[..., place] += theta[..., len(self.terms) :] @ (self.powers(name) @ centres)
        return shifted

    def to_symbols(self, theta: FloatArray) -> dict[str, FloatArray]:
        found = {name: np.exp(theta[:, place]) for place, name in enumerate(self.coefficients)}
        return found | {name: theta[:, len(self.terms) + place] for place, name in enumerate(self.exponents)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Joint:
    """``E + [(A/N)^(alpha/beta) + B/D]^beta`` (Kaplan et al. 2020 with a floor; Fang et al. 2024 for retrieval).

    Inside, ``theta`` holds ln E, ln A^alpha, ln B^beta, alpha, beta: the logs of the two terms that the bracket joins.
    """

    name: str = "joint"
    formula: str = "L = E + [(A/N)^(alpha/beta) + B/D]^beta"
    columns: tuple[str, ...] = ("params", "tokens")
    coefficients: tuple[str, ...] = ("E", "A", "B")
    exponents: tuple[str, ...] = ("alpha", "beta")

    def evaluate(self, theta: FloatArray, columns: Columns) -> tuple[FloatArray, Pullback]:
        e, a, b, alpha, beta = (theta[:, place : place + 1] for place in range(5))
        size, tokens = columns.logs
        first, second = (a - alpha * size) / beta, b / beta - tokens
        inside = np.logaddexp(first, second)
        share = np.exp(first - inside)
        term, floor = np.exp(beta * inside), np.exp(e)
        total = term + floor

        def pullback(weights: FloatArray) -> FloatArray:
            pulled = weights * term / total
            by_size = pulled * share
            by_tokens = pulled - by_size
            d_beta = pulled * inside - by_size * first - by_tokens * (b / beta)
            parts = (weights / total * floor, by_size, by_tokens, -by_size * size, d_beta)
            return np.stack([part.sum(axis=1) for part in parts], axis=1)

        return np.log(total), pullback

    def shift(self, theta: FloatArray, centres: FloatArray) -> FloatArray:
        shifted = theta.copy()
        shifted[..., 1] += theta[..., 3] * centres[0]
        shifted[..., 2] += theta[..., 4] * centres[1]
        return shifted

    def to_symbols(self, theta: FloatArray) -> dict[str, FloatArray]:
        e, a, b, alpha, beta = theta.T
        return {"E": np.exp(e), "A": np.exp(a / alpha), "B": np.exp(b / beta), "alpha": alpha, "beta": beta}


SURFACE = Additive(
    name="parametric",
    formula="L = E + A/N^alpha + B/D^beta",
    columns=("params", "tokens"),
    terms=(("E", ()), ("A", (("alpha", "params"),)), ("B", (("beta", "tokens"),))),
)
"""Hoffmann et al. 2022, approach 3."""

SHARED = Additive(
    name="shared",
    formula="L = E + A/N^eta + B/D^eta",
    columns=("params", "tokens"),
    terms=(("E", ()), ("A", (("eta", "params"),)), ("B", (("eta", "tokens"),))),
)
"""One exponent for size and tokens (Gadre et al. 2024, over-training)."""

COMPUTE = Additive(
    name="compute",
    formula="L = E + A/C^alpha",
    columns=("flops",),
    terms=(("E", ()), ("A", (("alpha", "flops"),))),
)
"""A saturating power law in compute (Porian et al. 2024)."""

MULTIPLICATIVE = Additive(
    name="multiplicative",
    formula="L = E + A/(N^alpha D^beta)",
    columns=("params", "tokens"),
    terms=(("E", ()), ("A", (("alpha", "params"), ("beta", "tokens")))),
)
"""Fine-tuning (Zhang et al. 2024)."""

SHARE = Additive(
    name="share",
    formula="L = E + A/(N^alpha D^beta S^gamma)",
    columns=("params", "tokens", "share"),
    terms=(("E", ()), ("A", (("alpha", "params"), ("beta", "tokens"), ("gamma", "share")))),
)
"""The multiplicative form with the share ``S`` of the parameters that is trained: several methods in one law."""

FORMS: dict[str, Additive | Joint] = {
    form.name: form for form in (SURFACE, SHARED, COMPUTE, MULTIPLICATIVE, SHARE, Joint())
}
