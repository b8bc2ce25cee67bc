"""The data section of a spec: which pairs a sweep trains on, as a person writes it and as a frozen value.

Knows one source or several, their weights, and how their texts are used. Never knows what is in a source: preparing it
is the trainer's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic import model_validator as check

from sweeps.fields import Fields, Whole


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginSpec:
    """One of several sources of pairs."""

    source: str
    name: str = ""
    split: str = "train"
    weight: int = 0
    """Its share against the other weights; 0 in all of them draws every pair equally often."""
    columns: tuple[str, ...] = ()
    """Of the query and of the positive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Which pairs: ``nano``, a JSONL or Parquet file, or a Hub data set; or several of them."""

    source: str = ""
    """Empty where there are several ``sources``."""
    name: str = ""
    """The Hub data set's configuration, where it has several."""
    split: str = "train"
    columns: tuple[str, ...] = ()
    """Of the query and of the positive, where their names are not among those that are known."""
    sources: tuple[OriginSpec, ...] = ()
    query_prefix: str = ""
    """Stands before every query."""
    positive_prefix: str = ""
    """Stands before every positive and every hard negative."""
    num_negatives: int = 0
    """Hard negatives of each pair that are trained with, at most."""

    @property
    def fields(self) -> dict[str, Any]:
        """As the border takes them: one source or several, and of the rest what is set."""
        fields = asdict(self)
        fields["columns"] = list(fields["columns"])
        sources = [_given(origin) for origin in fields.pop("sources")]
        single = {name: fields.pop(name) for name in ("source", "name", "split")}
        return ({"sources": sources} if sources else single) | {name: value for name, value in fields.items() if value}


def _given(origin: dict[str, Any]) -> dict[str, Any]:
    """A source as the border takes it: what need not be given only where it is."""
    fields = {**origin, "columns": list(origin["columns"])}
    return {name: value for name, value in fields.items() if value or name not in ("weight", "columns")}


_Columns = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)]


class OriginFields(Fields):
    """One of several sources."""

    source: Annotated[str, Field(min_length=1)]
    name: str = ""
    split: Annotated[str, Field(min_length=1)] = "train"
    weight: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    columns: _Columns | None = None


_Origin = Annotated[OriginFields, BeforeValidator(lambda value: {"source": value} if isinstance(value, str) else value)]


class DataFields(Fields):
    """The section as people write it."""

    source: Annotated[str, Field(min_length=1)] | None = None
    name: str = ""
    split: Annotated[str, Field(min_length=1)] = "train"
    columns: _Columns | None = None
    sources: Annotated[list[_Origin], Field(min_length=1)] | None = None
    query_prefix: str = ""
    positive_prefix: str = ""
    num_negatives: Annotated[Whole, Field(ge=0, le=100)] = 0

    @check(mode="after")
    def _one_source_or_several(self) -> DataFields:
        if self.sources is None:
            if self.source is None:
                raise ValueError("has no source: give 'source: nano', a file, a Hub data set, or a list of 'sources'")
            self._check_negatives([self.source])
            return self
        for field in ("source", "name", "split", "columns"):
            if field in self.model_fields_set:
                raise ValueError(
                    f"has {field} {getattr(self, field)!r} beside sources: put it into the list of sources"
                )
        self._check_negatives([origin.source for origin in self.sources])
        origins = [(origin.source, origin.name, origin.split, origin.columns) for origin in self.sources]
        for number, origin in enumerate(origins):
            if origin in origins[:number]:
                raise ValueError(f"has the source {origin[0]!r} twice: give each once, with the sum of its weights")
        unweighted = [origin.source for origin in self.sources if origin.weight is None]
        if 0 < len(unweighted) < len(origins):
            raise ValueError(f"has no weight for the source {unweighted[0]!r}: give all sources a weight, or none")
        return self

    def _check_negatives(self, sources: list[str]) -> None:
        if self.num_negatives and "nano" in sources:
            raise ValueError(
                f"has num_negatives {self.num_negatives}, and nano has no hard negatives: give num_negatives 0, or "
                "other data"
            )


def data_spec(fields: DataFields) -> DataSpec:
    """The frozen value of a checked section."""
    given = fields.model_dump(exclude={"source", "columns", "sources"})
    sources = tuple(
        OriginSpec(
            source=origin.source,
            name=origin.name,
            split=origin.split,
            weight=origin.weight or 0,
            columns=tuple(origin.columns or ()),
        )
        for origin in fields.sources or ()
    )
    return DataSpec(source=fields.source or "", columns=tuple(fields.columns or ()), sources=sources, **given)
