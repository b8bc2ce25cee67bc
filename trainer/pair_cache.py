"""Prepared pairs in the cache: made once from their sources, under the identity of what was read, and found again.

Knows where pairs come from and what makes two sources the same. Never knows a model or a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import corpus, sources
from trainer.cache import build_once, hash_files, locked, slug
from trainer.data import MANIFEST, DataManifest, DataSource, Origin, Pair, Report
from trainer.splits import normalised

if TYPE_CHECKING:
    from trainer.pairs import Reading

NANO = "nano"
LAYOUT = 2
"""Raise it when what is written below changes its form: old artefacts are then left alone and new ones made."""


def prepare_pairs(source: DataSource, cache: Path, report: Report) -> tuple[DataManifest, Path]:
    """The pairs alone, and the folder of their splits. Raises ``ValueError`` as ``prepare``."""
    return prepare_data(source, cache, report), data_folder(source, cache)


def pairs_of(manifest: DataManifest, cache: Path) -> Path | None:
    """The folder of the splits that ``manifest`` describes, ``None`` where this cache does not have them."""
    folder = manifest_folder(manifest, cache)
    return folder if folder.is_dir() else None


def prepare_data(source: DataSource, cache: Path, report: Report) -> DataManifest:
    """Make the splits of a source where they are missing. Raises ``ValueError`` for rows that are no pairs."""
    folder = data_folder(source, cache)
    with artefact(folder, report):
        build_once(folder, lambda partial: _write_data(source, cache, partial, report))
    return DataManifest.from_json((folder / MANIFEST).read_text())


def _write_data(source: DataSource, cache: Path, folder: Path, report: Report) -> None:
    from trainer.pairs import write_pairs

    write_pairs(
        (_read(origin, source.num_negatives > 0, report) for origin in source.origins),
        folder,
        source=source,
        fingerprint=_source_key(source, cache),
        report=report,
    )


def _read(origin: Origin, negatives: bool, report: Report) -> Reading:
    """Open a source. Raises ``ValueError`` where it is missing, or has no hard negatives and they are asked for."""
    from trainer.pairs import Reading

    if origin.source == NANO:
        if negatives:
            raise ValueError("data.num_negatives is above 0, but nano has no hard negatives: set it to 0")
        read = corpus.build_corpus(
            packages_of(origin), lambda done, total: report("reading installed packages", done, total)
        )
        return Reading(
            origin=origin,
            # Files of one second-level package repeat each other; they must stand on one side of the split.
            pairs=(Pair(p.query, p.positive, ".".join(p.module.split(".")[:2])) for p in read.passages),
            split_rule="by second-level package",
            dropped=read.dropped,
            versions=corpus.versions(),
        )
    if sources.is_file(origin.source):
        rows = sources.read_files(sources.existing(origin.source), columns=origin.columns, negatives=negatives)
    else:
        report(f"loading {origin.source}", 0, 0)
        rows = sources.read_hub(origin.source, origin.name, origin.split, columns=origin.columns, negatives=negatives)
    pairs = (Pair(row.query, row.positive, normalised(row.query), row.negatives) for row in rows)
    return Reading(origin=origin, pairs=pairs, split_rule="by query")


def find_manifest(source: DataSource, cache: Path) -> DataManifest | None:
    """What is known of a source whose pairs are there."""
    file = data_folder(source, cache) / MANIFEST
    return DataManifest.from_json(file.read_text()) if file.exists() else None


def manifest_folder(manifest: DataManifest, cache: Path) -> Path:
    """Where the splits lie that ``manifest`` describes."""
    return cache / "data" / slug(f"{LAYOUT} {manifest.fingerprint}")


def data_folder(source: DataSource, cache: Path) -> Path:
    """Where the splits of a source lie, or would."""
    return cache / "data" / slug(f"{LAYOUT} {_source_key(source, cache)}")


def _source_key(source: DataSource, cache: Path) -> str:
    """Identity of what would be read, and of what is set of its use."""
    keys = [_origin_key(origin, cache) for origin in source.origins]
    if len(keys) == 1 and not source.settings:
        return keys[0]
    return slug(json.dumps([keys, source.settings]))


def _origin_key(origin: Origin, cache: Path) -> str:
    """Identity of what one source would give: the installed packages, a file's content, or a Hub data set's name."""
    if origin.source == NANO:
        return corpus.fingerprint(packages_of(origin))
    columns = list(origin.columns)
    if sources.is_file(origin.source):
        content = hash_files(sources.existing(origin.source), cache / "hashes")
        return slug(json.dumps([content, columns])) if columns else content
    return slug(json.dumps([origin.source, origin.name, origin.split, *columns]))


def packages_of(origin: Origin) -> tuple[str, ...]:
    """The installed packages that a nano source reads; none are all of them."""
    return tuple(sorted({name.strip() for name in origin.name.split(",")} - {""}))


@contextmanager
def artefact(folder: Path, report: Report) -> Iterator[None]:
    """Hold what guards the making of ``folder``."""
    lock = folder.with_name(f"{folder.name}.lock")
    with locked(lock, lambda: report("waiting for another process that prepares the same", 0, 0)):
        yield
