"""The search: which hyperparameters trial ``n`` of a study gets, as a pure function of the rows before it.

Knows Optuna's samplers and rebuilds a study in memory for each question, so that nothing but the rows is ever kept:
timing, concurrency and crashes cannot change what a sweep tries. The only file that knows Optuna; never knows Ray,
a file or the trainer.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from sweeps.plan import Cell, Study, study_key
from sweeps.spec import Fixed, Range
from trainer.trial import Hyperparameters, TrialSpec, TrialState

Point = dict[str, float]
"""The searched hyperparameters by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What the search needs to know of a row."""

    spec: TrialSpec
    state: TrialState
    loss: float | None


def suggest(study: Study, number: int, rows: Mapping[int, Finished]) -> Hyperparameters:
    """The hyperparameters of trial ``number``: the same whenever and wherever it is asked.

    ``rows`` holds the study's finished trials by number. Only 0 to ``number - lag`` are told with their outcome; the
    trials between those and ``number`` are told as running, whether or not they have finished. Trial 0 takes each
    range's ``start``, or its middle.
    """
    assert askable(study, number, rows), f"{study.key}: trial {number} is asked before the rows it needs exist"
    known = number - study.lag
    # Trials that may still run: what they were given is suggested again, from the rows that they were suggested from.
    points = {i: _point_of(study, rows[i].spec.hyperparameters) for i in range(known + 1)} if study.lag else {}
    for n in range(max(0, known + 1) if study.lag else number, number + 1):
        points[n] = _suggest_point(study, n, rows, points)
    values = {
        name: dimension.value if isinstance(dimension, Fixed) else points[number][name]
        for name, dimension in study.space.dimensions.items()
    }
    return study.fixed.with_searched(**values)


def askable(study: Study, number: int, rows: Collection[int]) -> bool:
    """Whether trial ``number`` may be suggested from these rows."""
    return study.lag == 0 or all(n in rows for n in range(number - study.lag + 1))


class Agenda:
    """What is left of a sweep: which trials may start now, in which order, given the rows so far.

    Holds nothing that the rows do not tell, so it is built anew at each launch.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        self._studies = {study.key: study for study in studies}
        self._rows: dict[str, dict[int, Finished]] = {study.key: {} for study in studies}
        numbers = [(study, n) for study in studies for n in range(study.num_trials)]
        # Cheapest budget first; within it every study's first trial before any second one, the longest first.
        self._order = sorted(numbers, key=lambda item: (item[0].cell.budget_flops, item[1], -item[0].steps))

    @property
    def remaining(self) -> tuple[tuple[Study, int], ...]:
        """The trials without a row, in the order in which they would start."""
        return tuple((study, n) for study, n in self._order if n not in self._rows[study.key])

    def tell(self, row: Finished) -> None:
        """Take note of a finished trial. Raises ``ValueError`` where it is none of this sweep's."""
        spec = row.spec
        key = study_key(Cell(budget_flops=spec.budget_flops, model=spec.model, method=spec.method))
        study = self._studies.get(key)
        if study is None or spec.number >= study.num_trials:
            raise ValueError(
                f"trial {spec.trial_id} is not part of the plan any more: the data or the limits have changed since it "
                "ran, so give the sweep another name or another --store"
            )
        for what, then, now in (("data", spec.data, study.data), ("weights", spec.revision, study.revision)):
            if then != now:
                raise ValueError(
                    f"trial {spec.trial_id} was trained with {what} {then}, and the {what} are {now} now: "
                    "give the sweep another name or another --store, or bring the earlier ones back"
                )
        self._rows[key][spec.number] = row

    def ready(self, running: Collection[tuple[str, int]] = ()) -> Iterator[tuple[Study, int]]:
        """The trials that may start now, best first. ``running`` holds (study key, number) of those that have."""
        for study, n in self._order:
            rows = self._rows[study.key]
            if n not in rows and (study.key, n) not in running and askable(study, n, rows):
                yield study, n

    def trial(self, study: Study, number: int) -> TrialSpec:
        """The trial to run: what is suggested for this number."""
        return study.trial(number, suggest(study, number, self._rows[study.key]))


def _suggest_point(study: Study, number: int, rows: Mapping[int, Finished], points: Mapping[int, Point]) -> Point:
    searched = study.space.searched
    if not searched:
        return {}
    if number == 0:
        return {name: _middle(r) if r.start is None else r.start for name, r in searched.items()}
    seed = _seed(study, number)
    match study.sampler:
        case "tpe":
            point = _ask_tpe(study, number, seed, rows, points)
        case "random":
            draw = random.Random(seed)
            point = {name: _at(r, draw.random()) for name, r in searched.items()}
        case "qmc":
            # A Halton sequence, shifted as a whole by the study's own seed.
            shift = random.Random(_seed(study, 0))
            point = {
                name: _at(r, (_radical_inverse(number, base) + shift.random()) % 1)
                for (name, r), base in zip(searched.items(), (2, 3, 5), strict=False)
            }
    return {name: _rounded(point[name], r) for name, r in searched.items()}


def _ask_tpe(study: Study, number: int, seed: int, rows: Mapping[int, Finished], points: Mapping[int, Point]) -> Point:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(r.low, r.high, log=r.log)
        for name, r in study.space.searched.items()
    }
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=study.startup, multivariate=True, constant_liar=True
    )
    rebuilt = optuna.create_study(direction="minimize", sampler=sampler)
    states = {
        TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
        TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
        # TPE counts a pruned trial among the bad ones and forgets a failed one. Divergence says that these
        # hyperparameters are bad; told as failures, half of the trials beside a cliff went over it.
        TrialState.DIVERGED: optuna.trial.TrialState.PRUNED,
        TrialState.FAILED: optuna.trial.TrialState.FAIL,
    }
    for n in range(number):
        finished = n <= number - study.lag
        state = states[rows[n].state] if finished else optuna.trial.TrialState.RUNNING
        rebuilt.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=points[n],
                distributions=space,
                value=rows[n].loss if state == optuna.trial.TrialState.COMPLETE else None,
            )
        )
    params = rebuilt.ask(fixed_distributions=space).params
    return {name: float(params[name]) for name in space}


def _seed(study: Study, number: int) -> int:
    """32 bits of a hash that is the same in every process (Python's own is salted)."""
    text = json.dumps([study.seed, study.key, number])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _point_of(study: Study, hyperparameters: Hyperparameters) -> Point:
    values = asdict(hyperparameters)
    return {name: values[name] for name in study.space.searched}


def _middle(r: Range) -> float:
    return _rounded(_at(r, 0.5), r)


def _at(r: Range, share: float) -> float:
    """The value at a share of the range, on its scale."""
    if r.log:
        return math.exp(math.log(r.low) + share * (math.log(r.high) - math.log(r.low)))
    return r.low + share * (r.high - r.low)


def _rounded(value: float, r: Range) -> float:
    """Four digits: they read well, and the last bits of one machine's logarithm do not rename a trial on another."""
    return min(max(float(f"{value:.3e}"), r.low), r.high)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of ``number`` mirrored at the point (van der Corput)."""
    inverse, share = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        share /= base
        inverse += digit * share
    return inverse
