"""A fitted frontier in a file, and back: so that what was fitted once is answered from at once.

Knows dataclasses of numbers, words and arrays, by their annotations. Never knows what a frontier says, or where a store
is.

One ``.npz`` without pickled objects: the arrays, and a JSON record of the rest. Types come from this package's own
annotations and never from the file. Its name is a hash of the rows and of this package's source, so another row or
another version of a fit never meets an old file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from analysis.fit import FloatArray
from analysis.frontier import Frontier, fit_frontier
from trainer.trial import METHODS, Method, TrialSpec

SUFFIX = ".npz"


def saved_frontier(rows: pd.DataFrame, folder: Path) -> Frontier:
    """The frontier of ``rows``, from ``folder`` where it was fitted before; else fitted, and kept there.

    Where the folder cannot be written, the frontier is fitted each time.
    """
    path = folder / f"{_key(rows)}{SUFFIX}"
    if path.exists():
        return read_frontier(path)
    frontier = fit_frontier(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_frontier(path, frontier)
        for old in folder.glob(f"*{SUFFIX}"):
            if old != path:
                old.unlink(missing_ok=True)
    except OSError:
        # Read-only, full or another's: then the next answer fits again, and nothing else is lost.
        return frontier
    return frontier


def write_frontier(path: Path, frontier: Frontier) -> None:
    """Atomically: a reader sees all of the file or none."""
    arrays: dict[str, FloatArray] = {}
    record = json.dumps(_encode(frontier, arrays))
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, record=np.array(record), **arrays)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content.getvalue())
    part.replace(path)


def read_frontier(path: Path) -> Frontier:
    """What ``write_frontier`` wrote."""
    with np.load(path, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    found = _decode(json.loads(str(arrays["record"])), Frontier, arrays)
    assert isinstance(found, Frontier)
    return found


def _key(rows: pd.DataFrame) -> str:
    known = hashlib.blake2b(_source(), digest_size=16)
    known.update("\n".join(rows.columns).encode())
    known.update(np.sort(pd.util.hash_pandas_object(rows, index=False).to_numpy()).tobytes())
    return known.hexdigest()


@cache
def _source() -> bytes:
    """A hash of the source of this package: what a fit is may change with any of it."""
    known = hashlib.blake2b()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        known.update(path.read_bytes())
    return known.digest()


def _encode(value: Any, arrays: dict[str, FloatArray]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        arrays[name] = value
        return name
    if isinstance(value, TrialSpec):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        record = {field.name: _encode(getattr(value, field.name), arrays) for field in fields(value)}
        kind = getattr(type(value), "kind", None)
        return {"kind": kind, **record} if kind in METHODS else record
    if isinstance(value, tuple):
        return [_encode(one, arrays) for one in value]
    return value.value if isinstance(value, Enum) else value


def _decode(value: Any, kind: Any, arrays: dict[str, FloatArray]) -> Any:
    if value is None:
        return None
    if kind is TrialSpec:
        return TrialSpec.from_json(value)
    if kind == Method:
        own = METHODS[value["kind"]]
        return own(**{name: one for name, one in value.items() if name != "kind"})
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        [kind] = [one for one in inner if one is not type(None)]
        return _decode(value, kind, arrays)
    if origin is tuple:
        each = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_decode(one, own, arrays) for one, own in zip(value, each, strict=True))
    if origin is np.ndarray:
        return arrays[value]
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _decode(one, hints[name], arrays) for name, one in value.items()})
    return kind(value)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
