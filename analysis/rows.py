"""A person's table of rows to columns of numbers: which column is which, which rows can be used, and why others cannot.

Knows tables (CSV, Parquet) and what each form needs. Never knows how a form is fitted, or the store's columns: the
caller names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowInvalid

from analysis.fit import FloatArray
from analysis.forms import FORMS
from analysis.repeats import effective_tokens

ISOFLOP_WAYS = {"isoflop": "parabola", "isoflop-window": "window", "isoflop-akima": "akima"}
SURFACES = ("varpro", *(name for name, form in FORMS.items() if set(form.columns) == {"params", "tokens"}))
"""Of size and tokens alone."""
LARGEST = 1e100
MAX_DRAWS = 100_000
OFFERED = ("envelope", *ISOFLOP_WAYS, "varpro", *FORMS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to fit. Every field named like a quantity is a column's name, or ``None``."""

    form: str = "parametric"
    loss: str = "loss"
    params: str | None = None
    tokens: str | None = None
    flops: str | None = None
    budget: str | None = None
    method: str | None = None
    run: str | None = None
    share: str | None = None
    epochs: str | None = None
    noise: str | None = None
    """A column, or a number: the standard deviation of a row's loss."""
    at: float | None = None
    """FLOPs at which to name the best size and tokens."""
    drop_worst: int = 0
    num_draws: int = 1000
    seed: int = 0


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a CSV or Parquet file, or of a folder of Parquet files."""
    if not path.exists():
        raise ValueError(f"TABLE is {path}, which does not exist: give a CSV or Parquet file, or a folder of Parquet")
    as_parquet = path.is_dir() or path.suffix in (".parquet", ".pq")
    if not as_parquet and path.suffix not in (".csv", ".gz", ".tsv", ".txt"):
        raise ValueError(f"TABLE is {path.name}: its name must end in .csv, .tsv or .parquet")
    try:
        return pd.read_parquet(path) if as_parquet else pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",")
    except (ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        kind = "Parquet" if as_parquet else "CSV"
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"TABLE is {path.name}, which cannot be read as {kind} ({why}): give another file") from error


def check_request(table: pd.DataFrame, request: Request) -> None:
    """Raises ``ValueError`` for a form, a number or a column that is not offered or not there."""
    if request.form not in OFFERED:
        raise ValueError(f"--form is {request.form}: give one of {', '.join(OFFERED)}")
    if request.drop_worst < 0:
        raise ValueError(f"--drop-worst is {request.drop_worst}: give a number of rows from 0")
    if not 1 <= request.num_draws <= MAX_DRAWS:
        raise ValueError(f"--draws is {request.num_draws}: give a number from 1 to {MAX_DRAWS}")
    if table.empty:
        raise ValueError("TABLE has no rows: give one with rows")
    if len(set(table.columns)) < len(table.columns):
        twice = next(name for name in table.columns if list(table.columns).count(name) > 1)
        raise ValueError(f"TABLE has two columns named {twice}: give each its own name")
    for option in ("loss", "params", "tokens", "flops", "budget", "method", "run", "share", "epochs"):
        column = getattr(request, option)
        if column is not None and column not in table.columns:
            names = ", ".join(map(str, table.columns[:20]))
            raise ValueError(f"--{option} is {column}, which is no column of the table: it has {names}")
    needed = set() if request.form == "compute" else {"params"}
    given = {option for option in ("params", "tokens", "flops", "budget") if getattr(request, option) is not None}
    if missing := needed - given:
        raise ValueError(f"--{min(missing)} is missing: form {request.form} needs the column of the model sizes")
    if not given & {"tokens", "flops", "budget"} or (request.form == "compute" and given == {"tokens"}):
        raise ValueError(f"--tokens or --flops is missing: form {request.form} needs the column of one of them")
    if request.form == "share" and request.share is None:
        raise ValueError("--share is missing: form share needs the column of the trained share of the parameters")
    if request.at is not None and request.form not in SURFACES:
        raise ValueError(f"--at is given, but form {request.form} is no surface of size and tokens: give another form")
    if request.at is not None and request.epochs is not None:
        raise ValueError("--at and --epochs are given: the tokens that a budget pays for are not those of --epochs")
    if request.at is not None and not 0 < request.at < math.inf:
        raise ValueError(f"--at is {request.at:g}: give FLOPs above 0")


def groups(table: pd.DataFrame, column: str | None) -> list[tuple[str | None, pd.DataFrame]]:
    """Each method's rows; all rows where no column is named. Raises ``ValueError`` where a row has no method."""
    if column is None:
        return [(None, table)]
    if num_missing := int(table[column].isna().sum()):
        raise ValueError(f"--method is {column}, which is empty in {num_missing} rows: fill them, or leave them out")
    return [(str(name), rows) for name, rows in table.groupby(column, sort=True)]


def usable(rows: pd.DataFrame, request: Request) -> tuple[dict[str, FloatArray], list[str]]:
    """The columns as numbers, of the rows that can be used, and why the others cannot."""
    columns = {}
    for option in ("loss", "params", "tokens", "flops", "budget", "share", "epochs"):
        name = getattr(request, option)
        if name is not None:
            numbers = pd.to_numeric(rows[name], errors="coerce")
            if numbers.notna().sum() == 0 and rows[name].notna().any():
                raise ValueError(f"--{option} is {name}, which holds no numbers: name a column of numbers")
            columns[option] = numbers.to_numpy(dtype=np.float64)
    if request.noise is not None:
        columns["noise"] = _noise(rows, request.noise)
    if request.run is not None:
        columns["run"] = pd.factorize(rows[request.run], use_na_sentinel=False)[0].astype(np.float64)
    dropped = []
    good = np.ones(len(rows), dtype=bool)
    for option, values in columns.items():
        bad = good & ~(np.isfinite(values) & ((values > 0) | (option == "run")))
        if bad.any():
            dropped.append(f"{bad.sum()} rows: {getattr(request, option)} is not a positive number.")
        good &= ~bad
        large = good & (values > LARGEST)
        if large.any():
            dropped.append(f"{large.sum()} rows: {getattr(request, option)} is above {LARGEST:g}.")
        good &= ~large
    kept = pd.DataFrame(columns)[good]
    if (copies := kept.duplicated()).any():
        dropped.append(f"{copies.sum()} rows: equal to another in every column that is used.")
        kept = kept[~copies]
    if request.drop_worst:
        kept = kept.sort_values("loss", kind="stable").head(max(0, len(kept) - request.drop_worst)).sort_index()
        dropped.append(f"{request.drop_worst} rows: the highest losses, as asked for.")
        if kept.empty:
            raise ValueError(f"--drop-worst is {request.drop_worst}: no row is left; give a smaller number")
    if kept.empty:
        raise ValueError(f"--loss is {request.loss}: no row has positive numbers in every column that is named")
    return _completed({option: kept[option].to_numpy() for option in columns}), dropped


def _completed(columns: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The columns with those that follow from others: C = 6 N D where one of the three is missing."""
    if "flops" not in columns and "budget" in columns:
        columns["flops"] = columns["budget"]
    if "flops" not in columns and {"params", "tokens"} <= columns.keys():
        columns["flops"] = 6 * columns["params"] * columns["tokens"]
    if "tokens" not in columns and "params" in columns:
        columns["tokens"] = columns["flops"] / (6 * columns["params"])
    columns.setdefault("budget", columns["flops"])
    if "epochs" in columns:
        columns["tokens"] = effective_tokens(columns["tokens"], columns["epochs"])
    return columns


def _noise(rows: pd.DataFrame, given: str) -> FloatArray:
    """The standard deviation of each row's loss, (n,), from a column or a number."""
    if given in rows.columns:
        return pd.to_numeric(rows[given], errors="coerce").to_numpy(dtype=np.float64)
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"--noise is {given}: give a column, or a standard deviation of the loss above 0")
    return np.full(len(rows), value)
