"""The numbers in the figures, as tables: what stands in the CSV file beside each picture.

Knows the frontier and curve tables. Never knows how anything is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.fit import FloatArray
from analysis.frontier import Frontier

_CURVE_BINS = 60


def curves_table(frontier: Frontier, curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each best trial's curve as means over equal shares of the budget."""
    parts = []
    for method in frontier.methods:
        for profile in method.profiles:
            for point in profile.points:
                curve = curves.get(point.trial_id)
                if curve is None or curve.empty:
                    continue
                share = curve["spent_flops"].to_numpy(dtype=np.float64) / profile.budget_flops
                bins = np.ceil(share * _CURVE_BINS).clip(1, _CURVE_BINS) / _CURVE_BINS
                means = (
                    curve.assign(share_of_budget=bins).groupby("share_of_budget", as_index=False)["train_loss"].mean()
                )
                parts.append(
                    means.assign(
                        method=method.label,
                        budget_flops=profile.budget_flops,
                        model=point.model,
                        num_params=point.num_params,
                        trial_id=point.trial_id,
                    )
                )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def profiles_table(frontier: Frontier) -> pd.DataFrame:
    """Every point of every profile, the state at its lowest one, and the optima with intervals."""
    rows: list[dict[str, Any]] = []
    for method in frontier.methods:
        for profile in method.profiles:
            common = {"method": method.label, "budget_flops": profile.budget_flops}
            for point in profile.points:
                best = profile.state.value if point == profile.best else ""
                rows.append(
                    common
                    | {"what": "point", "num_params": point.num_params, "loss": point.loss, "model": point.model}
                    | {"trial_id": point.trial_id, "state": best}
                )
            if optimum := profile.optimum:
                interval = optimum.num_params_interval
                rows.append(
                    common
                    | {"what": "optimum", "num_params": optimum.num_params, "loss": optimum.loss}
                    | {"num_params_low": interval.low, "num_params_high": interval.high}
                    | {"loss_low": optimum.loss_interval.low, "loss_high": optimum.loss_interval.high}
                    | {"curvature": optimum.parabola.curvature}
                )
    return pd.DataFrame(rows)


def frontier_table(frontier: Frontier, grid: FloatArray) -> pd.DataFrame:
    """Measured losses at each budget, and every law with its interval over the budgets of ``grid``, shape (n,)."""
    rows: list[dict[str, Any]] = []
    for ranking in frontier.rankings:
        for standing in ranking.standings:
            rows.append(
                {"what": "measured", "quantity": "loss", "method": standing.method, "value": standing.loss}
                | {"budget_flops": ranking.budget_flops, "probability_best": standing.probability_best}
                | {"low": standing.loss_interval.low, "high": standing.loss_interval.high}
                | {"is_optimum": standing.is_optimum}
            )
    for method in frontier.methods:
        laws = {"loss": method.loss_law, "num_params": method.size_law, "tokens": method.tokens_law}
        for quantity, law in laws.items():
            if law is None:
                continue
            for budget, low, high in zip(grid, *law.band(grid), strict=True):
                rows.append(
                    {"what": "law", "quantity": quantity, "method": method.label, "budget_flops": budget}
                    | {"value": law.at(budget), "low": low, "high": high}
                )
    return pd.DataFrame(rows)


def numbers_table(frontier: Frontier) -> pd.DataFrame:
    """Each number that the report says of optima and laws, with its interval and the trials behind it.

    ``trial_ids`` are separated by spaces; an end that is not bounded is infinite, as the fits have it.
    """
    lines: list[dict[str, Any]] = []
    for method in frontier.methods:
        for profile in method.profiles:
            optimum = profile.optimum
            models = [profile.best.model] if optimum is None else optimum.models
            common = {"method": method.label, "budget_flops": profile.budget_flops, "state": profile.state.value}
            common["trial_ids"] = " ".join(p.trial_id for p in profile.points if p.model in models)
            if optimum is None:
                lines.append({"quantity": "lowest loss", **common, "value": profile.loss})
                continue
            for quantity, value, within in (
                ("loss of the optimum", optimum.loss, optimum.loss_interval),
                ("size of the optimum", optimum.num_params, optimum.num_params_interval),
                ("tokens of the optimum", optimum.tokens, optimum.tokens_interval),
            ):
                lines.append({"quantity": quantity, **common, "value": value, "low": within.low, "high": within.high})
        for quantity, law in (("a", method.size_law), ("b", method.tokens_law), ("c", method.loss_law)):
            if law is not None:
                within = law.exponent_interval
                ids = [
                    p.trial_id for one in method.profiles if one.budget_flops in law.budgets_flops for p in one.points
                ]
                lines.append(
                    {"quantity": f"exponent {quantity}", "method": method.label, "value": law.fit.exponent}
                    | {"low": within.low, "high": within.high, "trial_ids": " ".join(ids)}
                )
    columns = ["quantity", "method", "budget_flops", "value", "low", "high", "state", "trial_ids"]
    return pd.DataFrame(lines, columns=columns)
