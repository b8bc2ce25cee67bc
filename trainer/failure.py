"""What a trial's worker says when it cannot go on, and which of several workers' failures explains the others.

Knows how an exception crosses processes. Loads torch only to speak of its memory. Never knows how workers are started.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.refusal import is_ours


class WorkerError(RuntimeError):
    """A worker died, or raised: the message has its rank and its traceback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What a worker says when it cannot go on; whoever started it says it of a worker that died."""

    rank: int
    text: str
    error: OSError | ValueError | None = None
    """The exception itself where its type tells the caller what to do."""
    out_of_memory: bool = False
    died: bool = False

    @property
    def exception(self) -> Exception:
        if self.error is not None:
            return self.error
        if self.out_of_memory:
            import torch

            return torch.OutOfMemoryError(f"worker {self.rank}: {self.text}")
        return WorkerError(f"worker {self.rank} {'died' if self.died else 'failed'}\n{self.text}")

    @classmethod
    def of(cls, error: Exception, rank: int) -> Failure:
        """What a worker that caught ``error`` has to say of it."""
        import torch

        told: OSError | ValueError | None = error if isinstance(error, OSError) else None
        if isinstance(error, ValueError) and is_ours(error):
            # A foreign ``ValueError`` is a fault, whose traceback must not be lost.
            told = error
        return cls(
            rank=rank,
            text="".join(traceback.format_exception(error)),
            error=told,
            out_of_memory=isinstance(error, torch.OutOfMemoryError),
        )


def cause(failures: Sequence[Failure]) -> Failure:
    """Of several workers' failures the one that explains the others, which may only have lost their connection."""
    return max(failures, key=lambda failure: (failure.error is not None, failure.out_of_memory, failure.died))
