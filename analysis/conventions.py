"""The answer under each way of counting: parameters without embeddings, all, or trained ones; FLOPs booked or measured.

Knows rows of a store and how a frontier is fitted to them. Never knows files, figures, or which way of counting is
right: counting alone has moved published exponents from .37 to .70 (Porian et al. 2024), so all stand side by side.

Another count of parameters is another size axis. Measured FLOPs differ between the models of one booked budget, so
each loss is moved along its own model's straight line of ln loss over ln FLOPs to the geometric mean of what the
budget's trials measured; then the profiles are those of equal measured FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.expect import loss_over
from analysis.fit import Interval
from analysis.frontier import Frontier, MethodFrontier, Ranking, fit_frontier
from analysis.law import Law
from trainer.result import TrialState
from trainer.trial import TrialSpec

SIZES: Mapping[str, str] = {
    "non-embedding": "num_params_non_embedding",
    "total": "num_params_total",
    "trainable": "num_params_trainable",
}
"""Words for a count of parameters, and its column."""
FLOPS = ("booked", "measured")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Convention:
    """How parameters (a key of ``SIZES``) and FLOPs (of ``FLOPS``) are counted."""

    size: str = "non-embedding"
    flops: str = "booked"

    @property
    def words(self) -> str:
        return f"{self.size} parameters, {self.flops} FLOPs"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reading:
    """What the sweep says under one convention."""

    convention: Convention
    frontier: Frontier
    """Its sizes and budgets are counted by the convention."""
    budget_flops: int
    """The asked-for booked budget, counted by the convention."""
    method: str
    """The best at that budget."""
    model: str
    """Its best model there, of those that were run."""
    probability_best: float
    losses: Mapping[str, float]
    """Of the complete trials, by id: as measured, or moved to the FLOPs of the budget."""
    moved: float
    """The largest factor by which a trial's FLOPs were moved to the mean of its budget; 1 for booked ones."""

    @property
    def best(self) -> MethodFrontier:
        return self.frontier.method(self.method)


def readings(
    rows: pd.DataFrame, frontier: Frontier, budget_flops: int, *, num_draws: int = 1000
) -> tuple[tuple[Reading, ...], tuple[str, ...]]:
    """A reading for each convention that the rows can be counted by, and a sentence for each that they cannot.

    ``frontier`` is that of ``rows`` as they are, and must have a measured budget; ``budget_flops`` is a booked budget.
    """
    notes, found = [], []
    counted: dict[str, tuple[pd.DataFrame, float, float]] = {"booked": (rows, 1.0, 1.0)}
    measured = to_measured_flops(rows)
    if isinstance(measured, str):
        notes.append(measured)
    else:
        counted["measured"] = measured
    for flops, (table, ratio, moved) in counted.items():
        for size, column in SIZES.items():
            convention = Convention(size=size, flops=flops)
            sized = table.assign(num_params_non_embedding=table[column])
            fitted = frontier if convention == Convention() else fit_frontier(sized, num_draws=num_draws)
            budget = round(budget_flops * ratio)
            method, model, probability = _choose(fitted, sized, budget)
            found.append(
                Reading(
                    convention=convention,
                    frontier=fitted,
                    budget_flops=budget,
                    method=method,
                    model=model,
                    probability_best=probability,
                    losses=dict(zip(table["trial_id"], table["loss"], strict=True)),
                    moved=moved,
                )
            )
    return tuple(found), tuple(notes)


def to_measured_flops(rows: pd.DataFrame) -> tuple[pd.DataFrame, float, float] | str:
    """The rows at budgets of equal measured FLOPs; measured over booked FLOPs at the largest; the largest move.

    A sentence instead where they cannot be had: FLOPs that were not measured, or models with a single budget each.
    """
    usable = (rows["state"] == TrialState.COMPLETE) & (rows["loss"] > 0) & np.isfinite(rows["loss"].astype(float))
    done = rows[usable & (rows["measured_flops"] > 0)].reset_index(drop=True)
    if done.empty or len(done) < usable.sum():
        return "Not every trial has measured FLOPs, so nothing is said under that way of counting."
    log_flops = pd.Series(np.log(done["measured_flops"].to_numpy(float)))
    level = log_flops.groupby(done["budget_flops"]).transform("mean")
    best = done.assign(log_flops=log_flops, log_loss=np.log(done["loss"].astype(float)))
    best = best.sort_values("loss").drop_duplicates(["method", "model", "budget_flops"])
    slopes = {
        key: float(np.polyfit(group["log_flops"], group["log_loss"], 1)[0])
        for key, group in best.groupby(["method", "model"])
        if len(group) > 1
    }
    if not slopes:
        return "Every model was run at one budget, so no loss can be moved to equal measured FLOPs."
    usual = float(np.median(list(slopes.values())))
    slope = np.array([slopes.get(key, usual) for key in zip(done["method"], done["model"], strict=True)])
    move = level - log_flops
    budgets = np.exp(level).round()  # floats: a day of a large GPU is more than an int64 counts
    done["loss"] *= np.exp(slope * move)
    done["tokens"] = (done["tokens"] * np.exp(move)).round().astype(np.int64)
    done["spec"] = [
        replace(TrialSpec.from_json(spec), budget_flops=int(budget)).to_json()
        for spec, budget in zip(done["spec"], budgets, strict=True)
    ]
    ratio = float(budgets.max() / done["budget_flops"].max())
    return done.assign(budget_flops=budgets), ratio, float(np.exp(move.abs().max()))


def _choose(frontier: Frontier, rows: pd.DataFrame, budget_flops: int) -> tuple[str, str, float]:
    """The best method at a budget, its best model of those in ``rows``, and the method's probability."""
    ranking = _ranking_at(frontier, budget_flops)
    best: tuple[float, str, str] | None = None
    for method in frontier.methods:
        own = rows[rows["method"] == method.label].drop_duplicates("model")
        for model, size in zip(own["model"], own["num_params_non_embedding"], strict=True):
            loss = float(loss_over(method, np.array([float(budget_flops)]), float(size))[0])
            if np.isfinite(loss) and (best is None or loss < best[0]):
                best = (loss, method.label, str(model))
    label = ranking.standings[0].method if best is None else best[1]
    probability = next((s.probability_best for s in ranking.standings if s.method == label), 0.0)
    if best is not None:
        return label, best[2], probability
    profiles = frontier.method(label).profiles
    nearest = min(profiles, key=lambda profile: abs(np.log(profile.budget_flops / budget_flops)))
    return label, nearest.best.model, probability


def _ranking_at(frontier: Frontier, budget_flops: int) -> Ranking:
    by_laws = frontier.ranking_by_laws(budget_flops)
    if by_laws.standings:
        return by_laws
    return min(frontier.rankings, key=lambda measured: abs(np.log(measured.budget_flops / budget_flops)))


def readings_table(found: Sequence[Reading]) -> pd.DataFrame:
    """A line a convention and method: exponents, the optimum at the largest budget, and the choice, with intervals."""
    lines: list[dict[str, Any]] = []
    for reading in found:
        largest = reading.frontier.budgets_flops[-1]
        for method in reading.frontier.methods:
            line: dict[str, Any] = {"size": reading.convention.size, "flops": reading.convention.flops}
            line["method"] = method.label
            for name, law in (("a", method.size_law), ("b", method.tokens_law), ("c", method.loss_law)):
                line |= _exponent(name, law)
            profile = next((p for p in method.profiles if p.budget_flops == largest), None)
            optimum = None if profile is None else profile.optimum
            line |= {"largest_budget_flops": largest, "state": "not run" if profile is None else profile.state.value}
            line["optimal_num_params"] = None if optimum is None else optimum.num_params
            line |= _ends("optimal_num_params", None if optimum is None else optimum.num_params_interval)
            line["optimal_loss"] = None if profile is None else profile.loss
            line |= {"budget_flops": reading.budget_flops, "recommended_method": reading.method}
            line |= {"recommended_model": reading.model, "probability_best": reading.probability_best}
            ids = [] if profile is None else [point.trial_id for point in profile.points]
            lines.append(line | {"trial_ids": " ".join(ids)})
    return pd.DataFrame(lines)


def _exponent(name: str, law: Law | None) -> dict[str, float | None]:
    ends = _ends(name, None if law is None else law.exponent_interval)
    return {name: None if law is None else law.fit.exponent, **ends}


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {f"{name}_low": low, f"{name}_high": high}
