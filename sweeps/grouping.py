"""Which trials of a sweep count as one method: those of a study that searches LoRA's rank, whatever rank each has.

Knows a spec and the labels of methods. Pure; never knows a file or a fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeps.spec import SweepSpec
from trainer.trial import Method

if TYPE_CHECKING:
    import pandas as pd


def method_label(sweep: SweepSpec, method: Method) -> str:
    """What a trial's method is called where methods are compared.

    The kind, where studies search what the label says: the rank is then one more hyperparameter, and the best of a
    study stands for its cell. A grid compares the values instead, so each is a method of its own.
    """
    return method.kind if method.kind in _searched_kinds(sweep) else method.label


def by_method(rows: pd.DataFrame, sweep: SweepSpec) -> pd.DataFrame:
    """Rows of a store with ``method`` as methods are compared. The settings stay in the other columns."""
    searched = rows["method_kind"].isin(_searched_kinds(sweep))
    return rows.assign(method=rows["method"].where(~searched, rows["method_kind"]))


def _searched_kinds(sweep: SweepSpec) -> set[str]:
    if sweep.search.sampler == "grid":
        return set()
    return {spec.method.kind for spec in sweep.methods if spec.label != spec.method.label}
