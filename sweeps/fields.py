"""What every section of a spec is made of: mappings without unknown fields, and numbers as people write them.

Knows pydantic and YAML's numbers. Never knows which fields there are, or what they mean.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import model_validator as check

from sweeps.sentences import nearest


def whole(value: object) -> object:
    """``1e3`` is a float to YAML and a whole number to a person."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]
Count = Annotated[Whole, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Fields(BaseModel):
    """A mapping of the spec: no unknown fields, no guessing between numbers and text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @check(mode="before")
    @classmethod
    def _known_fields(cls, value: object) -> object:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                names = cls.model_fields
                raise ValueError(f"has no field {key!r}: {nearest(key, names)}its fields are {', '.join(names)}")
        return value
