"""Pairs from a JSONL file, a Parquet file or a data set on the Hub.

Knows file formats and the column names people use (``query`` and ``pos`` as in the BGE files, ``anchor`` and
``positive`` as in sentence-transformers), and says in one sentence which row is wrong and how to mend it. Never knows
splits, tokens or caches.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

JSONL = (".jsonl", ".jsonl.gz")
PARQUET = (".parquet",)
COLUMNS = (("query", "pos"), ("anchor", "positive"), ("query", "document"))

Row = tuple[str, str]
"""Query and positive."""


def is_file(source: str) -> bool:
    """Whether ``source`` names a data file. Raises ``ValueError`` for a path that is there but is none that we read."""
    if source.endswith(JSONL + PARQUET):
        return True
    if Path(source).exists():
        raise ValueError(
            f"data source {source!r} is not a data file: give a path that ends in .jsonl, .jsonl.gz or .parquet"
        )
    return False


def existing(source: str) -> Path:
    """The path of a data file. Raises ``ValueError`` where there is none."""
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"data source {source!r} does not exist: give the path of a .jsonl or .parquet file")
    return path


def read_file(path: Path) -> Iterator[Row]:
    """Every pair of a data file, in its order. Raises ``ValueError`` for the first row that holds none."""
    return _read_parquet(path) if path.name.endswith(PARQUET) else _read_jsonl(path)


def read_hub(name: str, config: str, split: str) -> Iterator[Row]:
    """Every pair of one split of a Hub data set. Raises ``ValueError`` where the Hub has no such thing."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        table = load_dataset(name, config or None, split=split)
    except (DatasetsError, HfHubHTTPError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"data set {name!r} (name {config!r}, split {split!r}) could not be loaded: {reason}; "
            "check its name on the Hub, or the connection"
        ) from error
    pair = _columns(table.column_names, f"data set {name}")
    for number, row in enumerate(table.select_columns(list(pair)), start=1):
        yield _pair(row, pair, f"row {number} of data set {name}")


def _read_jsonl(path: Path) -> Iterator[Row]:
    pair: tuple[str, str] | None = None
    for number, line in enumerate(_lines(path), start=1):
        where = f"line {number} of {path}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error}): write one JSON object on each line, in UTF-8") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}: write one JSON object with 'query' and 'pos'")
        pair = pair or _columns(row, where)
        yield _pair(row, pair, where)


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        try:
            yield from file
        except (gzip.BadGzipFile, EOFError) as error:
            raise ValueError(f"{path} is not a whole gzip file ({error}): write it again") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            pair = _columns(file.schema_arrow.names, str(path))
            number = 0
            for batch in file.iter_batches(columns=list(pair)):
                for row in batch.to_pylist():
                    number += 1
                    yield _pair(row, pair, f"row {number} of {path}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}): write it again") from error


def _columns(names: Iterable[str], where: str) -> tuple[str, str]:
    present = set(names)
    for pair in COLUMNS:
        if present.issuperset(pair):
            return pair
    query, positive = COLUMNS[1] if "anchor" in present else COLUMNS[0]
    missing = query if query not in present else positive
    raise ValueError(
        f"{where} has no field {missing!r}: a pair needs 'query' and 'pos' (or 'document'), or 'anchor' and 'positive'"
    )


def _pair(row: Mapping[str, Any], pair: tuple[str, str], where: str) -> Row:
    query, positive = (_text(row, field, where) for field in pair)
    return query, positive


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise ValueError(f"{where} has no field {field!r}: add it, or remove the row")
    value = row[field]
    if isinstance(value, list):
        if not value:
            raise ValueError(f"{where} has an empty list as {field!r}: give at least one text, or remove the row")
        value = value[0]
    if not isinstance(value, str):
        raise ValueError(f"{where} has {value!r:.60} as {field!r}: give a text or a list of texts")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has half a character in {field!r} ({error.reason}): write it in UTF-8") from error
    return value
