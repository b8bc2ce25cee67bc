"""What a trial comes to when it runs out of memory: a smaller placement, remembered for its next life.

Knows placements and a file beside a trial's checkpoints. Never knows how much memory there is, or a training step.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from trainer.trial import Hyperparameters, Placement

OUT_OF_MEMORY = "out-of-memory.json"


def with_less_memory(placement: Placement, hyperparameters: Hyperparameters) -> Placement | None:
    """Half the chunk, down to one text, and all but one chunk's activations computed again; ``None`` below that."""
    smallest = hyperparameters.max_length
    if placement.recompute and placement.chunk_tokens <= smallest:
        return None
    return replace(placement, recompute=True, chunk_tokens=max(placement.chunk_tokens // 2, smallest))


def remembered(asked: Placement, folder: Path) -> tuple[int, Placement]:
    """How often the trial has run out of memory in earlier lives, and what it came to where the same was asked."""
    path = folder / OUT_OF_MEMORY
    if not path.exists():
        return 0, asked
    noted = json.loads(path.read_text())
    return noted["times"], Placement(**noted["fits"]) if noted["asked"] == asdict(asked) else asked


def remember(asked: Placement, fits: Placement, times: int, folder: Path) -> None:
    """Keep what ``remembered`` gives, so that the next life does not begin by running out of memory again."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{OUT_OF_MEMORY}.{os.getpid()}"
    fresh.write_text(json.dumps({"times": times, "asked": asdict(asked), "fits": asdict(fits)}))
    fresh.replace(folder / OUT_OF_MEMORY)
