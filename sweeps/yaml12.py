"""YAML as people write numbers: ``4e10`` and ``1.5e15`` are numbers, ``yes`` and ``12:30`` are text (YAML 1.2).

Knows YAML and where in the text a mistake stands; never knows what a sweep is. PyYAML reads YAML 1.1, where ``4e10``
is text and a field given twice silently wins, so its resolver and its mappings are replaced here.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$")
# Tried in this order, by the first character. PyYAML wants an object with `match`.
_SCALARS = (
    ("null", re.compile(r"(?:~|null|)$"), ["~", "n", ""]),
    ("bool", re.compile(r"(?:true|false)$"), list("tf")),
    ("int", re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a field's name must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field '{key.value}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would read as something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Loader.yaml_implicit_resolvers = {}  # the ones of YAML 1.1 go
for _kind, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
# PyYAML's own would read 010 as octal.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def load(text: str, where: str) -> dict[str, Any]:
    """The fields of a YAML text. Raises ``ValueError`` with the line that cannot be read; ``where`` names the text."""
    try:
        fields = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ValueError(f"{where}: line {line} cannot be read as YAML ({error.problem}): mend that line") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{where}: cannot be read as YAML ({problem}): mend the file") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: holds no fields: begin with one such as 'name: my-sweep'")
    return fields


def dump(fields: dict[str, Any]) -> str:
    """YAML text that ``load`` reads back as equal fields, in their order."""
    return yaml.dump(fields, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
