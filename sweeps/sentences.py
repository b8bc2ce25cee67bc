"""The words for a mistake in a spec: which field, which value, how to mend it.

Knows pydantic's kinds of errors and how people write values; never knows which fields there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def nearest(word: str, choices: Iterable[str]) -> str:
    """The words 'did you mean' with the closest choice, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"did you mean '{close[0]}'? " if close else ""


def format_number(value: float) -> str:
    """``-4e10`` as a person writes it."""
    return f"{value:g}".replace("e+", "e")


def sentence(problem: ErrorDetails) -> str:
    """One problem that pydantic found: the field's path, its value and the mend."""
    path = _path(problem["loc"])
    if problem["type"] == "value_error":
        return f"{path or 'the spec'} {problem['ctx']['error']}"
    if problem["type"] == "missing":
        return f"{path} is missing: give it a value"
    value, context = problem["input"], problem.get("ctx", {})
    wanted = _WANTED.get(problem["type"], problem["msg"]).format(**context)
    if isinstance(value, str) and problem["type"] in ("int_type", "float_type"):
        return f"{path} {not_a_number(value, wanted.removeprefix('give '))}"
    return f"{path} is {shown(value)}: {wanted}"


_WANTED = {
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give true or false",
    "string_type": "give a text",
    "string_too_short": "give a text that is not empty",
    "list_type": "give a list, as [first, second]",
    "too_short": "give at least one",
    "model_type": "give fields, as {{field: value}}",
    "literal_error": "choose {expected}",
    "greater_than": "give a number above {gt:g}",
    "greater_than_equal": "give a number from {ge} up",
    "less_than": "give a number below {lt:g}",
    "less_than_equal": "give a number up to {le:g}",
}


def not_a_number(text: str, wanted: str) -> str:
    """What to say of a text that stands where ``wanted`` is needed."""
    try:
        float(text)
    except ValueError:
        return f"is the text {shown(text)}: give {wanted.removeprefix('give ')}"
    return f"is the text {shown(text)}: write the number without quotes"


def shown(value: object) -> str:
    """A value as its writer would know it again; nothing, null and ``~`` are all empty."""
    if value is None:
        return "empty"
    text = format_number(value) if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
