"""One trained model on one task, by mteb itself: the exported folder in, a score out.

Knows mteb's protocol of an encoder and what it says of a task. Never knows a store, a sweep, or how a model was
trained. The model is the folder that ``trainer/export.py`` writes, loaded by sentence-transformers: what is scored is
then what people get, with its prompts and its cut of long texts, and not a second way to the same numbers.

mteb is given no cache of results: it keys one by a model's name and revision alone, and keeps scores when the data or
its own version change. What is scored already is known to the caller, by the hash of the weights. The same hash is the
name and revision that mteb sees, so that nothing of mteb's could take two models for one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from trainer.task_data import Task, load, quiet_mteb

BATCH_TEXTS = {"cpu": 64, "cuda": 256}
"""Texts that are encoded at a time, by device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """What one model is worth on one task."""

    task: str
    task_type: str
    score: float | None
    """The main metric, from 0 (or -1) to 1; ``None`` where it is not defined, as for equal embeddings of all texts."""
    main_metric: str
    metrics: str
    """All that mteb reports, as JSON, by split and subset."""
    dataset_revision: str
    mteb_version: str
    seconds: float
    """Wall time, loading the data included."""


class ExportedEncoder(AbsEncoder):  # type: ignore[misc]  # mteb is not followed
    """An exported model as mteb asks it: queries and documents with their prompts, all other texts without."""

    def __init__(self, folder: Path, *, name: str, revision: str, device: str = "cpu") -> None:
        self.model = SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=False)
        self.mteb_model_meta = model_meta(name, revision)
        self.batch_texts = BATCH_TEXTS[device.partition(":")[0]]

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **_: Any) -> NDArray[np.float32]:
        """(texts, D) unit embeddings of the texts in a loader of batches."""
        # Public data sets have empty texts, and a batch of nothing else would have no tokens: they are read as a blank.
        texts = [text or " " for batch in inputs for text in batch["text"]]
        encode = {PromptType.query: self.model.encode_query, PromptType.document: self.model.encode_document}.get(
            prompt_type, self.model.encode
        )
        embeddings: NDArray[np.float32] = encode(texts, batch_size=self.batch_texts, show_progress_bar=False)
        return embeddings


def model_meta(name: str, revision: str) -> ModelMeta:
    """What mteb is told of a model."""
    overwrites = {
        "name": f"isoflop/{name}",
        "revision": revision,
        "similarity_fn_name": ScoringFunction.COSINE,
        "modalities": ["text"],
    }
    return ModelMeta.create_empty(overwrites=overwrites)


def score(model: Any, task: Task) -> TaskScore:
    """Evaluate a model of mteb's protocols on a fresh task (``trainer.tasks.make_task``).

    Raises ``ValueError`` where the task's data are not to be had.
    """
    started = time.monotonic()
    load(task)
    with quiet_mteb():
        [result] = mteb.evaluate(
            model,
            task,
            cache=None,
            encode_kwargs={"batch_size": getattr(model, "batch_texts", 64), "show_progress_bar": False},
            co2_tracker=False,
            show_progress_bar=False,
        ).task_results
    main = float(result.get_score())
    return TaskScore(
        task=task.metadata.name,
        task_type=task.metadata.type,
        score=main if math.isfinite(main) else None,
        main_metric=task.metadata.main_score,
        metrics=json.dumps(_plain(result.scores)),
        dataset_revision=result.dataset_revision,
        mteb_version=mteb.__version__,
        seconds=time.monotonic() - started,
    )


def _plain(value: Any) -> Any:
    """The value as JSON has it: numbers of numpy as Python's own, and nothing for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
