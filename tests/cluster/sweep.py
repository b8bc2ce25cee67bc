"""A small sweep on the real Ray, search and store, with the stand-in trainer of ``tests/cluster/fake.py``.

``python -m tests.cluster.sweep STORE WORLD SPEC [ADDRESS]`` drives it in a process of its own, to be killed, on a Ray
of its own or on the one at ADDRESS: it prints the number of rows as it goes, and a last line with the outcome.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cluster.driver import announce, driving
from cluster.local import local_ray
from cluster.progress import SweepProgress
from sweeps.agenda import Agenda
from sweeps.plan import DataFacts, Study, plan, studies
from sweeps.reading import read_spec
from sweeps.search import Finished
from sweeps.spec import SweepSpec
from sweeps.store import Store
from tests.cluster.fake import law, train
from trainer.data import DataManifest, DataSource, SideStatistics, TokenStatistics
from trainer.ladder import SHAPES
from trainer.prepare import Prepared, PreparedModel
from trainer.result import TrialState
from trainer.trial import Placement, TrialFiles

if TYPE_CHECKING:
    from cluster.tune import Outcome

SPEC = """
name: fake
data: nano
models: [nano-1k]
methods: [full, bias]
budgets_flops: [1e9, 4e9]
trials: 3
fixed: {batch_size: 8}
search: {learning_rate: {low: 1e-4, high: 1e-1}}
limits: {min_steps: 0, max_epochs: 1e9}
"""
NUM_TRIALS = 12


def prepared_for(spec: SweepSpec, world: Path) -> Prepared:
    """What the stand-in needs: the models' shapes, and its world in place of token files."""
    side = SideStatistics(mean=25.0, percentiles={}, histogram={}, mean_at_max_length=25.0, truncated_share=0.0)
    return Prepared(
        manifest=DataManifest(
            source=DataSource(source="nano"),
            fingerprint="f",
            num_pairs={"train": 10**9, "validation": 1, "test": 1},
            dropped={},
            split_rule="none",
            content={},
        ),
        statistics=TokenStatistics(max_length=32, query=side, positive=side),
        models={
            name: PreparedModel(name=name, path=name, revision="r", shape=SHAPES[name], tokens=str(world))
            for name in spec.models
        },
    )


def studies_of(spec: SweepSpec) -> tuple[Study, ...]:
    facts = DataFacts(num_train_pairs=10**9, tokens_per_pair=50.0, measured=True)
    revisions = dict.fromkeys(spec.models, "r")
    data = prepared_for(spec, Path()).manifest.hash
    return studies(spec, plan(spec, facts, SHAPES), data=data, revisions=revisions, shapes=SHAPES)


def expected_rows(text: str = SPEC) -> pd.DataFrame:
    """What the sweep must find: the search replayed without Ray, with the law in place of training."""
    agenda = Agenda(studies_of(read_spec(text)))
    rows = []
    while ready := next(agenda.ready(), None):
        trial = agenda.trial(*ready)
        agenda.tell(Finished(spec=trial, state=TrialState.COMPLETE, loss=law(trial)))
        rows.append(
            {
                "trial_id": trial.trial_id,
                "budget_flops": trial.budget_flops,
                "number": trial.number,
                "state": "COMPLETE",
                "learning_rate": trial.hyperparameters.learning_rate,
                "temperature": trial.hyperparameters.temperature,
                "weight_decay": trial.hyperparameters.weight_decay,
                "loss": law(trial),
            }
        )
    return pd.DataFrame(rows).sort_values("trial_id", ignore_index=True)


def filled_store(root: Path, world: Path, text: str = SPEC) -> Store:
    """The store that the sweep leaves behind, made without Ray."""
    spec = read_spec(text)
    store = Store.create(root, spec, prepared_for(spec, world).to_json())
    agenda = Agenda(studies_of(spec))
    while ready := next(agenda.ready(), None):
        trial = agenda.trial(*ready)
        files = TrialFiles(tokens=str(world), model=trial.model, checkpoints=str(store.checkpoints(trial.trial_id)))
        result = train(trial, Placement(), files, lambda _: None)
        store.record(result)
        store.remove_checkpoints(trial.trial_id)
        agenda.tell(Finished(spec=trial, state=result.state, loss=law(trial)))
    return store


def same_rows(rows: pd.DataFrame, text: str = SPEC) -> None:
    """Fail unless the rows are those that an undisturbed sweep has."""
    expected = expected_rows(text)
    pd.testing.assert_frame_equal(rows[expected.columns], expected, check_dtype=False, check_exact=True)


def make_world(folder: Path, *, seconds: float, faults: dict[str, str] | None = None, row_seconds: float = 1.0) -> Path:
    """A world for the stand-in: seconds a step, those that each row says, and faults by ``method/number``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seconds": seconds, "faults": faults or {}, "row_seconds": row_seconds}
    (folder / "faults.json").write_text(json.dumps(settings))
    return folder


def drive(
    root: Path | str, world: Path, text: str = SPEC, on_progress: Callable[[SweepProgress], None] = lambda _: None
) -> Outcome:
    """Run the sweep on the Ray that is up."""
    from cluster.tune import run

    spec = read_spec(text)
    prepared = prepared_for(spec, world)
    store = Store.create(root, spec, prepared.to_json())
    return run(studies_of(spec), prepared, store, spec.resources, on_progress, train="tests.cluster.fake:train")


def main() -> None:
    root, world, text = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    spec = read_spec(text)
    Store.create(root, spec, prepared_for(spec, world).to_json())
    with driving(root), _own_ray(root) if len(sys.argv) == 4 else _joined_ray(sys.argv[4]):
        outcome = drive(root, world, text, on_progress=lambda progress: print(progress.num_rows, flush=True))
    states = {state.value: number for state, number in outcome.progress.states.items()}
    print(json.dumps({"states": states, "stopped_by": outcome.stopped_by and outcome.stopped_by.name}), flush=True)


@contextmanager
def _own_ray(root: Path) -> Iterator[None]:
    with local_ray(Path(tempfile.gettempdir()) / "isoflop-tests") as ray:
        announce(root, ray.dashboard)
        yield


@contextmanager
def _joined_ray(address: str) -> Iterator[None]:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


if __name__ == "__main__":
    main()
