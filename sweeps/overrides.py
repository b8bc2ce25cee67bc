"""Overrides of a spec's fields as they are typed: ``search.lag=1``, ``budgets_flops=[1e17]``, ``methods.0.trials=8``.

Knows dotted paths and YAML values. Never knows which fields there are: the border checks the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps import yaml12


def overridden(fields: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``fields`` with each override in turn; parts of a path that are not there become mappings.

    Raises ``ValueError`` where an override has no ``=``, or its path leads through something that has no such part.
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise ValueError(f"override {text!r} is none: write field=value, such as search.lag=1")
        fields = _with(fields, parts, yaml12.load(f"value: {value}", f"override {text!r}")["value"], text)
    return fields


def _with(inside: Any, parts: Sequence[str], value: object, text: str) -> Any:
    part, rest = parts[0], parts[1:]
    if isinstance(inside, list) and part.isdecimal() and int(part) < len(inside):
        new = list(inside)
        new[int(part)] = _with(new[int(part)], rest, value, text) if rest else value
        return new
    if not isinstance(inside, dict):
        raise ValueError(
            f"override {text!r} names {part!r} inside of {inside!r}, which has no such part: give the whole field, "
            f"as {text.partition('=')[0].rsplit('.' + part, 1)[0]}=..."
        )
    return {**inside, part: _with(inside.get(part, {}), rest, value, text) if rest else value}
