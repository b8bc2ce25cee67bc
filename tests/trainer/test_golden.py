"""Golden losses: 20 steps of a two-layer model for each method, which no refactoring may move.

``python -m tests.trainer.test_golden`` writes them again, for a change that is meant to move them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.trainer.trials import METHODS, files, make_world, spec_of
from trainer.loop import train
from trainer.result import CurvePoint
from trainer.trial import Method, Placement, Stopped

GOLDEN = Path(__file__).parent / "golden.json"
NUM_STEPS = 20


def losses(method: Method, placement: Placement, world: Path, checkpoints: Path) -> list[float]:
    """Training losses of the first steps."""
    found: list[float] = []

    def report(point: CurvePoint) -> None:
        found.append(point.train_loss)
        if point.step == NUM_STEPS:
            raise Stopped

    with pytest.raises(Stopped):
        train(spec_of(method), placement, files(world, checkpoints), report)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_the_losses_are_those_of_the_day_they_were_written(method: Method, world: Path, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[method.label]
    # In float64 a processor's way of adding does not show.
    exact = Placement(dtype="float64")
    assert losses(method, exact, world, tmp_path / "64") == pytest.approx(golden, rel=1e-9)
    assert losses(method, Placement(), world, tmp_path / "32") == pytest.approx(golden, rel=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        world_ = make_world(Path(scratch) / "world")
        written = {m.label: losses(m, Placement(dtype="float64"), world_, Path(scratch) / m.label) for m in METHODS}
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
