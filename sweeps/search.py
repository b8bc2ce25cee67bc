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
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.plan import Study
from sweeps.points import Point, drawn, grid_mend, grid_point, grid_sides, radical_inverse, rounded, start_of
from sweeps.space import Choices, Fixed, Value
from trainer.result import TrialState
from trainer.trial import Hyperparameters, Method, TrialSpec

if TYPE_CHECKING:
    import optuna

ATTEMPTS = 8
"""Suggestions that repeat an earlier point of the study before chance takes over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What the search needs to know of a row."""

    spec: TrialSpec
    state: TrialState
    loss: float | None
    checked: Mapping[float, float] = field(default_factory=dict)
    """Held-out losses on the way, by share of the budget; a PRUNED trial ended at the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """What a trial is given."""

    hyperparameters: Hyperparameters
    method: Method


def suggest(study: Study, number: int, rows: Mapping[int, Finished]) -> Suggestion:
    """What trial ``number`` is given: the same whenever and wherever it is asked.

    ``rows`` holds the study's finished trials by number. Only 0 to ``number - lag`` are told with their outcome; the
    trials between those and ``number`` are told as running, whether or not they have finished. Trial 0 takes each
    range's ``start``, or its middle. A repeat takes what the best trial before the repeats was given; where poolings
    are compared, they take turns.
    """
    if study.is_repeat(number):
        best = _repeated(study, number, rows)
        return Suggestion(hyperparameters=best.spec.hyperparameters, method=best.spec.method)
    assert askable(study, number, rows), f"{study.key}: trial {number} is asked before the rows it needs exist"
    known = number - study.lag
    # Trials that may still run: what they were given is suggested again, from the rows that they were suggested from.
    points = {i: point_of(study, rows[i].spec) for i in range(known + 1)} if study.lag else {}
    for n in range(max(0, known + 1) if study.lag else number, number + 1):
        points[n] = _suggest_point(study, n, rows, points)
    values = {
        name: dimension.value if isinstance(dimension, Fixed) else points[number][name]
        for name, dimension in study.space.dimensions.items()
    }
    settings: dict[str, Any] = {f.name: values.pop(f.name) for f in fields(study.cell.method) if f.name in values}
    return Suggestion(
        hyperparameters=study.fixed.with_searched(**values), method=replace(study.cell.method, **settings)
    )


def askable(study: Study, number: int, rows: Collection[int]) -> bool:
    """Whether trial ``number``, which is no repeat, may be suggested from these rows."""
    return study.lag == 0 or all(n in rows for n in range(number - study.lag + 1))


def best_of(study: Study, rows: Mapping[int, Finished]) -> Finished | None:
    """The complete trial of least loss before the repeats, of equal ones the first; ``None`` where there is none."""
    losses = [
        (row.loss, n)
        for n, row in rows.items()
        if row.state is TrialState.COMPLETE and row.loss is not None and not study.is_repeat(n)
    ]
    return rows[min(losses)[1]] if losses else None


def _repeated(study: Study, number: int, rows: Mapping[int, Finished]) -> Finished:
    """The trial that a repeat repeats."""
    if compared := study.compared:
        turn = compared[(number - study.num_searched) % len(compared)]
        own = {n: row for n, row in rows.items() if row.spec.hyperparameters.pooling == turn}
        if (best := best_of(study, own)) is not None:
            return best
    best = best_of(study, rows)
    assert best is not None, f"{study.key}: nothing to repeat"
    return best


def point_of(study: Study, spec: TrialSpec) -> Point:
    """Of what a trial was given that which is searched."""
    return {name: value_of(spec, name) for name in study.space.searched}


def value_of(spec: TrialSpec, name: str) -> Value:
    """A hyperparameter of a trial, or a setting of its method."""
    value: Value = getattr(spec.method if name in {f.name for f in fields(spec.method)} else spec.hyperparameters, name)
    return value


def write_sqlite(path: Path, studies: Iterable[tuple[Study, Mapping[int, Finished]]]) -> None:
    """Write each study with its rows into a new SQLite file that Optuna's own tools open. A copy: nothing reads it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.DIVERGED: "PRUNED"}
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    for study, rows in studies:
        copy = optuna.create_study(storage=storage, study_name=study.key, direction="minimize")
        space = _distributions(study)
        for _, row in sorted(rows.items()):
            copy.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState[states.get(row.state, "FAIL")],
                    params=point_of(study, row.spec),
                    distributions=space,
                    value=row.loss,
                    intermediate_values=_intermediate(row),
                    user_attrs={"trial_id": row.spec.trial_id, "state": row.state.value, "seed": row.spec.seed},
                )
            )


def check_sampler(study: Study) -> None:
    """Raises ``ValueError`` where the study's sampler cannot search it, or needs a package that is not there."""
    num_searched, names = len(study.space.searched), ", ".join(study.space.searched)
    if num_searched == 0:
        return
    if (
        study.sampler == "grid"
        and math.prod(grid_sides(study.space.searched, study.num_searched).values()) != study.num_searched
    ):
        mend = grid_mend(study.space.searched, study.num_searched)
        raise ValueError(f"trials is {study.num_searched} with search.sampler grid over {names}: {mend}")
    if study.sampler == "cmaes" and num_searched < 2:
        raise ValueError(f"search.sampler is 'cmaes' over {names} alone: search two hyperparameters, or choose tpe")
    if study.sampler == "cmaes" and len(study.space.ranges) < num_searched:
        listed = next(name for name in study.space.searched if name not in study.space.ranges)
        raise ValueError(f"search.sampler is 'cmaes' with a list for {listed}: give a range, or choose tpe")
    packages = {"cmaes": "cmaes", "gp": "torch"}
    if (package := packages.get(study.sampler)) and find_spec(package) is None:
        raise ValueError(
            f"search.sampler is {study.sampler!r}, which needs the package {package}: install it, or choose tpe"
        )


def _suggest_point(study: Study, number: int, rows: Mapping[int, Finished], points: Mapping[int, Point]) -> Point:
    searched = study.space.searched
    if not searched:
        return {}
    if study.sampler == "grid":
        return grid_point(searched, study.num_searched, number)
    if number == 0:
        return start_of(searched)
    # A failed trial's point would fail again, and a finished one's tells nothing new: repeats are the spec's `seeds`.
    taken = list(points.values())
    for attempt in range(ATTEMPTS):
        point = _ask(study, number, attempt, rows, points)
        if point not in taken:
            return point
    draw = random.Random(_seed(study, number, ATTEMPTS))
    return {name: rounded(drawn(r, draw.random()), r) for name, r in searched.items()}


def _ask(study: Study, number: int, attempt: int, rows: Mapping[int, Finished], points: Mapping[int, Point]) -> Point:
    searched = study.space.searched
    seed = _seed(study, number, attempt)
    sampler = "random" if attempt and study.sampler in ("qmc", "cmaes") else study.sampler
    match sampler:
        case "tpe" | "gp":
            point = _ask_anew(study, number, seed, rows, points)
        case "cmaes":
            point = _ask_in_turn(study, number, rows)
        case "qmc":
            # A Halton sequence, shifted as a whole by the study's own seed.
            shift = random.Random(_seed(study, 0))
            point = {
                name: drawn(r, (radical_inverse(number, base) + shift.random()) % 1)
                for (name, r), base in zip(searched.items(), (2, 3, 5, 7, 11, 13, 17, 19), strict=False)
            }
        case _:
            draw = random.Random(seed)
            point = {name: drawn(r, draw.random()) for name, r in searched.items()}
    return {name: rounded(point[name], r) for name, r in searched.items()}


def _ask_anew(study: Study, number: int, seed: int, rows: Mapping[int, Finished], points: Mapping[int, Point]) -> Point:
    """From a sampler that needs to know the trials before, and not how they came about."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = _distributions(study)
    rebuilt = optuna.create_study(direction="minimize", sampler=_sampler(study, seed))
    for n in range(number):
        trial: dict[str, Any] = {"state": optuna.trial.TrialState.RUNNING}
        if n <= number - study.lag:
            trial = _told(study, rows, n, upto=number - study.lag)
        rebuilt.add_trial(optuna.trial.create_trial(params=points[n], distributions=space, **trial))
    params = rebuilt.ask(fixed_distributions=space).params
    return {name: params[name] for name in space}


def _ask_in_turn(study: Study, number: int, rows: Mapping[int, Finished]) -> Point:
    """From a sampler that keeps a state of its own: every trial is asked and told again, in the order of the lag."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = _distributions(study)
    rebuilt = optuna.create_study(direction="minimize", sampler=_sampler(study, _seed(study, 0)))
    rebuilt.enqueue_trial(start_of(study.space.searched))
    asked: list[optuna.Trial] = []
    for n in range(number + 1):
        if (known := n - study.lag) >= 0:
            told = _told(study, rows, known, upto=known)
            rebuilt.tell(asked[known], told.get("value"), told["state"])
        asked.append(rebuilt.ask(fixed_distributions=space))
    return {name: asked[number].params[name] for name in space}


def _sampler(study: Study, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    # Optuna calls the Gaussian process an experiment in a warning that nobody here can do anything about.
    if study.sampler == "gp":
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=study.startup)
    if study.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=study.startup, multivariate=True, constant_liar=True)


def _told(study: Study, rows: Mapping[int, Finished], number: int, upto: int) -> dict[str, Any]:
    """Optuna's state and value of a finished trial, from the rows 0 to ``upto``.

    A pruned trial is told with its losses on the way, and never with a value: TPE puts it behind every complete one,
    by how far it came, and the other samplers pass it over. TPE forgets a failed trial; one that diverged or failed
    says that its hyperparameters are bad, so it is told as pruned at the very start. (Told as failures, half of the
    trials beside a cliff went over it.) For the other samplers such a trial gets a loss beyond the worst one.
    """
    import optuna

    row = rows[number]
    if row.state is TrialState.COMPLETE:
        return {"state": optuna.trial.TrialState.COMPLETE, "value": row.loss}
    if row.state is TrialState.PRUNED:
        return {"state": optuna.trial.TrialState.PRUNED, "intermediate_values": _intermediate(row)}
    if study.sampler == "tpe":
        return {"state": optuna.trial.TrialState.PRUNED}
    losses = [loss for n in range(upto + 1) if (loss := rows[n].loss) is not None]
    chance = math.log(study.evaluation.num_candidates)
    beyond = 2 * max(losses) - min(losses) if losses else chance
    return {"state": optuna.trial.TrialState.COMPLETE, "value": beyond}


def _intermediate(row: Finished) -> dict[int, float]:
    """The losses on the way by percent of the budget, which is Optuna's step."""
    return {round(100 * share): loss for share, loss in row.checked.items()}


def _distributions(study: Study) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    return {
        name: optuna.distributions.CategoricalDistribution(d.values)
        if isinstance(d, Choices)
        else optuna.distributions.FloatDistribution(d.low, d.high, log=d.log)
        for name, d in study.space.searched.items()
    }


def _seed(study: Study, number: int, attempt: int = 0) -> int:
    """32 bits of a hash that is the same in every process (Python's own is salted)."""
    text = json.dumps([study.seed, study.key, number, *([attempt] if attempt else [])])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
