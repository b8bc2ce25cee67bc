"""How a trial that was trained once more compares with its row: bit for bit, within rounding, or different.

Knows two results of one trial spec, and how far rounding may carry a loss. Never knows a store, torch, or how the trial
was trained again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from trainer.result import Metrics, ParameterCounts, TrialResult
from trainer.trial import Dtype, Placement

ROUNDING: dict[Dtype, float] = {"float64": 1e-8, "float32": 1e-3, "bfloat16": 1e-2}
"""Largest relative difference of a loss that is called rounding, by what was computed in.

At a high learning rate rounding grows from step to step: another chunking has moved a float32 loss by 4e-3 after 470
steps at a rate of 1e-2, and by 1e-7 at 1e-3.
"""
FLIPPED_PAIRS = 4
"""Held-out pairs whose rank may change with the loss's last digits."""

_EXACT = ("state", "steps", "pairs", "tokens", "booked_flops")
"""What decides whether it is the same training at all."""
_LOSSES = ("loss", "loss_rows", "loss_columns", "raw_loss", "train_loss")
_ON_THE_WAY = "loss at"
_RANKS = ("accuracy", "mrr", "ndcg_at_10")


class Verdict(StrEnum):
    """How the second result stands to the first."""

    SAME = "bit for bit"
    ROUNDING = "within rounding"
    DIFFERENT = "different"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One quantity, as the row has it and as it came out again."""

    name: str
    recorded: object
    again: object

    @property
    def is_same(self) -> bool:
        """Equal to the last bit; two values that are no numbers are equal."""
        return self.recorded == self.again or (_is_nan(self.recorded) and _is_nan(self.again))

    @property
    def difference(self) -> float | None:
        """Relative to the recorded value; ``None`` for what is no number."""
        if self.is_same:
            return 0.0
        if not (isinstance(self.recorded, int | float) and isinstance(self.again, int | float)):
            return None
        return abs(self.again - self.recorded) / abs(self.recorded) if self.recorded else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """What came of training a recorded trial again."""

    trial_id: str
    verdict: Verdict
    lines: tuple[Line, ...]
    """Every quantity that was compared."""
    contradictions: tuple[str, ...]
    """Columns of the row that do not follow from its own spec."""
    elsewhere: tuple[Line, ...]
    """What differs of machine and software: packages by name, device, commit."""
    excuses: tuple[str, ...]
    """Why it need not be bit for bit, in words."""
    tolerance: float
    """Relative difference of a loss that is called rounding here."""

    def sentences(self) -> tuple[str, ...]:
        """The verdict and what it rests on."""
        said = [f"Trial {self.trial_id} trained again: {self.verdict.value}. {self._what()}"]
        if self.contradictions:
            said.append(
                f"The row contradicts its own spec in {', '.join(self.contradictions)}: it was changed after the trial."
            )
        said += [f"{line.name}: {line.recorded or 'none'} in the row, {line.again or 'none'} here."
                 for line in self.elsewhere]  # fmt: skip
        if self.verdict is not Verdict.SAME:
            why = f"It need not be bit for bit: {'; '.join(self.excuses)}." if self.excuses else ""
            said.append(why or "Software, device, threads and workers are those of the row, so nothing excuses it.")
        return tuple(said)

    def _what(self) -> str:
        by_name = {line.name: line for line in self.lines}
        differing = [line.name for line in self.lines if not line.is_same]
        if not differing:
            return f"All {len(self.lines)} compared quantities are equal, to the last bit."
        loss = by_name.get("loss")
        moved = f" The loss is {loss.again} where the row has {loss.recorded}." if loss and not loss.is_same else ""
        largest = max((by_name[name].difference or 0.0 for name in _LOSSES if name in by_name), default=0.0)
        return (
            f"{', '.join(differing)} differ, {len(self.lines) - len(differing)} quantities are equal.{moved} The "
            f"largest relative difference of a loss is {largest:.1e}; up to {self.tolerance:.0e} is called rounding."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "trial_id": self.trial_id,
            "verdict": self.verdict.value,
            "tolerance": self.tolerance,
            "compared": [asdict(line) | {"same": line.is_same} for line in self.lines],
            "contradictions": list(self.contradictions),
            "elsewhere": [asdict(line) for line in self.elsewhere],
            "excuses": list(self.excuses),
            "sentences": list(self.sentences()),
        }


def compare(
    recorded: TrialResult,
    again: TrialResult,
    *,
    weights: tuple[str, str] | None = None,
    contradictions: Sequence[str] = (),
) -> Reproduction:
    """How ``again`` stands to ``recorded``, both of one spec and with their curves.

    ``weights`` are the hashes of both trials' trained weights, where the row's were kept.
    """
    assert recorded.spec == again.spec
    lines = [*_lines(recorded, again), *_curve_lines(recorded, again)]
    if weights is not None:
        lines.append(Line(name="weights (SHA-256)", recorded=weights[0], again=weights[1]))
    elsewhere = _elsewhere(recorded, again)
    tolerance = _tolerance(recorded.placement)
    by_name = {line.name: line for line in lines}
    verdict = Verdict.DIFFERENT
    if not contradictions and all(line.is_same for line in lines):
        verdict = Verdict.SAME
    elif not contradictions and _is_rounding(by_name, tolerance, recorded.spec.evaluation.num_pairs):
        verdict = Verdict.ROUNDING
    return Reproduction(
        trial_id=recorded.spec.trial_id,
        verdict=verdict,
        lines=tuple(lines),
        contradictions=tuple(contradictions),
        elsewhere=elsewhere,
        excuses=_excuses(recorded, elsewhere),
        tolerance=tolerance,
    )


def _lines(recorded: TrialResult, again: TrialResult) -> list[Line]:
    """State, losses and ranks, what was spent, parameter counts."""
    pairs: list[tuple[str, object, object]] = [("state", recorded.state.value, again.state.value)]
    if recorded.metrics is not None or again.metrics is not None:
        names = Metrics.__dataclass_fields__
        pairs += [(n, getattr(recorded.metrics, n, None), getattr(again.metrics, n, None)) for n in names]
    pairs.append(("train_loss", recorded.train_loss, again.train_loss))
    for ours, theirs in zip_longest(recorded.checked, again.checked):
        share = (ours or theirs).share
        pairs.append((f"{_ON_THE_WAY} {share:g} of the budget", ours and ours.loss, theirs and theirs.loss))
    for name in ("steps", "pairs", "tokens", "padded_tokens", "booked_flops", "measured_flops"):
        # A row holds FLOPs as float64, exact up to 2^53.
        before, now = getattr(recorded.spending, name), getattr(again.spending, name)
        pairs.append((name, before, now) if float(before) != float(now) else (name, before, before))
    for name in ParameterCounts.__dataclass_fields__:
        pairs.append((f"parameters, {name}", getattr(recorded.counts, name), getattr(again.counts, name)))
    return [Line(name=name, recorded=before, again=now) for name, before, now in pairs]


def _curve_lines(recorded: TrialResult, again: TrialResult) -> list[Line]:
    """How many points the curves have, and the first at which they part."""
    lines = [Line(name="curve, points", recorded=len(recorded.curve), again=len(again.curve))]
    for name in ("learning_rate", "train_loss", "gradient_norm"):
        both = [
            Line(name=f"curve, {name} at step {ours.step}", recorded=getattr(ours, name), again=getattr(theirs, name))
            for ours, theirs in zip(recorded.curve, again.curve, strict=False)
        ]
        parting = next((line for line in both if not line.is_same), None)
        lines.append(parting or Line(name=f"curve, {name}", recorded="all steps", again="all steps"))
    return lines


def _is_rounding(by_name: dict[str, Line], tolerance: float, num_pairs: int) -> bool:
    """Whether the same training was done and its losses and ranks agree but for rounding.

    The calibrated scale is not judged: it sits in a flat minimum, and moves with the root of what the loss moves by.
    """
    if not all(by_name[name].is_same for name in _EXACT):
        return False
    losses = [line.difference for name, line in by_name.items() if name in _LOSSES or name.startswith(_ON_THE_WAY)]
    ranks = [by_name[name] for name in _RANKS if name in by_name]
    flipped = [abs(float(str(line.recorded)) - float(str(line.again))) for line in ranks if not line.is_same]
    close = all(difference is not None and difference <= tolerance for difference in losses)
    return close and all(share <= max(tolerance, FLIPPED_PAIRS / num_pairs) for share in flipped)


def _tolerance(placement: Placement) -> float:
    return ROUNDING["bfloat16" if placement.tf32 else placement.dtype]


def _elsewhere(recorded: TrialResult, again: TrialResult) -> tuple[Line, ...]:
    ours, theirs = recorded.environment, again.environment
    versions, here = json.loads(ours.versions), json.loads(theirs.versions)
    pairs = [(name, versions.get(name, ""), here.get(name, "")) for name in sorted(versions.keys() | here.keys())]
    pairs += [("device", ours.device, theirs.device), ("commit of isoflop", ours.git_commit, theirs.git_commit)]
    return tuple(Line(name=name, recorded=a, again=b) for name, a, b in pairs if a != b)


def _excuses(recorded: TrialResult, elsewhere: Sequence[Line]) -> tuple[str, ...]:
    excuses = []
    if elsewhere:
        excuses.append(f"{', '.join(line.name for line in elsewhere)} differ")
    if recorded.placement.device == "cuda":
        excuses.append("sums on a GPU have no fixed order")
    if recorded.num_out_of_memory:
        excuses.append("the trial ran out of memory and went on with smaller chunks")
    if recorded.num_resumes:
        excuses.append("the trial was interrupted, and may have had other threads or workers before")
    return tuple(excuses)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
