"""What a source of pairs has to say: prepared, measured, and checked for leaks and for evaluation tasks' texts.

Knows how a source is named (a spec, a preset, or the source itself) and how the trainer's answers are put together.
Never knows how they look. What a function needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data import DataManifest, DataSource, Origin

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.contamination import TaskContamination
    from trainer.leakage import Leakage
    from trainer.prepare import Prepared
    from trainer.statistics import DataStatistics

MAX_LENGTH = 75
"""Tokens a text is cut to unless a spec or a person says otherwise: the paper's."""
MOST_PAIRS_MEASURED_UNASKED = 100_000
"""A report measures pairs that nobody has measured, where there are no more than these: some seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedData:
    """Pairs as a person names them, and whose tokens count."""

    name: str
    source: DataSource
    models: tuple[str, ...]
    max_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a check found."""

    manifest: DataManifest
    leakage: Leakage
    contamination: tuple[TaskContamination, ...]
    problems: tuple[str, ...]
    """A sentence for each thing that is over its bound."""

    def to_dict(self) -> dict[str, object]:
        return {
            "data": self.manifest.hash,
            "split_rule": self.manifest.split_rule,
            "num_pairs": self.manifest.num_pairs,
            "leakage": [asdict(leak) for leak in self.leakage.leaks],
            "equal_pairs": self.leakage.num_equal_pairs,
            "contamination": [asdict(one) for one in self.contamination],
            "problems": list(self.problems),
        }


def asked_data(
    named: str, origin: Origin, models: Sequence[str] | None = None, max_length: int | None = None
) -> AskedData:
    """The pairs of a spec or preset called ``named``, or those of ``origin``, which is what else the name may mean.

    Raises ``ValueError`` for a spec that is wrong, for options that a spec already answers, and for a length that
    holds no text.
    """
    from cluster.answers import data_source
    from sweeps.reading import preset_names, read_spec
    from trainer.ladder import LADDERS

    if max_length is not None and max_length < 2:
        raise ValueError(f"--max-length is {max_length}: give at least 2 tokens")
    if named in preset_names() or Path(named).suffix in (".yaml", ".yml"):
        if models or max_length or origin != Origin(source=named):
            raise ValueError(f"{named} is a spec, which says its data and models itself: change it there")
        spec = read_spec(named)
        return AskedData(
            name=spec.name, source=data_source(spec), models=tuple(spec.models), max_length=spec.fixed.max_length
        )
    return AskedData(
        name=Path(named).name,
        source=DataSource(source=origin.source, name=origin.name, split=origin.split, columns=origin.columns),
        models=tuple(models or (shape.name for shape in LADDERS["nano"])),
        max_length=max_length or MAX_LENGTH,
    )


def prepare_asked(asked: AskedData, console: Console) -> Prepared:
    """Pairs, tokens and models, with progress on ``console``."""
    from cluster.answers import prepare_source

    return prepare_source(asked.source, asked.models, asked.max_length, console)


def measure_asked(asked: AskedData, console: Console) -> tuple[DataManifest, DataStatistics]:
    """Statistics of the pairs, prepared where they are not, with progress on ``console``; no model is made."""
    from cluster.view import preparing
    from trainer.pair_cache import prepare_pairs
    from trainer.prepare import default_cache, prepare_tokenizers
    from trainer.survey import survey

    cache = default_cache()
    with preparing(console) as report:
        manifest, pairs = prepare_pairs(asked.source, cache, report)
        folders = prepare_tokenizers(asked.source, asked.models, cache, report)
        return manifest, survey(manifest, pairs, folders, max_length=asked.max_length, cache=cache, report=report)


def statistics_of(prepared: Prepared) -> DataStatistics | None:
    """Statistics of a sweep's pairs: those that were measured, or of few pairs measured now.

    ``None`` where they are many, or where this machine does not have them.
    """
    from trainer.pair_cache import pairs_of
    from trainer.prepare import default_cache
    from trainer.survey import find_statistics, survey

    cache, manifest, max_length = default_cache(), prepared.manifest, prepared.statistics.max_length
    models = tuple(prepared.models)
    found = find_statistics(manifest, models, max_length=max_length, cache=cache)
    pairs = pairs_of(manifest, cache)
    folders = {name: Path(model.path) for name, model in prepared.models.items()}
    is_here = pairs is not None and all(folder.is_dir() for folder in folders.values())
    if found or pairs is None or not is_here or manifest.num_pairs["train"] > MOST_PAIRS_MEASURED_UNASKED:
        return found
    return survey(manifest, pairs, folders, max_length=max_length, cache=cache, report=lambda *_: None)


def check_asked(asked: AskedData, tasks: Sequence[str], bound: float, console: Console) -> Checked:
    """Leakage between the splits, and contamination by the named tasks, with progress on ``console``.

    ``bound`` is the share of a split's or a task's texts from which it is a problem. Raises ``ValueError`` for tasks
    that do not exist or cannot be loaded.
    """
    from cluster.view import preparing
    from trainer import contamination
    from trainer.leakage import measure_leakage
    from trainer.pair_cache import prepare_pairs
    from trainer.prepare import default_cache, nano_test_rows
    from trainer.tasks import needs_nano, task_names

    if not 0 <= bound <= 1:
        raise ValueError(f"--bound is {bound:g}: give a share from 0 to 1, such as 0.01")
    names = task_names(tasks)
    cache = default_cache()
    with preparing(console) as report:
        manifest, pairs = prepare_pairs(asked.source, cache, report)
        rows = nano_test_rows(manifest, cache, report) if needs_nano(names) else None
        leakage = measure_leakage(pairs, manifest, report=report)
        found: tuple[TaskContamination, ...] = ()
        if names:
            from trainer.task_texts import task_texts

            found = contamination.measure_contamination(pairs, manifest, task_texts(names, rows), report=report)
    return Checked(
        manifest=manifest,
        leakage=leakage,
        contamination=found,
        problems=(*leakage.problems(bound), *contamination.problems(found, bound)),
    )
