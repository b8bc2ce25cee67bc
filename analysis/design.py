"""Which cells to run next: those that tell the most about a target budget for their FLOPs.

Knows the frontier's draws and the shapes of models that exist. Pure. Never knows rows, files, or how cells are run.

The draws of a method's laws give the covariance of their four parameters (level and exponent of the loss, level and
exponent of the optimal size). To first order, ln loss of a cell is linear in them, and so is what is asked at the
target. A cell measured with noise ``s`` lowers the target's variance by ``cov(target, cell)^2 / (var(cell) + s^2)``,
whatever will be measured, so cells are picked one after the other without having run any (one-step Bayesian
experimental design, Chaloner and Verdinelli 1995). Picking by gain for each FLOP and picking by gain alone can both go
wrong where cells cost differently, so both are done and the better one is kept (Leskovec et al. 2007). Limits: the laws
are taken as true, so a cell that would only test whether they bend is worth nothing here; the parabola's curvature and
the noise are taken as known, and all of the noise as what another seed averages out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from analysis import wording
from analysis.fit import FloatArray
from analysis.frontier import Frontier, MethodFrontier
from analysis.law import Law
from analysis.offers import CellRules, Offer, offered_budgets, offers_at
from trainer.ladder import ModelShape

WILD = 0.05
"""At each end so many of the draws count as at that quantile: a few wild ones would make up most of a covariance."""
MIN_GAIN = 1e-3
"""Share of the variance that a cell takes away at least; the FLOPs are rather left than spent on less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextCell:
    """A cell to run, and what will be known after it and those before it."""

    method: str
    model: str
    budget_flops: int
    num_trials: int
    is_measured: bool
    """It has been run already: run it again with another seed."""
    relative_sd_after: float
    """Of what is asked."""

    @property
    def flops(self) -> int:
        return self.num_trials * self.budget_flops

    @property
    def words(self) -> str:
        again = ", again with another seed" if self.is_measured else ""
        return f"{self.model} by {self.method} at {wording.flops(self.budget_flops)}{again}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Cells in the order in which they tell the most, and what they tell."""

    target_budget_flops: int
    quantity: str
    cells: tuple[NextCell, ...]
    relative_sd_before: float
    """Standard deviation of ln of what is asked: over methods, weighted by the probability that each is the best."""
    relative_sd_after: float

    @property
    def flops(self) -> int:
        return sum(cell.flops for cell in self.cells)

    def sentences(self) -> tuple[str, ...]:
        asked = {"loss": "loss of the optimum", "size": "optimal size"}[self.quantity]
        at = f"the {asked} at {wording.flops(self.target_budget_flops)}"
        if not self.cells:
            return (f"No cell that these FLOPs pay for would tell anything about {at}.",)
        trials = {cell.num_trials for cell in self.cells}
        each = f"{max(trials)} trial{'s' if max(trials) > 1 else ''} each"
        return (
            f"{at[0].upper()}{at[1:]} is known to {_percent(self.relative_sd_before)} (one standard deviation); these "
            f"{len(self.cells)} cells, with {each}, would bring it to {_percent(self.relative_sd_after)} for "
            f"{wording.flops(self.flops)}, as far as the laws hold:",
            *(f"{cell.words}: then {_percent(cell.relative_sd_after)}." for cell in self.cells),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "target_budget_flops": self.target_budget_flops,
            "quantity": self.quantity,
            "relative_sd_before": self.relative_sd_before,
            "relative_sd_after": self.relative_sd_after,
            "flops": self.flops,
            "cells": [
                {
                    "method": cell.method,
                    "model": cell.model,
                    "budget_flops": cell.budget_flops,
                    "num_trials": cell.num_trials,
                    "is_measured": cell.is_measured,
                    "flops": cell.flops,
                    "relative_sd_after": cell.relative_sd_after,
                }
                for cell in self.cells
            ],
            "sentences": list(self.sentences()),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Side:
    """A method's laws as the design sees them. Methods tell nothing about each other."""

    label: str
    weight: float
    """Probability that it is the best at the target."""
    variance: float
    """Of the noise of ln loss of a cell."""
    target: FloatArray
    """Derivatives of what is asked by the four parameters, (4,)."""
    covariance: FloatArray
    """Of the parameters, (4, 4)."""
    offers: tuple[Offer, ...]
    open: frozenset[int]
    """Budgets to which single cells may be added: the law of size rests on them."""

    def asked(self, covariance: FloatArray) -> float:
        """The weighted variance of what is asked."""
        return self.weight * max(0.0, float(self.target @ covariance @ self.target))

    def after(self, offer: Offer, covariance: FloatArray) -> FloatArray:
        """The covariance (4, 4) when the offer's cells have been run."""
        cross = covariance @ offer.slopes.T
        measured = offer.slopes @ cross + self.variance * np.eye(len(offer.models))
        return np.asarray(covariance - cross @ np.linalg.solve(measured, cross.T))


def design(
    frontier: Frontier,
    flops: float,
    shapes: Sequence[ModelShape],
    rules: CellRules,
    *,
    target_budget_flops: int | None = None,
    quantity: str = "loss",
) -> Design:
    """The cells to run with ``flops`` booked FLOPs to know ``quantity`` at the target (default: twice the largest
    measured budget).

    Raises ``ValueError`` where no method has laws of size and loss, and for FLOPs that are not positive.
    """
    if quantity not in ("loss", "size"):
        raise ValueError(f"--of is {quantity!r}: give loss or size")
    if not 1 <= flops <= 1e30:
        raise ValueError(f"--flops is {flops:g}: give FLOPs from 1 to 1e30, such as 1e12")
    methods = [m for m in frontier.methods if m.loss_law is not None and m.size_law is not None]
    if not methods:
        raise ValueError(
            "trials: no method has laws of size and loss yet, so what cells would tell is not known; run two or more "
            "budgets in which a model inside the grid is the best"
        )
    target = target_budget_flops or 2 * max(frontier.budgets_flops)
    num_trials = round(np.median([p.num_trials for m in methods for profile in m.profiles for p in profile.points]))
    weights = {s.method: s.probability_best for s in frontier.ranking_by_laws(target).standings}
    budgets = offered_budgets(frontier.budgets_flops, target)
    sides = [_side(m, weights[m.label], budgets, shapes, rules, target, quantity) for m in methods]
    before = math.sqrt(sum(side.asked(side.covariance) for side in sides))
    picks = min(
        (_pick(sides, flops / num_trials, per_flop=per_flop) for per_flop in (True, False)),
        key=lambda picked: picked[-1][2] if picked else math.inf,
    )
    known = {(m.label, p.budget_flops, point.model) for m in methods for p in m.profiles for point in p.points}
    return Design(
        target_budget_flops=target,
        quantity=quantity,
        cells=tuple(
            NextCell(
                method=label,
                model=model,
                budget_flops=offer.budget_flops,
                num_trials=num_trials,
                is_measured=(label, offer.budget_flops, model) in known,
                relative_sd_after=math.sqrt(variance),
            )
            for label, offer, variance in picks
            for model in offer.models
        ),
        relative_sd_before=before,
        relative_sd_after=math.sqrt(picks[-1][2]) if picks else before,
    )


def _side(
    method: MethodFrontier,
    weight: float,
    budgets: Sequence[int],
    shapes: Sequence[ModelShape],
    rules: CellRules,
    target: int,
    quantity: str,
) -> _Side:
    assert method.loss_law is not None and method.size_law is not None
    law = method.loss_law if quantity == "loss" else method.size_law
    reach = [1.0, math.log(target / law.fit.pivot)]
    return _Side(
        label=method.label,
        weight=weight,
        variance=method.noise.relative_sd**2,
        target=np.array([*reach, 0.0, 0.0] if quantity == "loss" else [0.0, 0.0, *reach]),
        covariance=_covariance(method.loss_law, method.size_law),
        offers=tuple(offer for budget in budgets for offer in offers_at(method, budget, shapes, rules)),
        open=frozenset(method.size_law.budgets_flops),
    )


def _covariance(loss_law: Law, size_law: Law) -> FloatArray:
    """Of the four parameters, from draws in which all are known: (4, 4). Right for normal draws, wherever it clips."""
    draws = np.stack([loss_law.log_levels, loss_law.exponents, size_law.log_levels, size_law.exponents])
    draws = draws[:, np.isfinite(draws).all(axis=0)]
    low, high = np.quantile(draws, [WILD, 1 - WILD], axis=1)
    # The variance of a standard normal that is clipped at these quantiles.
    end = float(ndtri(1 - WILD))
    kept = 1 - 2 * WILD - 2 * end * math.exp(-(end**2) / 2) / math.sqrt(2 * math.pi) + 2 * WILD * end**2
    return np.asarray(np.cov(np.clip(draws, low[:, None], high[:, None])) / kept)


def _pick(sides: Sequence[_Side], flops: float, *, per_flop: bool) -> list[tuple[str, Offer, float]]:
    """One offer after the other until ``flops`` are spent: (method, offer, variance after it), one trial a cell."""
    covariances = [side.covariance for side in sides]
    opened = {(number, budget) for number, side in enumerate(sides) for budget in side.open}
    run: set[tuple[int, int, str]] = set()
    least = MIN_GAIN * sum(side.asked(side.covariance) for side in sides)
    picked: list[tuple[str, Offer, float]] = []
    while True:
        best: tuple[float, int, Offer] | None = None
        for number, side in enumerate(sides):
            now = side.asked(covariances[number])
            for offer in side.offers:
                is_open = (number, offer.budget_flops) in opened
                if is_open == (len(offer.models) > 1) or offer.flops > flops:
                    continue
                if (number, offer.budget_flops, offer.models[0]) in run:
                    continue
                gain = now - side.asked(side.after(offer, covariances[number]))
                worth = gain / offer.flops if per_flop else gain
                if gain > least * len(offer.models) and (best is None or worth > best[0]):
                    best = (worth, number, offer)
        if best is None:
            return picked
        _, number, offer = best
        covariances[number] = sides[number].after(offer, covariances[number])
        opened.add((number, offer.budget_flops))
        run |= {(number, offer.budget_flops, model) for model in offer.models}
        flops -= offer.flops
        left = sum(side.asked(covariance) for side, covariance in zip(sides, covariances, strict=True))
        picked.append((sides[number].label, offer, left))


def _percent(relative_sd: float) -> str:
    percent = 100 * relative_sd
    return f"{percent:.1f} %" if 0.95 <= percent < 9.95 else f"{percent:.2g} %"
