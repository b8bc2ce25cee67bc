"""The fields of a search space as people write them: a number, a range, or a list of values for each hyperparameter.

Knows what may be searched, and which numbers it takes. Never knows a sampler or a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, WrapValidator
from pydantic import model_validator as check

from sweeps.fields import Fields
from sweeps.sentences import not_a_number, shown
from trainer.trial import Pooling

Share = Annotated[float, Field(ge=0, lt=1)]


class DimensionFields(Fields):
    """One searched or held hyperparameter: a value, or a range."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    log: bool = True
    start: float | None = None

    @check(mode="after")
    def _value_or_range(self) -> DimensionFields:
        ends = (self.low, self.high)
        if self.value is not None:
            if ends != (None, None) or self.start is not None:
                raise ValueError("has a value and a range: give either a number, or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("is incomplete: give a number to hold it fixed, or both low and high to search it")
        if not self.low < self.high:
            raise ValueError(f"runs from low {self.low:g} to high {self.high:g}: make low the smaller one")
        if self.log and self.low <= 0:
            raise ValueError(f"has low {self.low:g} on a log scale: give a low above 0, or log: false")
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"starts at {self.start:g}: give a start from {self.low:g} to {self.high:g}")
        return self


class LearningRateFields(DimensionFields):
    of: Literal["absolute", "pretraining"] = "absolute"


def _number_or_range(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(not_a_number(value, "a range as {low: 0.001, high: 0.1}"))
    return {"value": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _above(limit: float, *, inclusive: bool) -> Callable[[DimensionFields], DimensionFields]:
    def checked(dimension: DimensionFields) -> DimensionFields:
        for number in (dimension.value, dimension.low):
            if number is not None and (number < limit or (number == limit and not inclusive)):
                raise ValueError(f"is {number:g}: give {'a number from 0 up' if inclusive else 'a number above 0'}")
        return dimension

    return checked


_Rate = Annotated[LearningRateFields, BeforeValidator(_number_or_range), AfterValidator(_above(0, inclusive=False))]
_Temperature = Annotated[DimensionFields, BeforeValidator(_number_or_range), AfterValidator(_above(0, inclusive=False))]
_Decay = Annotated[DimensionFields, BeforeValidator(_number_or_range), AfterValidator(_above(0, inclusive=True))]


def searchable(kind: Any, *, or_held: bool) -> WrapValidator:
    """A list of values of this kind, or a range, to search; a plain value too where it may be held here."""
    # Behind a check as in the mappings around it: no guessing between numbers and text.
    values = TypeAdapter(Annotated[list[kind], AfterValidator(_two_or_more)], config=ConfigDict(strict=True))

    def checked(value: object, held: Callable[[object], Any]) -> Any:
        if isinstance(value, list):
            return values.validate_python(value)
        if isinstance(value, dict) and kind is not Pooling:
            found = DimensionFields.model_validate(value)
            if found.value is None:
                for end in ("low", "high"):
                    TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(getattr(found, end))
                return found
            value = found.value
        if not or_held:
            raise ValueError(f"is {shown(value)}: give a list of values to search, and hold one value under fixed")
        return held(value)

    return WrapValidator(checked)


def _two_or_more(values: list[Any]) -> list[Any]:
    if len(values) < 2:
        raise ValueError(f"is {shown(values)}: give two values or more to search")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"has {shown(value)} twice: give each value once")
    return values


class SpaceFields(Fields):
    """The search space, or a method's own part of it."""

    learning_rate: _Rate | None = None
    temperature: _Temperature | None = None
    weight_decay: _Decay | None = None
    warmup_fraction: Annotated[Any, searchable(Share, or_held=False)] = None
    pooling: Annotated[Any, searchable(Pooling, or_held=False)] = None
