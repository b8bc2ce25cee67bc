"""Writes how far a sweep is into its Ray job's metadata and message, where the dashboard and ``isoflop list`` show it.

Knows the record that Ray keeps of a job, which its own interface can read and not change (2.60). The rows are the
truth: nothing is decided from a note. Never knows what a driver does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from ray._private.ray_constants import KV_NAMESPACE_JOB
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY, JobInfoStorageClient
from ray.exceptions import RpcError
from ray.experimental import internal_kv

from cluster.progress import SweepProgress
from cluster.share import PROGRESS
from cluster.view import line

NOTE_SECONDS = 5.0


class JobNote:
    """Writes the note every few seconds, and at the end. A callable that takes the sweep's progress.

    Where this process is no job, nothing is written.
    """

    def __init__(self) -> None:
        job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")).get("metadata", {})
        name = job.get(JOB_ID_METADATA_KEY)
        self._key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=name).encode() if name else b""
        self._next = 0.0

    def __call__(self, progress: SweepProgress) -> None:
        is_done = progress.num_rows == progress.num_trials
        if self._key and (is_done or time.monotonic() >= self._next):
            self._next = time.monotonic() + NOTE_SECONDS
            # A head that is lost ends this process; one that is busy is told the next time.
            with contextlib.suppress(RpcError):
                self._write(line(progress))

    def _write(self, words: str) -> None:
        known = internal_kv._internal_kv_get(self._key, namespace=KV_NAMESPACE_JOB)
        record = json.loads(known) if known else {}
        # Ray writes the record when the job begins and, after this process, when it has ended.
        if record.get("status") == "RUNNING":
            record |= {"metadata": {**record["metadata"], PROGRESS: words}, "message": words}
            internal_kv._internal_kv_put(self._key, json.dumps(record).encode(), True, namespace=KV_NAMESPACE_JOB)
