"""How numbers are said to a person: FLOPs, counts, losses, intervals, shares. Knows no rows and no fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainer.trial import format_flops

if TYPE_CHECKING:
    from analysis.fit import Interval


def flops(value: float) -> str:
    """``4.0e10 FLOPs``."""
    return f"{format_flops(value)} FLOPs"


def budgets(values: Sequence[float]) -> str:
    """``4.0e10, 1.2e11 and 3.6e11 FLOPs``."""
    return f"{listing([format_flops(value) for value in values])} FLOPs"


def count(value: float) -> str:
    """A count with three digits: ``888``, ``14,496``, ``1.21 million``, ``2.52 billion``."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size * 0.9995:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """A count for an axis: ``888``, ``14k``, ``1.2M``, ``2.5B``."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.995:
            return f"{value / size:.2g}{letter}" if value / size < 99.5 else f"{value / size:.0f}{letter}"
    return f"{value:.0f}"


def times(value: float) -> str:
    """A ratio or a number of epochs with two digits: ``0.048``, ``3.1``, ``31``, ``190``."""
    return f"{value:.2g}" if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"


def loss(value: float) -> str:
    return f"{value:.3f}"


def interval(value: Interval, say: Callable[[float], str]) -> str:
    """``2.20 to 2.41``; an end that the data do not bound is said as such."""
    low, high = math.isfinite(value.low) and value.low > 0, math.isfinite(value.high)
    if low and high:
        return f"{say(value.low)} to {say(value.high)}"
    if high:
        return f"up to {say(value.high)}"
    if low:
        return f"{say(value.low)} or more"
    return "not bounded"


def share(value: float) -> str:
    """A probability in whole percent, without claiming certainty that draws cannot give."""
    if value < 0.01:
        return "under 1 %"
    if value > 0.99:
        return "over 99 %"
    return f"{100 * value:.0f} %"


def listing(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
