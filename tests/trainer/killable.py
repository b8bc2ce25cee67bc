"""A trial in a process of its own, to be killed.

``python -m tests.trainer.killable WORLD CHECKPOINTS SPEC PLACEMENT``
"""

from __future__ import annotations

import json
import sys

from trainer.loop import train
from trainer.result import CurvePoint
from trainer.trial import Placement, TrialFiles, TrialSpec


def report(point: CurvePoint) -> None:
    """Tell the parent that a step is done."""
    print(json.dumps({"step": point.step}), flush=True)


if __name__ == "__main__":
    world, checkpoints, spec, placement = sys.argv[1:]
    files = TrialFiles(tokens=f"{world}/tokens", model=f"{world}/model", checkpoints=checkpoints)
    result = train(TrialSpec.from_json(spec), Placement(**json.loads(placement)), files, report)
    assert result.metrics is not None
    ending = {"loss": result.metrics.loss, "steps": result.spending.steps, "num_resumes": result.num_resumes}
    print(json.dumps(ending), flush=True)
