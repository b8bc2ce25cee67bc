"""The held-out docstring pairs that the nano tasks are made of, each with the module that it comes from.

Knows the test split of a prepared nano corpus and how the modules of its pairs are found again. Never knows a task,
a model, or mteb.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trainer import corpus
from trainer.cache import build_once, locked
from trainer.data import MANIFEST, DataManifest, Report

MIN_ROWS = 200
"""Fewer pairs make no task."""
_RECIPE = 1
_FILE = "rows.parquet"


class NanoRow(NamedTuple):
    """A pair of the test split and the module it was written in, such as ``json.decoder``."""

    query: str
    positive: str
    module: str

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class NanoRows:
    """The rows, in an order that depends on their texts alone."""

    rows: tuple[NanoRow, ...]

    @classmethod
    def of(cls, rows: Sequence[NanoRow]) -> NanoRows:
        return cls(rows=tuple(sorted(rows, key=_order)))

    @property
    def revision(self) -> str:
        """40 hex digits over the rows: what stands for the commit of their data set."""
        return hashlib.sha256(json.dumps([_RECIPE, self.rows]).encode()).hexdigest()[:40]


def nano_rows(manifest: DataManifest, pairs: Path, packages: Sequence[str], cache: Path, report: Report) -> NanoRows:
    """The rows of the test split in the folder ``pairs``, which ``manifest`` describes and ``packages`` gave.

    The modules are read from the installed packages once and kept in ``cache``. Raises ``ValueError`` where the pairs
    are gone, or come from packages that have changed meanwhile.
    """
    folder = cache / "nano-tasks" / f"{_RECIPE}-{manifest.content['test'][:16]}"
    with locked(folder.with_name(f"{folder.name}.lock"), lambda: report("waiting for the nano tasks", 0, 0)):
        build_once(folder, lambda partial: _write(manifest, pairs, packages, partial, report))
    return NanoRows.of([NanoRow(**row) for row in pq.read_table(folder / _FILE).to_pylist()])


def _write(manifest: DataManifest, pairs: Path, packages: Sequence[str], folder: Path, report: Report) -> None:
    if not (pairs / MANIFEST).exists():
        raise ValueError(
            f"the sweep's pairs are no longer in {pairs}: set ISOFLOP_CACHE to the cache that it was prepared in"
        )
    found = corpus.build_corpus(packages, lambda done, total: report("reading modules of the pairs", done, total))
    modules = {(passage.query, passage.positive): passage.module for passage in found.passages}
    test = pq.read_table(pairs / "test.parquet", columns=["query", "positive"])
    texts = zip(test["query"].to_pylist(), test["positive"].to_pylist(), strict=True)
    rows = [{"query": q, "positive": p, "module": modules[q, p]} for q, p in texts if (q, p) in modules]
    if len(rows) < MIN_ROWS or (len(manifest.source.origins) == 1 and len(rows) < len(test)):
        raise ValueError(
            f"of the {len(test)} pairs that the sweep holds out for tests, {len(rows)} are in the packages that are "
            "installed here now: evaluate in the environment that the sweep was prepared in"
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / _FILE)


def _order(row: NanoRow) -> bytes:
    return hashlib.blake2b("\n".join(row).encode(), digest_size=16).digest()
