"""Pruning: what is asked of a trial on the way, from the rows of its study before it.

Knows the losses that earlier trials had at the same shares of the same budget. Pure: the same rows give the same
checks, whenever they are asked for. Never knows Optuna, or how a trial is ended.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from sweeps.plan import Study
from sweeps.search import Finished
from trainer.result import TrialState
from trainer.trial import Check

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def checks_of(study: Study, number: int, rows: Mapping[int, Finished]) -> tuple[Check, ...]:
    """The checks of trial ``number``: at each share of the spec the median of what trials 0 to ``number - lag`` had.

    Pruned trials count with the losses that they had before they ended, so that the median is that of all who came so
    far and the bar does not rise by itself. Below ``min_rows`` of them the loss is only noted. Trials of a study
    without a search, and repeats, are not checked: nothing would be learned from ending one.
    """
    if study.pruning is None or not study.space.searched or study.is_repeat(number):
        return ()
    earlier = [rows[n] for n in range(number - study.lag + 1) if rows[n].state in ENDED]
    checks = []
    for share in study.pruning.shares:
        losses = [row.checked[share] for row in earlier if share in row.checked]
        above = statistics.median(losses) if len(losses) >= study.pruning.min_rows else None
        checks.append(Check(share=share, above=above))
    return tuple(checks)
