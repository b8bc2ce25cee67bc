"""A trial in a process of its own, to be killed: ``python -m tests.trainer.killable WORLD CHECKPOINTS SPEC``."""

from __future__ import annotations

import json
import sys

from trainer.loop import train
from trainer.trial import CurvePoint, Placement, TrialFiles, TrialSpec


def report(point: CurvePoint) -> None:
    """Tell the parent that a step is done."""
    print(json.dumps({"step": point.step}), flush=True)


if __name__ == "__main__":
    world, checkpoints, spec = sys.argv[1:]
    files = TrialFiles(tokens=f"{world}/tokens", model=f"{world}/model", checkpoints=checkpoints)
    result = train(TrialSpec.from_json(spec), Placement(checkpoint_seconds=0), files, report)
    assert result.metrics is not None
    print(json.dumps({"loss": result.metrics.loss, "steps": result.spending.steps}), flush=True)
