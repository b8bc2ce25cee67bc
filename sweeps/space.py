"""What a study searches: each hyperparameter, and each setting of its method, held fixed or over a range or a list.

Knows ranges, lists of values and their units. Pure; never knows how values are suggested, or what they do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from trainer.ladder import ModelShape

Unit = Literal["absolute", "pretraining"]
Value = float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A hyperparameter that is held at one value."""

    value: float
    of: Unit = "absolute"

    def times(self, unit: float) -> Fixed:
        return Fixed(value=self.value * unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A hyperparameter that is searched from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = True
    start: float | None = None
    """What the first trial of each study uses; the middle of the range where absent."""
    of: Unit = "absolute"
    whole: bool = False
    """Whole numbers only."""

    def times(self, unit: float) -> Range:
        start = None if self.start is None else self.start * unit
        return Range(low=self.low * unit, high=self.high * unit, log=self.log, start=start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A hyperparameter that is searched over a list: numbers, or words. The first trial uses the first one."""

    values: tuple[Value, ...]


Searched = Range | Choices


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What a study may search, named as in ``Hyperparameters`` and in its method.

    The first three always have a value here. The others are searched where they are given; else the sweep's ``fixed``
    and the method itself hold them.
    """

    learning_rate: Fixed | Range
    temperature: Fixed | Range
    weight_decay: Fixed | Range
    warmup_fraction: Searched | None = None
    pooling: Choices | None = None
    rank: Searched | None = None
    alpha: Searched | None = None
    active_fraction: Searched | None = None

    @property
    def dimensions(self) -> dict[str, Fixed | Searched]:
        """All that have a value here."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: dimension for name, dimension in named if dimension is not None}

    @property
    def searched(self) -> dict[str, Searched]:
        return {name: d for name, d in self.dimensions.items() if not isinstance(d, Fixed)}

    @property
    def ranges(self) -> dict[str, Range]:
        """Of the searched ones those with a scale."""
        return {name: d for name, d in self.dimensions.items() if isinstance(d, Range)}

    def resolve(self, shape: ModelShape) -> Space:
        """The space with a learning rate in absolute numbers.

        Raises ``ValueError`` where it is given in units of a pre-training rate that is not known for this model.
        """
        if self.learning_rate.of == "absolute":
            return self
        if not shape.pretraining_learning_rate > 0:
            raise ValueError(
                f"search.learning_rate is in units of the pre-training rate, and that of {shape.name} is not known: "
                "give the learning rate without 'of: pretraining'"
            )
        return replace(self, learning_rate=self.learning_rate.times(shape.pretraining_learning_rate))


def dimension_fields(name: str, dimension: Fixed | Searched) -> Any:
    """A dimension as a spec writes it: without fields that hold nothing, a list as a list."""
    if isinstance(dimension, Choices):
        return list(dimension.values)
    given = {key: value for key, value in asdict(dimension).items() if value is not None and key != "whole"}
    if name != "learning_rate":
        del given["of"]
    return given
