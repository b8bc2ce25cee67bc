"""What a sweep is: the frozen values behind a person's YAML.

Knows models, methods, budgets, the search space, what is held fixed, and how a spec is written and compared.
Never knows what any of it costs (``sweeps/plan.py``), nor torch, Ray or Optuna.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from analysis.expectation import ExpectedLoss
from sweeps import yaml12
from sweeps.data import DataSpec
from sweeps.space import Space, Value, dimension_fields
from sweeps.space_fields import SpaceFields
from trainer.trial import Dtype, Evaluation, Hyperparameters, Method, Pooling

Sampler = Literal["tpe", "random", "qmc", "grid", "cmaes", "gp"]
Auto = Literal["auto"]
"""The placement decides."""
TrackerName = Literal["wandb", "mlflow"]
KeepWeights = Literal["none", "best", "all"]
"""``best``: of the complete trials so far, the one of least loss at each budget and method, over all models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """A method, what is searched for it, and how often in each study."""

    method: Method
    """Where studies search settings of it: with the largest of each."""
    models: tuple[str, ...]
    """Among the sweep's: a method may be asked of some of them only."""
    space: Space
    """With the method's settings that are searched."""
    num_trials: int
    smallest: Method | None = None
    """Where studies search settings of the method: with the smallest of each."""

    @property
    def label(self) -> str:
        return label_of(self.method, self.smallest)

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings, each a number or what it is searched over, as a spec writes them."""
        searched = self.space.searched
        return {
            name: dimension_fields(name, searched[name]) if name in searched else value
            for name, value in asdict(self.method).items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedHyperparameters:
    """What a sweep holds fixed, named as in ``Hyperparameters``."""

    batch_size: int
    max_length: int
    warmup_fraction: float
    pooling: Pooling
    gradient_clipping: float

    def with_searched(self, **values: Value) -> Hyperparameters:
        """``values`` has the other hyperparameters, and those of the held ones that are searched after all."""
        together: dict[str, Any] = {**asdict(self), **values}
        return Hyperparameters(**together)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Which cells are worth running."""

    min_steps: int
    """Fewer steps teach nothing: the warm-up alone eats them."""
    max_epochs: float
    """More repeats of the data bend the profile's small-model arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruning:
    """When a trial is ended that does worse than the trials of its study before it."""

    shares: tuple[float, ...]
    """Of the budget, rising: where the held-out loss is compared with theirs at the same share."""
    min_rows: int
    """Trials that must have got there before one is ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How hyperparameters are suggested."""

    sampler: Sampler
    lag: int
    """Trials of one study that may run at a time: trial n is suggested from the rows 0 to n - lag."""
    startup: int
    """Finished trials before the sampler models them; random until then."""
    warm_start: bool
    """Whether a study starts from, and searches around, what smaller budgets found for its method."""
    pruning: Pruning | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """Which of the planned cells are run."""

    kind: Literal["grid", "adaptive"]
    """``grid``: all. ``adaptive``: those around each method's optimum, as the rows of smaller budgets foretell it."""
    drop_below: float
    """A method goes on with one cell a budget where the probability that it is the best one is less than this."""
    stop_below: float
    """A study ends where more trials are expected to gain less than this times the noise between seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What the machines give. Never part of a trial's identity, so it may change from one launch to the next."""

    cpus_per_trial: float
    """Of each worker, where a trial has several; so, too, ``gpus_per_trial`` and ``num_threads``."""
    gpus_per_trial: float
    """Up to 1: a share of a GPU, or a whole one."""
    num_threads: int
    workers_per_trial: int | Auto
    """Processes that share each step of a trial: on one machine where one has room for all, else on several."""
    max_gpus_per_trial: int | Auto
    """The most that a trial takes which does not fit one GPU; where ``auto``, those of one machine, then of several."""
    memory_gib_per_worker: float | Auto
    """Of a worker's GPU, or of its machine where it has none."""
    dtype: Dtype | Auto
    tf32: bool
    zero_stage: int | Literal["none"] | Auto
    """``none`` is plain torch."""
    offload: bool | Auto
    recompute: bool | Auto
    chunk_tokens: int | Auto
    max_concurrent_trials: int
    reuse_actors: bool
    max_attempts: int
    """Errors of a trial's own code until it is recorded as FAILED."""
    keep_weights: KeepWeights
    """Which trained weights stay in the store. Room on a disk: it changes nothing that is tried or measured."""
    tracking: tuple[TrackerName, ...] = ()
    """Tools that get the curves beside TensorBoard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpec:
    """Everything one sweep asks for, with ladders and per-method spaces expanded."""

    name: str
    data: DataSpec
    models: tuple[str, ...]
    methods: tuple[MethodSpec, ...]
    budgets_flops: tuple[int, ...]
    fixed: FixedHyperparameters
    evaluation: Evaluation
    limits: Limits
    search: Search
    allocation: Allocation
    resources: Resources
    seed: int
    seeds: int
    """Trainings of each study's best hyperparameters, each with another seed."""
    tasks: tuple[str, ...] = ()
    """Tasks that kept weights are evaluated on at the end (``evaluation.tasks``). They decide nothing that is tried."""
    expected: ExpectedLoss | None = None
    """What was foretold of a sweep that a recommendation wrote. It changes nothing that is tried or measured."""

    @property
    def hash(self) -> str:
        """16 hex digits over what decides what is tried and measured; not ``resources``, ``tasks``, ``expected``."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """The spec's fields as plain values, without ``resources``, ``tasks`` and ``expected``."""
        fields = self._fields()
        fields["evaluation"].pop("tasks", None)
        return {name: value for name, value in fields.items() if name not in ("resources", "expected")}

    def to_yaml(self) -> str:
        """The spec in full, one way of writing it: ``read_spec`` reads it back as an equal spec."""
        return yaml12.dump(self._fields())

    def _fields(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["data"] = self.data.fields
        if tasks := fields.pop("tasks"):
            fields["evaluation"]["tasks"] = list(tasks)
        fields["models"] = list(self.models)
        fields["resources"]["tracking"] = list(self.resources.tracking)
        fields["budgets_flops"] = list(self.budgets_flops)
        fields["methods"] = [
            {
                m.method.kind: m.settings,
                "models": list(m.models),
                "search": _space_fields(m.space),
                "trials": m.num_trials,
            }
            for m in self.methods
        ]
        if self.search.pruning is None:
            del fields["search"]["pruning"]
        else:
            fields["search"]["pruning"]["shares"] = list(self.search.pruning.shares)
        if self.expected is None:
            del fields["expected"]
        return fields


def label_of(method: Method, smallest: Method | None) -> str:
    """A method's label; its kind where studies search what the label says, such as LoRA's rank."""
    return method.label if smallest is None or smallest.label == method.label else method.kind


def first_difference(ours: object, theirs: object, path: str = "") -> tuple[str, object, object] | None:
    """The first field in which two ``identity()`` values differ: its path and both values; ``None`` where equal."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            inner = f"{path}.{key}" if path else str(key)
            if difference := first_difference(ours.get(key), theirs.get(key), inner):
                return difference
        return None
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next((d for i, (a, b) in pairs if (d := first_difference(a, b, f"{path}[{i}]"))), None)
    return None if ours == theirs else (path, ours, theirs)


def _space_fields(space: Space) -> dict[str, Any]:
    """Of the space what stands under ``search``: the method's own settings stand beside its name."""
    return {name: dimension_fields(name, d) for name, d in space.dimensions.items() if name in SpaceFields.model_fields}
