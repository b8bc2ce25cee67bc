"""How far a trial is: what changes from step to step, and what a checkpoint keeps of it beside the tensors.

Knows the types of a trial. Never knows how a step is done, or where a checkpoint is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.result import CheckedLoss, CurvePoint, Spending


@dataclass(kw_only=True, slots=True)
class Progress:
    """Equal on every worker of a trial."""

    spending: Spending = field(default_factory=Spending)
    curve: list[CurvePoint] = field(default_factory=list)
    checked: list[CheckedLoss] = field(default_factory=list)
    num_resumes: int = 0

    def to_record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def resumed(cls, record: Mapping[str, Any]) -> Progress:
        """What ``to_record`` wrote, with one resume more."""
        return cls(
            spending=Spending(**record["spending"]),
            curve=[CurvePoint(**point) for point in record["curve"]],
            # A checkpoint of before there were checks has none.
            checked=[CheckedLoss(**checked) for checked in record.get("checked", ())],
            num_resumes=record["num_resumes"] + 1,
        )
