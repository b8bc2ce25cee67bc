"""What an agenda has decided, for a person and for JSON: cells, studies that ended early, optima at an end of a range.

Knows an agenda's decisions. Never knows how they come about.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sweeps.agenda import Agenda
from sweeps.plan import Cell


def sentences(agenda: Agenda) -> tuple[str, ...]:
    """What was decided and why, and which optima lie at the end of a range."""
    return (
        *(decision.sentence for decision in agenda.decisions),
        *(f"{study.cell.words}: ended early, {reason}." for study, reason in agenda.stopped),
        *(f"{edge.words}." for edge in agenda.edges),
    )


def summary(agenda: Agenda) -> tuple[str, ...]:
    """What was decided so far in a sentence, and the last decision with its reason; empty where nothing was."""
    if not agenda.decisions:
        return ()
    counts = Counter(decision.verdict for decision in agenda.decisions)
    told = (f"{counts['run']} cells run", f"{counts['check']} run as checks", f"{counts['leave']} not run")
    words = [words for words in told if not words.startswith("0 ")]
    if agenda.stopped:
        words.append(f"{len(agenda.stopped)} studies ended early")
    return (f"Decided so far: {', '.join(words)}.", f"The last one: {agenda.decisions[-1].sentence}")


def record(agenda: Agenda) -> dict[str, list[dict[str, Any]]]:
    """For JSON."""
    return {
        "decisions": [_named(d.cell) | {"verdict": d.verdict, "reason": d.reason} for d in agenda.decisions],
        "ended_early": [_named(study.cell) | {"reason": reason} for study, reason in agenda.stopped],
        "edges": [
            _named(e.cell) | {"hyperparameter": e.name, "value": e.value, "side": e.side, "end": e.end}
            for e in agenda.edges
        ],
    }


def _named(cell: Cell) -> dict[str, Any]:
    return {"budget_flops": cell.budget_flops, "model": cell.model, "method": cell.label}
