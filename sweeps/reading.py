"""A person's YAML to a sweep's frozen spec: from a file, a preset by name, or a text.

Knows where a text comes from, what a spec leaves out (the paper's search space), and which of its fields go together.
Never knows what the fields may be (``sweeps/border.py``) or what any of it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from analysis.expectation import ExpectedLoss
from sweeps import border, yaml12
from sweeps.data import data_spec
from sweeps.overrides import overridden
from sweeps.sentences import nearest
from sweeps.space import Choices, Fixed, Range, Searched, Space, Unit, Value
from sweeps.space_fields import DimensionFields, LearningRateFields, SpaceFields
from sweeps.spec import (
    Allocation,
    FixedHyperparameters,
    Limits,
    MethodSpec,
    Pruning,
    Resources,
    Search,
    SweepSpec,
)
from trainer.ladder import LADDERS
from trainer.trial import Evaluation, method_from

# A tenth of the pre-training rate, a temperature of 1/40 and a weight decay of 0.1: the paper's values (appendix E).
PAPER_SPACE = Space(
    learning_rate=Range(low=0.02, high=0.5, start=0.1, of="pretraining"),
    temperature=Fixed(value=0.025),
    weight_decay=Fixed(value=0.1),
)


def preset_names() -> tuple[str, ...]:
    """The specs that come with isoflop; each can be given by name where a file is asked for."""
    folder = resources.files("sweeps.presets")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def read_spec(source: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec in a YAML text (it has a line break), in a preset by name, or in a file by path.

    ``overrides`` change its fields, as ``search.lag=1`` (``sweeps/overrides.py``).
    Raises ``ValueError`` with one sentence that names the field, its value and the mend.
    """
    text, where = _text_of(source)
    return _spec(border.checked(overridden(yaml12.load(text, where), overrides), where), where)


def _resources(fields: border.ResourcesFields) -> Resources:
    given = fields.model_dump()
    return Resources(**{**given, "tracking": tuple(given["tracking"])})


def _text_of(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str):
        if "\n" in source:
            return source, "spec"
        if source in preset_names():
            return resources.files("sweeps.presets").joinpath(f"{source}.yaml").read_text(encoding="utf-8"), source
    path = Path(source).expanduser()
    try:
        return path.read_text(encoding="utf-8"), str(source)
    except (FileNotFoundError, NotADirectoryError) as error:
        names = preset_names()
        raise ValueError(
            f"spec {str(source)!r} is neither a file nor a preset: {nearest(str(source), names)}"
            f"give the path of a YAML file, or one of {', '.join(names)}"
        ) from error
    except IsADirectoryError as error:
        raise ValueError(f"spec {str(source)!r} is a folder: give the YAML file itself") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"spec {str(source)!r} is not UTF-8 text: save it as a text file") from error
    except OSError as error:
        raise ValueError(f"spec {str(source)!r} cannot be read ({error.strerror}): check its permissions") from error


def _spec(fields: border.SpecFields, where: str) -> SweepSpec:
    methods = tuple(_method_spec(entry, fields) for entry in fields.methods)
    for number, method in enumerate(methods):
        if others := set(method.models) - set(_members(fields.models)):
            raise ValueError(
                f"{where}: methods[{number}].models has {min(others)!r}, which is not among the sweep's models: "
                "add it there"
            )
    labels = [m.label for m in methods]
    for number, label in enumerate(labels):
        if labels.index(label) < number:
            raise ValueError(
                f"{where}: methods[{number}] is {label!r}, as methods[{labels.index(label)}] is: "
                "give each method once, or put the other setting into a sweep of its own"
            )
        if methods[number].smallest and [m.method.kind for m in methods].count(methods[number].method.kind) > 1:
            raise ValueError(
                f"{where}: methods[{number}] searches settings of {methods[number].method.kind!r}, and another of the "
                "methods is of this kind too: put one of the two into a sweep of its own"
            )
    return SweepSpec(
        name=fields.name,
        data=data_spec(fields.data),
        models=_members(fields.models),
        methods=methods,
        budgets_flops=tuple(fields.budgets_flops),
        fixed=FixedHyperparameters(**fields.fixed.model_dump()),
        evaluation=Evaluation(**fields.evaluation.model_dump(exclude={"tasks"})),
        limits=Limits(**fields.limits.model_dump()),
        search=Search(
            sampler=fields.search.sampler,
            lag=fields.search.lag,
            startup=fields.search.startup,
            warm_start=fields.search.warm_start,
            pruning=Pruning(shares=tuple(cut.shares), min_rows=cut.min_rows)
            if (cut := fields.search.pruning)
            else None,
        ),
        allocation=Allocation(**fields.allocation.model_dump()),
        resources=_resources(fields.resources),
        seed=fields.seed,
        seeds=fields.seeds,
        tasks=tuple(fields.evaluation.tasks),
        expected=ExpectedLoss(**fields.expected.model_dump()) if fields.expected else None,
    )


def _members(names: Sequence[str]) -> tuple[str, ...]:
    """The models of these names, ladders by all their members."""
    ladders = [[s.name for s in LADDERS[name]] if name in LADDERS else [name] for name in names]
    return tuple(name for ladder in ladders for name in ladder)


def _method_spec(entry: Any, fields: border.SpecFields) -> MethodSpec:
    [kind] = [name for name in entry.model_fields_set if name not in ("models", "search", "trials")]
    space = _space(PAPER_SPACE, fields.search)
    if entry.search:
        space = _space(space, entry.search)
    given = dict(getattr(entry, kind))
    searched = {name: value for name, value in given.items() if isinstance(value, (list, DimensionFields))}
    settings: dict[str, Any] = {name: _dimension(name, value) for name, value in searched.items()}
    smallest, largest = (method_from(kind, **border.ends(given, pick)) for pick in (min, max))
    return MethodSpec(
        method=largest,
        models=_members(entry.models or fields.models),
        space=replace(space, **settings),
        num_trials=entry.trials or fields.trials,
        smallest=smallest if searched else None,
    )


def _space(base: Space, own: SpaceFields) -> Space:
    given = {name: getattr(own, name) for name in SpaceFields.model_fields}
    dimensions: dict[str, Any] = {name: _dimension(name, d) for name, d in given.items() if d is not None}
    return replace(base, **dimensions)


def _dimension(name: str, fields: DimensionFields | list[Value]) -> Fixed | Searched:
    if isinstance(fields, list):
        return Choices(values=tuple(fields))
    of: Unit = fields.of if isinstance(fields, LearningRateFields) else "absolute"
    if fields.value is not None:
        return Fixed(value=fields.value, of=of)
    assert fields.low is not None and fields.high is not None
    return Range(low=fields.low, high=fields.high, log=fields.log, start=fields.start, of=of, whole=name == "rank")
