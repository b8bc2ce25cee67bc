"""Statistics of prepared pairs, measured once and kept beside them.

Knows where they lie in the cache and what they depend on. Never knows how anything is measured. They are no part of the
preparation: its hashes stay as they are, whatever is measured of its pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.cache import locked, slug, write_atomically
from trainer.data import DataManifest, Report
from trainer.statistics import RECIPE, DataStatistics, measure


def find_statistics(
    manifest: DataManifest, models: Sequence[str], *, max_length: int, cache: Path
) -> DataStatistics | None:
    """What ``survey`` measured for the tokenizers of these models, ``None`` where it has not."""
    file = _file(manifest, models, max_length, cache)
    return DataStatistics.from_json(file.read_text()) if file.exists() else None


def survey(
    manifest: DataManifest, pairs: Path, folders: Mapping[str, Path], *, max_length: int, cache: Path, report: Report
) -> DataStatistics:
    """The statistics of the pairs under ``pairs``, measured unless they are kept.

    ``folders`` are those of the tokenizers, by model. Models with the same tokenizer share its numbers. Raises
    ``ValueError`` for a tokenizer that does not load.
    """
    from trainer.models import load_tokenizer

    file = _file(manifest, tuple(folders), max_length, cache)
    with locked(file.with_suffix(".lock"), lambda: report("waiting for another process that measures the same", 0, 0)):
        found = find_statistics(manifest, tuple(folders), max_length=max_length, cache=cache)
        if found:
            return found
        tokenizers = {name: load_tokenizer(name, folder) for name, folder in folders.items()}
        sharing: dict[str, list[str]] = {}
        for name, tokenizer in tokenizers.items():
            sharing.setdefault(tokenizer.to_str(), []).append(name)
        measured = measure(
            pairs,
            manifest,
            {_words(names): tokenizers[names[0]] for names in sharing.values()},
            max_length=max_length,
            report=report,
        )
        write_atomically(file, measured.to_json())
    return measured


def _file(manifest: DataManifest, models: Sequence[str], max_length: int, cache: Path) -> Path:
    return cache / "statistics" / f"{slug(json.dumps([RECIPE, manifest.hash, sorted(models), max_length]))}.json"


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
