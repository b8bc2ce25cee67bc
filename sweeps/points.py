"""Places in a space: where a trial may stand in a range or a list, on a grid, and in a quasi-random sequence.

Knows ranges and lists. Pure; never knows rows, samplers or trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sweeps.space import Choices, Range, Searched, Value

Point = dict[str, Value]
"""The searched hyperparameters, and settings of the method, by name."""


def start_of(searched: Mapping[str, Searched]) -> Point:
    """What the first trial of a study uses."""
    return {name: _start(dimension) for name, dimension in searched.items()}


def _start(dimension: Searched) -> Value:
    if isinstance(dimension, Choices):
        return dimension.values[0]
    if dimension.start is None:
        return rounded(at(dimension, 0.5), dimension)
    return round(dimension.start) if dimension.whole else dimension.start


def grid_sides(searched: Mapping[str, Searched], num_points: int) -> dict[str, int]:
    """Points of a grid along each dimension: all of a list, and of every range as many as ``num_points`` leave."""
    listed = {name: len(d.values) for name, d in searched.items() if isinstance(d, Choices)}
    num_ranges = len(searched) - len(listed)
    left = num_points / math.prod(listed.values())
    side = max(1, round(math.pow(left, 1 / num_ranges))) if num_ranges else 1
    return {name: listed.get(name, side) for name in searched}


def grid_mend(searched: Mapping[str, Searched], num_points: int) -> str:
    """What number of points fills a grid."""
    sides = grid_sides(searched, num_points)
    of_ranges = [max(2, sides[name]) for name, d in searched.items() if isinstance(d, Range)]
    listed = math.prod(sides[name] for name, d in searched.items() if isinstance(d, Choices))
    if not of_ranges:
        return f"give {listed}, one for each combination"
    times = "" if listed == 1 else f"{listed} times "
    number = listed * math.prod(of_ranges)
    return f"give {times}a whole number to the power of {len(of_ranges)}, such as {number}"


def grid_point(searched: Mapping[str, Searched], num_points: int, number: int) -> Point:
    """Even steps on each range's scale, both ends included; the last dimension changes fastest."""
    sides, point = grid_sides(searched, num_points), Point()
    for name, d in reversed(list(searched.items())):
        number, digit = divmod(number, sides[name])
        if isinstance(d, Choices):
            point[name] = d.values[digit]
        else:
            point[name] = rounded(at(d, digit / (sides[name] - 1) if sides[name] > 1 else 0.5), d)
    return {name: point[name] for name in searched}


def at(r: Range, share: float) -> float:
    """The value at a share of the range, on its scale; beyond an end where the share is below 0 or above 1."""
    if r.log:
        return math.exp(math.log(r.low) + share * (math.log(r.high) - math.log(r.low)))
    return r.low + share * (r.high - r.low)


def share_of(r: Range, value: float) -> float:
    """Where a value lies in the range, on its scale: the inverse of ``at``."""
    if r.log:
        return math.log(value / r.low) / math.log(r.high / r.low)
    return (value - r.low) / (r.high - r.low)


def drawn(dimension: Searched, share: float) -> Value:
    """The value at a share of a range, or of a list from its first to its last value."""
    if isinstance(dimension, Choices):
        return dimension.values[min(int(share * len(dimension.values)), len(dimension.values) - 1)]
    return at(dimension, share)


def rounded(value: Value, dimension: Searched) -> Value:
    """Four digits: they read well, and the last bits of one machine's logarithm do not rename a trial on another."""
    if isinstance(dimension, Choices):
        return value
    if dimension.whole:
        return round(float(value))
    return min(max(four_digits(float(value)), dimension.low), dimension.high)


def four_digits(value: float) -> float:
    return float(f"{value:.3e}")


def radical_inverse(number: int, base: int) -> float:
    """The digits of ``number`` mirrored at the point (van der Corput)."""
    inverse, share = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        share /= base
        inverse += digit * share
    return inverse
