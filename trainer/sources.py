"""Pairs from JSONL and Parquet files, folders of them, or a data set on the Hub.

Knows file formats and the column names people use (``query``, ``pos`` and ``neg`` as in the BGE files, ``anchor``,
``positive`` and ``negative`` as in sentence-transformers, or those that a person names), and says in one sentence which
row is wrong and how to mend it. Rows are read some thousand at a time. Never knows splits, tokens or caches.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

JSONL = (".jsonl", ".jsonl.gz")
PARQUET = (".parquet",)
COLUMNS = (
    ("query", "pos"),
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "document"),
    ("query", "answer"),
    ("question", "answer"),
    ("title", "abstract"),
)
"""Names of the query's and the positive's column; the first that a source has both of counts."""

NEGATIVES = ("neg", "negatives", "negative")
_ROWS_PER_BATCH = 1024


class Row(NamedTuple):
    """A query, its positive, and the texts that it should not find, where they are read."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


class _Columns(NamedTuple):
    query: str
    positive: str
    negatives: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in self if name]


def is_file(source: str) -> bool:
    """Whether ``source`` names a data file or a folder of them. Raises ``ValueError`` for a path that is there but is
    none that we read.
    """
    if source.endswith(JSONL + PARQUET) or Path(source).is_dir():
        return True
    if Path(source).exists():
        raise ValueError(
            f"data source {source!r} is not a data file: give a path that ends in .jsonl, .jsonl.gz or .parquet"
        )
    return False


def existing(source: str) -> list[Path]:
    """The data files of a source: itself, or those at any depth of a folder, by their paths. Raises ``ValueError``
    where there are none.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(JSONL + PARQUET) and file.is_file())
        if not files:
            raise ValueError(
                f"data source {source!r} is a folder without .jsonl, .jsonl.gz or .parquet files: add some"
            )
        return files
    if not path.is_file():
        raise ValueError(f"data source {source!r} does not exist: give the path of a .jsonl or .parquet file")
    return [path]


def read_files(paths: Sequence[Path], *, columns: Sequence[str] = (), negatives: bool = False) -> Iterator[Row]:
    """Every pair of data files, in their order, with its hard negatives where they are asked for.

    ``columns`` are the names of the query's and the positive's column, where they are none of ``COLUMNS``. Raises
    ``ValueError`` for the first row that holds no pair, and where negatives are asked for and a file has none.
    """
    for path in paths:
        read = _read_parquet if path.name.endswith(PARQUET) else _read_jsonl
        yield from read(path, columns, negatives)


def read_hub(
    name: str, config: str, split: str, *, columns: Sequence[str] = (), negatives: bool = False
) -> Iterator[Row]:
    """Every pair of one split of a Hub data set, as ``read_files``. Raises ``ValueError`` where the Hub has no such
    thing.
    """
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
    found = _columns(table.column_names, f"data set {name}", columns, negatives)
    number = 0
    for batch in table.select_columns(found.names).iter(_ROWS_PER_BATCH):
        for values in zip(*(batch[column] for column in found.names), strict=True):
            number += 1
            yield _row(dict(zip(found.names, values, strict=True)), found, f"row {number} of data set {name}")


def _read_jsonl(path: Path, columns: Sequence[str], negatives: bool) -> Iterator[Row]:
    found: _Columns | None = None
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
        found = found or _columns(row, where, columns, negatives)
        yield _row(row, found, where)


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        try:
            yield from file
        except (gzip.BadGzipFile, EOFError) as error:
            raise ValueError(f"{path} is not a whole gzip file ({error}): write it again") from error


def _read_parquet(path: Path, columns: Sequence[str], negatives: bool) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = _columns(file.schema_arrow.names, str(path), columns, negatives)
            number = 0
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=found.names):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(row, found, f"row {number} of {path}")
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}): write it again") from error


def _columns(names: Iterable[str], where: str, given: Sequence[str], negatives: bool) -> _Columns:
    present = set(names)
    known = [(given[0], given[1])] if given else COLUMNS
    pair = next((pair for pair in known if present.issuperset(pair)), None)
    if pair is None:
        query, positive = given or COLUMNS[1 if "anchor" in present else 0]
        missing = query if query not in present else positive
        mend = (
            f"name two of its fields as columns: {', '.join(sorted(present))}"
            if given
            else "a pair needs 'query' and 'pos' (or 'document'), or 'anchor' and 'positive', or name its columns"
        )
        raise ValueError(f"{where} has no field {missing!r}: {mend}")
    if not negatives:
        return _Columns(*pair, None)
    field = next((name for name in NEGATIVES if name in present), None)
    if field is None:
        raise ValueError(
            f"{where} has no hard negatives in a field 'neg', 'negatives' or 'negative': add one, or set "
            "data.num_negatives to 0"
        )
    return _Columns(*pair, field)


def _row(row: Mapping[str, Any], columns: _Columns, where: str) -> Row:
    query, positive = (_text(row, field, where) for field in (columns.query, columns.positive))
    return Row(query, positive, _texts(row, columns.negatives, where) if columns.negatives else ())


def _texts(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    """The texts of a field that may be absent, empty, one text or a list."""
    values = row.get(field) or []
    return tuple(_sound(value, field, where) for value in (values if isinstance(values, list) else [values]))


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if field not in row:
        raise ValueError(f"{where} has no field {field!r}: add it, or remove the row")
    value = row[field]
    if isinstance(value, list):
        if not value:
            raise ValueError(f"{where} has an empty list as {field!r}: give at least one text, or remove the row")
        value = value[0]
    return _sound(value, field, where)


def _sound(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} has {value!r:.60} as {field!r}: give a text or a list of texts")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} has half a character in {field!r} ({error.reason}): write it in UTF-8") from error
    return value
