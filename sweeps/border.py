"""The border where a person's YAML comes in: every field checked, every mistake one sentence that says how to mend it.

Knows the fields of a spec as people write them (pydantic), which values they take, and the names of ladders, methods
and samplers. Never knows what is done with them: ``sweeps/reading.py`` turns the checked fields into frozen values.
"""

from __future__ import annotations

import math
import string
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields as dataclass_fields
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    create_model,
)
from pydantic import model_validator as check

from sweeps.data import DataFields
from sweeps.fields import Count, Fields, Positive, Whole, whole
from sweeps.sentences import format_number, nearest, sentence, shown
from sweeps.space_fields import DimensionFields, Share, SpaceFields, searchable
from trainer.ladder import LADDERS, SHAPES
from trainer.trial import METHODS, Pooling, method_from

LARGEST_BUDGET = 10**30
LARGEST_SEED = 2**63 - 1
_NAME_CHARACTERS = string.ascii_letters + string.digits + "._-"


def _as_column(budget: int) -> int:
    """The nearest budget that a float64 column of the store holds exactly."""
    return int(float(budget))


def _name(value: str) -> str:
    if not value or value.startswith(".") or len(value) > 100 or any(c not in _NAME_CHARACTERS for c in value):
        raise ValueError(
            f"is {value!r}: use 1 to 100 letters, digits, '.', '_' and '-', without a leading '.', "
            "since a folder gets this name"
        )
    return value


def full_model_name(name: str) -> str:
    """A ladder's name, a Hub id or a folder as it is, and a ladder member by its full name (``pythia-14m`` is enough).

    Raises ``ValueError`` for a bare word that no ladder knows.
    """
    if name in LADDERS or name in SHAPES:
        return name
    short = {member.rsplit("/", 1)[-1]: member for member in SHAPES}
    if name in short:
        return short[name]
    if "/" in name or name.startswith((".", "~")):
        return name
    raise ValueError(
        f"is {name!r}, which no ladder has: {nearest(name, [*LADDERS, *short])}choose a ladder ({', '.join(LADDERS)}), "
        f"a member ({', '.join(short)}), a Hub id as org/name, or a folder as ./name"
    )


def _no_twins(values: list[str]) -> list[str]:
    members = [m for value in values for m in ([s.name for s in LADDERS[value]] if value in LADDERS else [value])]
    for member in members:
        if members.count(member) > 1:
            raise ValueError(f"has {member!r} twice: give each model once")
    return values


def _no_equal_budgets(values: list[int]) -> list[int]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"has {format_number(value)} twice: give each budget once")
    return values


def _word_to_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class PruningFields(Fields):
    """Where in a trial's budget it is compared with those before it."""

    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1), AfterValidator(sorted)] = Field(
        default=[0.25, 0.5]
    )
    min_rows: Annotated[Whole, Field(ge=2)] = 4


class SearchFields(SpaceFields):
    sampler: Literal["tpe", "random", "qmc", "grid", "cmaes", "gp"] = "tpe"
    lag: Count = 2
    startup: Count = 3
    warm_start: bool = False
    pruning: Annotated[PruningFields | None, BeforeValidator(lambda value: None if value == "off" else value)] = None


class AllocationFields(Fields):
    """Which cells of the grid are run."""

    kind: Literal["grid", "adaptive"] = "grid"
    drop_below: Share = 0.05
    stop_below: Annotated[float, Field(ge=0)] = 0.25


def _settings_of(kind: str) -> type[BaseModel]:
    """The fields of a method as its dataclass declares them, so that a new method needs nothing here."""
    cls = METHODS[kind]
    hints = typing.get_type_hints(cls)
    own = {f.name: Whole if hints[f.name] is int else hints[f.name] for f in dataclass_fields(cls)}
    kinds: dict[str, Any] = {
        name: (Annotated[number, searchable(number, or_held=True)], ...) for name, number in own.items()
    }
    return create_model(kind, __base__=Fields, **kinds)


def ends(settings: Mapping[str, Any], pick: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """A method's settings, of those that are searched the smallest or the largest (``pick`` is ``min`` or ``max``)."""
    whole_of = {
        name: [whole(value.low), whole(value.high)] if isinstance(value, DimensionFields) else value
        for name, value in settings.items()
    }
    return {name: pick(value) if isinstance(value, list) else value for name, value in whole_of.items()}


def _method_settings(kind: str) -> Any:
    def sound(settings: BaseModel) -> BaseModel:
        try:
            for pick in (min, max):
                method_from(kind, **ends(dict(settings), pick))
        except ValueError as error:
            raise ValueError(f"is not possible: {error}") from error
        return settings

    return Annotated[_settings_of(kind), AfterValidator(sound)] | None


Models = Annotated[
    list[Annotated[str, AfterValidator(full_model_name)]],
    BeforeValidator(_word_to_list),
    Field(min_length=1),
    AfterValidator(_no_twins),
]


class _MethodBase(Fields):
    models: Models | None = None
    search: SpaceFields | None = None
    trials: Count | None = None

    @check(mode="before")
    @classmethod
    def _word_or_mapping(cls, value: object) -> object:
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, dict):
            return value
        words = [key for key in value if key not in ("models", "search", "trials")]
        if len(words) != 1 or words[0] not in METHODS:
            given = ", ".join(map(str, words)) or "none"
            raise ValueError(
                f"is {given!r}: {nearest(given, METHODS)}name one method among {', '.join(METHODS)}, "
                "with its settings, such as 'full' or '{lora: {rank: 8, alpha: 8}}'"
            )
        # `full:` alone is a mapping to nothing.
        return {**value, words[0]: {} if value[words[0]] is None else value[words[0]]}


# One field for each method.
_METHOD_FIELDS: Any = {kind: (_method_settings(kind), None) for kind in METHODS}
MethodFields: Any = create_model("MethodFields", __base__=_MethodBase, **_METHOD_FIELDS)


class FixedFields(Fields):
    """The paper's values unless given: section 3 and its appendix on temperature and pooling."""

    batch_size: Annotated[Whole, Field(ge=2)] = 1024
    max_length: Annotated[Whole, Field(ge=2)] = 75
    warmup_fraction: Share = 0.1
    pooling: Pooling = "mean"
    gradient_clipping: Annotated[float, Field(ge=0)] = 0.0


class EvaluationFields(Fields):
    num_pairs: Annotated[Whole, Field(ge=2)] = 1024
    num_candidates: Annotated[Whole, Field(ge=2)] = 256
    tasks: Annotated[list[str], BeforeValidator(_word_to_list)] = Field(default=[])

    @check(mode="after")
    def _one_whole_set(self) -> EvaluationFields:
        if self.num_candidates > self.num_pairs:
            raise ValueError(
                f"has num_candidates {self.num_candidates} and only {self.num_pairs} pairs: "
                "give num_pairs of at least one candidate set"
            )
        return self


class LimitsFields(Fields):
    min_steps: Annotated[Whole, Field(ge=0)] = 50
    max_epochs: Positive = 8.0


def _auto_or(wanted: str, sound: Callable[[object], bool]) -> AfterValidator:
    """A check for ``auto`` or what ``sound`` accepts. One sentence for both; a union would have one for each."""

    def checked(value: object) -> object:
        value = whole(value)
        if value != "auto" and not sound(value):
            raise ValueError(f"is {shown(value)}: give auto, or {wanted}")
        return value

    return AfterValidator(checked)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_stage(value: object) -> bool:
    return value == "none" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3)


_AutoOrCount = Annotated[Any, _auto_or("a whole number from 1 up", _is_count)]
_AutoOrBool = Annotated[Any, _auto_or("true or false", lambda value: isinstance(value, bool))]
_AutoOrAmount = Annotated[Any, _auto_or("a number above 0", _is_positive)]
_AutoOrStage = Annotated[Any, _auto_or("the word none (plain torch), 0, 1, 2 or 3", _is_stage)]


class ResourcesFields(Fields):
    cpus_per_trial: Positive = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    num_threads: Count = 1
    workers_per_trial: _AutoOrCount = "auto"
    max_gpus_per_trial: _AutoOrCount = "auto"
    memory_gib_per_worker: _AutoOrAmount = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    tf32: bool = False
    zero_stage: _AutoOrStage = "auto"
    offload: _AutoOrBool = "auto"
    recompute: _AutoOrBool = "auto"
    chunk_tokens: _AutoOrCount = "auto"
    max_concurrent_trials: Count = 64
    reuse_actors: bool = True
    max_attempts: Count = 3
    keep_weights: Literal["none", "best", "all"] = "best"
    tracking: Annotated[list[Literal["wandb", "mlflow"]], BeforeValidator(_word_to_list)] = Field(default=[])

    @check(mode="after")
    def _possible_together(self) -> ResourcesFields:
        if self.gpus_per_trial > 1:
            raise ValueError(
                f"has gpus_per_trial {self.gpus_per_trial:g}: give up to 1, a worker's, and max_gpus_per_trial or "
                "workers_per_trial for trials on several GPUs"
            )
        if self.workers_per_trial not in ("auto", 1) and 0 < self.gpus_per_trial < 1:
            raise ValueError(
                f"has workers_per_trial {self.workers_per_trial} with gpus_per_trial {self.gpus_per_trial:g}: workers "
                "of one trial do not share a GPU, give gpus_per_trial 1"
            )
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ValueError("has zero_stage 0 with dtype bfloat16: give stage 1 or higher, or none for plain torch")
        if self.zero_stage not in ("auto", "none") and self.dtype == "float64":
            raise ValueError("has dtype float64 with a zero_stage: DeepSpeed has no float64, give zero_stage none")
        if self.offload is True and self.dtype == "float64":
            raise ValueError("has dtype float64 with offload: DeepSpeed has no float64, give offload false")
        if self.max_gpus_per_trial != "auto" and not self.gpus_per_trial:
            raise ValueError(
                f"has max_gpus_per_trial {self.max_gpus_per_trial} and gpus_per_trial 0: give gpus_per_trial 1, or "
                "leave max_gpus_per_trial out"
            )
        if self.max_gpus_per_trial != "auto" and self.workers_per_trial != "auto":
            raise ValueError(
                f"has max_gpus_per_trial {self.max_gpus_per_trial} beside workers_per_trial {self.workers_per_trial}, "
                "which decides it: give one of the two"
            )
        if self.offload is True and self.zero_stage in ("none", 0):
            raise ValueError(f"has offload with zero_stage {self.zero_stage}: give zero_stage 1, 2 or 3")
        return self


class ExpectedFields(Fields):
    """Written by a recommendation: what it foretold of the sweep's one cell."""

    loss: Positive
    low: float | None = None
    high: float | None = None
    noise_relative_sd: Positive
    extrapolation: Annotated[float, Field(ge=1)]
    sweep: Annotated[str, AfterValidator(_name)]
    stated_at: str


class SpecFields(Fields):
    name: Annotated[str, AfterValidator(_name)]
    data: Annotated[DataFields, BeforeValidator(lambda value: {"source": value} if isinstance(value, str) else value)]
    models: Models
    methods: Annotated[list[MethodFields], BeforeValidator(_word_to_list), Field(min_length=1)]
    budgets_flops: Annotated[
        list[Annotated[Whole, Field(ge=1, le=LARGEST_BUDGET), AfterValidator(_as_column)]],
        Field(min_length=1),
        AfterValidator(_no_equal_budgets),
    ]
    trials: Count = 3
    seeds: Count = 1
    allocation: Annotated[
        AllocationFields, BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value)
    ] = AllocationFields()
    seed: Annotated[Whole, Field(ge=0, le=LARGEST_SEED)] = 0
    search: SearchFields = SearchFields()
    fixed: FixedFields = FixedFields()
    evaluation: EvaluationFields = EvaluationFields()
    limits: LimitsFields = LimitsFields()
    resources: ResourcesFields = ResourcesFields()
    expected: ExpectedFields | None = None

    @check(mode="after")
    def _weights_to_evaluate(self) -> SpecFields:
        if self.evaluation.tasks and self.resources.keep_weights == "none":
            raise ValueError(
                f"has evaluation.tasks {', '.join(self.evaluation.tasks)} with resources.keep_weights none: there are "
                "no weights to evaluate then, give keep_weights best or all"
            )
        return self


def checked(fields: dict[str, Any], where: str) -> SpecFields:
    """The fields, each of the right type and in its range.

    Raises ``ValueError`` with one sentence: ``where``, the first field that is wrong, its value, the mend, and how many
    more are wrong.
    """
    try:
        return SpecFields.model_validate(fields)
    except ValidationError as error:
        problems = error.errors()
        more = len(problems) - 1
        also = f" ({more} more field{'s are' if more > 1 else ' is'} wrong)" if more else ""
        raise ValueError(f"{where}: {sentence(problems[0])}{also}") from None
