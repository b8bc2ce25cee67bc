"""The data of evaluation tasks from the Hub: each at its own commit, the same whether or not the Hub can be reached.

Knows the Hugging Face cache and mteb's loading. Never knows a model. Without a connection, ``datasets`` takes whatever
revision it has last cached, and lists only the default configuration, so that mteb evaluates a reranking task as a
search in all documents (DECISIONS.md). So a task is never loaded by its repository's name for an evaluation: it is
loaded once by that name, which brings the files it needs into the cache, and from then on from the folder of its
commit there. A record beside that folder says which files belong to it, and goes along where the cache is copied.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.cache import write_atomically

Task = Any
"""``mteb.AbsTask``; mteb is not followed by the type checker."""
OWN = "isoflop/"
"""Data sets of this name are made here and never asked of the Hub."""


def load(task: Task) -> None:
    """Load a fresh task's data, from the Hub where they are not in the cache as a whole.

    Raises ``ValueError`` where they are neither there nor to be had.
    """
    path, revision = task.metadata.dataset["path"], task.metadata.dataset["revision"]
    if path.startswith(OWN):
        task.load_data()
        return
    folder = _cached(path, revision) or _fetched(task, path, revision)
    dataset = {**task.metadata.dataset, "path": str(folder)}
    named = task.metadata
    task.metadata = named.model_copy(update={"dataset": dataset})
    with quiet_mteb():
        task.load_data()
    task.metadata = named


@contextmanager
def quiet_mteb() -> Iterator[None]:
    """Without advice about newer versions of a task, of which the paper's are older on purpose, and without bars."""
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    logger = logging.getLogger("mteb")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _fetched(task: Task, path: str, revision: str) -> Path:
    """The folder of the commit, with all files that loading the task by its name has asked for."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    mend = "fetch it with 'isoflop evaluate --prefetch' where the Hub can be reached"
    if is_offline_mode():
        raise ValueError(
            f"task {task.metadata.name} needs {path!r} at {revision[:12]}, which is not in the cache: {mend}"
        )
    try:
        with quiet_mteb():
            copy.deepcopy(task).load_data()
    except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError, FileNotFoundError) as error:
        raise ValueError(f"task {task.metadata.name} cannot load {path!r} ({type(error).__name__}): {mend}") from error
    folder = Path(snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True))
    files = {
        file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
    }
    write_atomically(_record(path, revision), json.dumps({"commit": folder.name, "files": files}))
    return folder


def _cached(path: str, revision: str) -> Path | None:
    """The folder of the commit where all of its files are there; ``None`` where one is not."""
    record = _record(path, revision)
    if not record.exists():
        return None
    fields = json.loads(record.read_text())
    folder = record.parent / "snapshots" / fields["commit"]
    files: Mapping[str, int] = fields["files"]
    whole = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())
    return folder if whole else None


def _record(path: str, revision: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="dataset") / f"isoflop-{revision}.json"
