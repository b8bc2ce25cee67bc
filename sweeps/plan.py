"""The plan: every cell of the IsoFLOP grid with what it costs, what is left out and why, and the studies that follow.

Pure: a spec, the shapes of its models and two facts about the data in; frozen values out. Knows FLOPs per token from
``trainer/flops.py``. Never knows torch, Ray, Optuna, a file or a clock, so that planning is instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sweeps.sentences import format_number
from sweeps.space import Space, Value
from sweeps.spec import Allocation, FixedHyperparameters, MethodSpec, Pruning, Sampler, SweepSpec, label_of
from trainer.flops import booked_flops_per_token, num_tokens
from trainer.ladder import ModelShape, parameter_counts
from trainer.result import ParameterCounts
from trainer.trial import Check, Evaluation, Hyperparameters, Method, TrialSpec

LEARNING: tuple[Sampler, ...] = ("tpe", "cmaes", "gp")
"""Samplers whose suggestions depend on rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A point of the IsoFLOP grid."""

    budget_flops: int
    model: str
    method: Method
    """Where the cell's study searches settings of it: with the largest of each."""
    smallest: Method | None = None
    """Where the study searches settings of the method: with the smallest of each."""

    @property
    def label(self) -> str:
        """The method's, or its kind where the study searches what the method's label says."""
        return label_of(self.method, self.smallest)

    @property
    def words(self) -> str:
        """For a person: ``pythia-410m, lora-r128, 1.5e15 FLOPs``."""
        return f"{short_model(self.model)}, {self.label}, {_exact(self.budget_flops)} FLOPs"


class Cells:
    """Finds the cell that a trial belongs to."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells = {(cell.budget_flops, cell.model, cell.label): cell for cell in cells}

    def of(self, spec: TrialSpec) -> Cell | None:
        """``None`` where the trial is of none of them."""
        method = spec.method
        # A study that searches what the label says has the kind as its label, and is the only one of its kind.
        keys = [(spec.budget_flops, spec.model, label) for label in (method.label, method.kind)]
        return next((self._cells[key] for key in keys if key in self._cells), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What a plan needs to know of the data; a guess until the data are prepared."""

    num_train_pairs: int | None
    tokens_per_pair: float
    """Mean real tokens of a query, its positive and its hard negatives, each cut to ``max_length``."""
    measured: bool
    pairs_per_epoch: int | None = None
    """Pairs until one comes again, where that is less than all: sources are mixed by weight, and one is repeated
    sooner than the others.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """A cell that is run, and the estimate of one of its trials: the exact steps follow from the texts it meets."""

    cell: Cell
    num_trials: int
    flops_per_token: int
    """Booked (``trainer/flops.py``)."""
    tokens: int
    pairs: int
    steps: int
    epochs: float | None
    """Absent where the number of pairs is not known. Where settings of the method are searched, of the cheapest."""
    counts: ParameterCounts

    @property
    def flops(self) -> int:
        """Booked FLOPs of the cell's study."""
        return self.num_trials * self.cell.budget_flops


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A cell that is not run, and why, in words for a person."""

    cell: Cell
    reason: str
    pairs: int | None = None
    """Where the steps over them are too few."""
    epochs: float | None = None
    """Where they are too many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """What a group of cells asks for."""

    num_cells: int
    num_trials: int
    flops: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """``cells`` in the order in which they are run: cheapest budget first, within a budget the most steps first."""

    cells: tuple[PlannedCell, ...]
    left_out: tuple[LeftOut, ...]
    facts: DataFacts
    at_most: bool = False
    """Whether cells are allocated adaptively, so that the rows decide which of these are run."""
    decided: tuple[str, ...] = ()
    """What rows have decided of it so far, in a sentence or two."""

    @property
    def total(self) -> Total:
        return _total(self.cells)

    @property
    def budgets(self) -> dict[int, Total]:
        """The total of each budget that has cells, cheapest first."""
        budgets = dict.fromkeys(c.cell.budget_flops for c in self.cells)
        return {b: _total(tuple(c for c in self.cells if c.cell.budget_flops == b)) for b in budgets}

    def without(self, trials: Mapping[Cell, int]) -> Plan:
        """The plan with so many trials less in each cell, and without the cells that have none left."""
        fewer = [replace(c, num_trials=c.num_trials - trials.get(c.cell, 0)) for c in self.cells]
        return replace(self, cells=tuple(c for c in fewer if c.num_trials))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """The search inside one cell, with everything that a trial of it needs."""

    cell: Cell
    space: Space
    """With an absolute learning rate."""
    num_trials: int
    """At most: the repeats and, where cells are allocated adaptively, the last trials may not be asked for."""
    num_repeats: int
    """The last ones: the best of the others again, with other seeds."""
    sampler: Sampler
    lag: int
    """Trial n is suggested once the rows 0 to n - lag exist; 0 where suggestions do not depend on rows."""
    startup: int
    warm_start: bool
    pruning: Pruning | None
    allocation: Allocation
    """The same in all studies of a sweep."""
    num_params: int
    """Non-embedding parameters of the model: a profile's size axis."""
    steps: int
    """Estimated steps of one trial: the longest are started first."""
    fixed: FixedHyperparameters
    evaluation: Evaluation
    data: str
    revision: str
    seed: int

    @property
    def key(self) -> str:
        """Readable and unique in its sweep: ``1.13e11-nano-3k-lora-r4``."""
        return study_key(self.cell)

    @property
    def num_searched(self) -> int:
        """Trials that search, before the repeats; at most."""
        return self.num_trials - self.num_repeats

    def is_repeat(self, number: int) -> bool:
        return self.num_repeats > 0 and number >= self.num_searched

    @property
    def compared(self) -> tuple[Value, ...]:
        """The values of which each one's best trial is repeated: the poolings of a grid."""
        return _compared(self.space, self.sampler)

    def trial(
        self,
        number: int,
        hyperparameters: Hyperparameters,
        *,
        method: Method | None = None,
        checks: tuple[Check, ...] = (),
    ) -> TrialSpec:
        """The study's trial of this number. ``method`` where the study searches its settings.

        Trials that differ in what is searched share the sweep's seed, so that nothing else differs between them. A
        repeat, and each trial where nothing is searched, has a seed of its own.
        """
        repeat = 0
        if self.is_repeat(number):
            repeat = (number - self.num_searched) // max(1, len(self.compared)) + 1
        return TrialSpec(
            model=self.cell.model,
            revision=self.revision,
            method=method or self.cell.method,
            budget_flops=self.cell.budget_flops,
            hyperparameters=hyperparameters,
            evaluation=self.evaluation,
            data=self.data,
            seed=self.seed + (repeat if self.space.searched else number),
            number=number,
            checks=checks,
        )


def study_key(cell: Cell) -> str:
    """The key of a cell's study. The budget is written with all its digits, so that no two cells share a key."""
    return f"{_exact(cell.budget_flops)}-{cell.model}-{cell.label}"


def plan(spec: SweepSpec, facts: DataFacts, shapes: Mapping[str, ModelShape]) -> Plan:
    """Every cell of the spec, planned or left out.

    ``shapes`` holds the models whose shape is known. Raises ``ValueError`` where the spec gives the learning rate in
    units of a pre-training rate that a planned model does not have.
    """
    planned: list[PlannedCell] = []
    left_out: list[LeftOut] = []
    for budget in sorted(spec.budgets_flops):
        for model in spec.models:
            for method in spec.methods:
                if model not in method.models:
                    continue
                cell = Cell(budget_flops=budget, model=model, method=method.method, smallest=method.smallest)
                num_trials = method.num_trials + _num_repeats(spec, method)
                outcome = _plan_cell(cell, num_trials, spec, facts, shapes.get(model))
                if isinstance(outcome, LeftOut):
                    left_out.append(outcome)
                else:
                    method.space.resolve(shapes[model])
                    planned.append(outcome)
    planned.sort(key=lambda c: (c.cell.budget_flops, -c.steps))
    return Plan(cells=tuple(planned), left_out=tuple(left_out), facts=facts, at_most=spec.allocation.kind == "adaptive")


def studies(
    spec: SweepSpec, plan: Plan, *, data: str, revisions: Mapping[str, str], shapes: Mapping[str, ModelShape]
) -> tuple[Study, ...]:
    """One study for each planned cell, in the plan's order. ``data`` is the manifest's hash, ``revisions`` by model.

    Raises ``ValueError`` where the plan has left out every cell.
    """
    if not plan.cells:
        raise ValueError(
            f"sweep {spec.name!r} has no cell left to run: for one, {plan.left_out[0].reason}; "
            "give other budgets_flops or models, or widen limits"
        )
    by_label = {m.label: m for m in spec.methods}
    return tuple(
        Study(
            cell=planned.cell,
            space=(space := (method := by_label[planned.cell.label]).space.resolve(shapes[planned.cell.model])),
            num_trials=planned.num_trials,
            num_repeats=_num_repeats(spec, method),
            sampler=spec.search.sampler,
            lag=_lag(spec, space),
            startup=spec.search.startup,
            warm_start=spec.search.warm_start,
            pruning=spec.search.pruning,
            allocation=spec.allocation,
            num_params=planned.counts.non_embedding,
            steps=planned.steps,
            fixed=spec.fixed,
            evaluation=spec.evaluation,
            data=data,
            revision=revisions[planned.cell.model],
            seed=spec.seed,
        )
        for planned in plan.cells
    )


def _num_repeats(spec: SweepSpec, method: MethodSpec) -> int:
    return (spec.seeds - 1) * max(1, len(_compared(method.space, spec.search.sampler)))


def _compared(space: Space, sampler: Sampler) -> tuple[Value, ...]:
    return space.pooling.values if space.pooling is not None and sampler == "grid" else ()


def _lag(spec: SweepSpec, space: Space) -> int:
    if not space.searched:
        return 0
    # How many trials an adaptive sweep asks of a study, and how far a pruned one comes, depends on its rows.
    depends = spec.allocation.kind == "adaptive" or spec.search.pruning is not None
    return spec.search.lag if depends or spec.search.sampler in LEARNING else 0


def _plan_cell(
    cell: Cell, num_trials: int, spec: SweepSpec, facts: DataFacts, shape: ModelShape | None
) -> PlannedCell | LeftOut:
    if shape is None:
        return LeftOut(cell=cell, reason=f"the shape of {cell.model} is not known until the model is prepared")
    try:
        counts = parameter_counts(shape, cell.method)
    except ValueError as error:  # nothing to train
        return LeftOut(cell=cell, reason=str(error))
    tokens = num_tokens(cell.budget_flops, counts, cell.method)
    pairs = int(tokens / facts.tokens_per_pair)
    steps = pairs // spec.fixed.batch_size
    once = facts.pairs_per_epoch or facts.num_train_pairs
    most_tokens = tokens
    if cell.smallest is not None:
        most_tokens = num_tokens(cell.budget_flops, parameter_counts(shape, cell.smallest), cell.smallest)
    epochs = None if once is None else int(most_tokens / facts.tokens_per_pair) / once
    subject = f"{short_model(cell.model)} at {_exact(cell.budget_flops)} FLOPs"
    if steps < spec.limits.min_steps:
        words = f"{steps} step{'' if steps == 1 else 's'}"
        return LeftOut(cell=cell, reason=f"{subject} gets {words}, fewer than {spec.limits.min_steps}", pairs=pairs)
    if epochs is not None and epochs > spec.limits.max_epochs:
        most = format_number(spec.limits.max_epochs)
        reason = f"{subject} goes {epochs:.1f} times through the data, more than {most}"
        return LeftOut(cell=cell, reason=reason, epochs=epochs)
    return PlannedCell(
        cell=cell,
        num_trials=num_trials,
        flops_per_token=booked_flops_per_token(counts, cell.method),
        tokens=tokens,
        pairs=pairs,
        steps=steps,
        epochs=epochs,
        counts=counts,
    )


def _total(cells: tuple[PlannedCell, ...]) -> Total:
    return Total(num_cells=len(cells), num_trials=sum(c.num_trials for c in cells), flops=sum(c.flops for c in cells))


def short_model(model: str) -> str:
    """The last part of its name."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _exact(flops: int) -> str:
    """``113000000000`` as ``1.13e11``: every digit, without the zeros."""
    digits = str(flops)
    significant = digits.rstrip("0")
    mantissa = significant[0] + ("." + significant[1:] if len(significant) > 1 else "")
    return f"{mantissa}e{len(digits) - 1}"
