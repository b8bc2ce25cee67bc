"""A process that evaluates one model on its tasks, one after the other, and keeps each score as soon as it is known.

Knows how a trial's weights become a model again, which baseline is meant by a name, and that an evaluation which fails
is a sentence and not the end of the others. Never knows other models, or who asked.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sweeps.score_row import ScoreRow
from sweeps.scores import Shelf, read_score, write_score
from sweeps.store import Root, Store

if TYPE_CHECKING:
    from trainer.nano_rows import NanoRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One model, and the tasks that it is still to be evaluated on."""

    store: Root
    shelf: Shelf
    name: str
    """A trial's id, or a baseline's name."""
    weights_hash: str
    """What was asked for: weights that have changed since are not evaluated in their place."""
    tasks: tuple[str, ...]
    revisions: tuple[str, ...]
    """Of the tasks' data, in their order."""
    cache: str
    device: str
    num_threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the evaluation of one model on one task ended."""

    name: str
    task: str
    score: float | None = None
    seconds: float = 0.0
    error: str = ""
    """The last line of what went wrong; empty where nothing did."""


def evaluate_work(work: Work, nano: NanoRows | None) -> Iterator[Outcome]:
    """The outcomes, in the order of the tasks: each score is in the store before its outcome is told.

    A process that is started again for the same work, after a death, tells of what is in the store already and goes on
    behind it.
    """
    store = Store.open(work.store)
    model: Any = None
    for task, revision in zip(work.tasks, work.revisions, strict=True):
        row = read_score(store, work.name, task, work.shelf)
        if row is None or not is_current(row, work.weights_hash, revision):
            try:
                model = model or open_model(work, store, nano)
                row = _evaluate(work, model, task, nano)
                write_score(store, row, work.shelf)
            except Exception as error:  # of one task: the model may well do on the others, and so may other models
                yield Outcome(name=work.name, task=task, error=_sentence(error))
                continue
        yield Outcome(name=work.name, task=task, score=row.score, seconds=row.seconds)


def is_current(row: ScoreRow, weights_hash: str, revision: str) -> bool:
    """Whether a score is one of these very weights on these very data."""
    return row.weights_hash == weights_hash and row.dataset_revision == revision


def open_model(work: Work, store: Store, nano: NanoRows | None) -> Any:
    """The model of the work, by mteb's protocols."""
    import torch

    from trainer import baselines

    torch.set_num_threads(work.num_threads)
    if work.shelf == "baselines":
        if work.name == baselines.BM25:
            return baselines.Bm25()
        assert nano is not None, "TF-IDF is of nano tasks"
        return baselines.tfidf([text for row in nano.rows for text in (row.query, row.positive)])
    from cluster.answers import prepared_of
    from cluster.carry import fetched_weights
    from trainer.export import export
    from trainer.scoring import ExportedEncoder
    from trainer.trained import RECORD, weights_hash

    result, prepared = store.read_trial(work.name), prepared_of(store)
    with TemporaryDirectory(prefix="isoflop-scored-") as here:
        weights = fetched_weights(store.weights(work.name), Path(here) / "weights")
        found = weights_hash((weights / RECORD).read_text())
        if found != work.weights_hash:
            raise ValueError(f"the weights of trial {work.name} have changed since they were asked for: ask again")
        folder = Path(here) / "model"
        export(
            folder,
            result=result,
            weights=weights,
            base=Path(prepared.models[result.spec.model].path),
            manifest=prepared.manifest,
            cache=Path(work.cache),
        )
        return ExportedEncoder(folder, name=work.name, revision=found, device=work.device)


def _evaluate(work: Work, model: Any, task: str, nano: NanoRows | None) -> ScoreRow:
    from trainer.scoring import score
    from trainer.tasks import make_task

    found = score(model, make_task(task, nano))
    return ScoreRow(
        trial_id=work.name,
        weights_hash=work.weights_hash,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(found),
    )


def _sentence(error: Exception) -> str:
    """The last line of the exception, which is its own words."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]
