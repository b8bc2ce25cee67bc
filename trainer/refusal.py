"""Which errors are sentences for a person, and which are faults that show their traceback.

Knows this project's packages and where an exception was raised. Standard library only. Never knows what went wrong.
"""

from __future__ import annotations

from types import FrameType

_PACKAGES = ("commands", "isoflop", "__main__", "cluster", "sweeps", "analysis", "trainer")


def is_ours(error: ValueError) -> bool:
    """Whether our own code raised it, with a sentence that names a field, its value and the mend."""
    return _raised_in(error).f_globals["__name__"].partition(".")[0] in _PACKAGES


def is_of_a_new_folder(error: OSError) -> bool:
    """Whether it is of a folder that was to be made: the path came from a person, and nothing was to be read there."""
    return _raised_in(error).f_code.co_name == "mkdir"


def _raised_in(error: Exception) -> FrameType:
    traceback = error.__traceback__
    assert traceback is not None
    while traceback.tb_next:
        traceback = traceback.tb_next
    return traceback.tb_frame
