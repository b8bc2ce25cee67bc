"""The record beside trained weights: whose they are, and what tells them from all others.

Knows the text of the record alone, so that asking which weights a store keeps loads no torch. Never knows tensors.
"""

from __future__ import annotations

import hashlib
import json

RECORD = "trained.json"
"""Its file's name, in the folder of the weights."""


def trained_record(trial: str, sha256: str) -> str:
    """The record of a trial's canonical JSON and the hash of the file of its weights."""
    return json.dumps({"trial": trial, "sha256": sha256})


def weights_hash(record: str) -> str:
    """40 hex digits over a trial's spec, which names its base model's revision, and its weights."""
    fields = json.loads(record)
    return hashlib.sha256(f"{fields['trial']}\n{fields['sha256']}".encode()).hexdigest()[:40]
