"""Reading a spec: what is understood, what is refused and in which words, and that nothing is lost on the way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sweeps import yaml12
from sweeps.reading import PAPER_SPACE, preset_names, read_spec
from sweeps.space import Fixed, Range
from sweeps.spec import first_difference
from tests.sweeps.examples import SPEC, edited
from trainer.ladder import LADDERS, SHAPES
from trainer.trial import Bias, Freeze, Full, Lora


def test_numbers_as_people_write_them() -> None:
    spec = read_spec(edited("[8e10, 4e10]", "[4e10, 1.13e11, 1.5E+15, 700]"))
    assert spec.budgets_flops == (40_000_000_000, 113_000_000_000, 1_500_000_000_000_000, 700)
    assert all(isinstance(budget, int) for budget in spec.budgets_flops)


def test_ladders_short_names_and_hub_ids() -> None:
    assert read_spec(edited("[nano-3k, nano-14k]", "nano")).models == tuple(s.name for s in LADDERS["nano"])
    models = read_spec(edited("[nano-3k, nano-14k]", "[pythia-14m, org/model, ./folder, nano-1k]")).models
    assert models == ("EleutherAI/pythia-14m", "org/model", "./folder", "nano-1k")


def test_methods_as_words_and_mappings_with_their_own_search() -> None:
    methods = read_spec(
        edited(
            "[full, {lora: {rank: 4, alpha: 8}}]",
            "[bias, {full: , trials: 7}, {freeze: {active_fraction: 0.5}, search: {weight_decay: 0}}, "
            "{lora: {rank: 4, alpha: 8}}]",
        )
    ).methods
    assert [m.method for m in methods] == [Bias(), Full(), Freeze(active_fraction=0.5), Lora(rank=4, alpha=8)]
    assert [m.num_trials for m in methods] == [3, 7, 3, 3]
    assert methods[2].space.weight_decay == Fixed(value=0)
    assert methods[2].space.learning_rate == methods[0].space.learning_rate


def test_what_is_not_given_is_the_papers() -> None:
    spec = read_spec("name: short\ndata: nano\nmodels: nano-1k\nmethods: full\nbudgets_flops: [4e10]\n")
    fixed = spec.fixed
    assert (fixed.batch_size, fixed.max_length, fixed.warmup_fraction, fixed.pooling) == (1024, 75, 0.1, "mean")
    assert spec.methods[0].space == PAPER_SPACE
    assert 1 / PAPER_SPACE.temperature.value == 40


def test_learning_rate_in_units_of_the_pretraining_rate() -> None:
    space = read_spec(SPEC).methods[0].space
    assert space.resolve(SHAPES["nano-14k"]).learning_rate == Range(low=0.001, high=0.1, start=0.01)


@pytest.mark.parametrize("source", [*preset_names(), SPEC])
def test_round_trip(source: str) -> None:
    spec = read_spec(source)
    again = read_spec(spec.to_yaml())
    assert again == spec
    assert again.hash == spec.hash
    # Any YAML reader must see the same in it, PyYAML's own too.
    assert yaml.safe_load(spec.to_yaml()) == yaml12.load(spec.to_yaml(), "")


MIXED = """{sources: [{source: ./a.jsonl, weight: 3}, {source: org/set, name: pair, split: dev, weight: 1.0}],
  query_prefix: "query: ", num_negatives: 2}"""


def test_one_source_as_before_and_several_with_what_is_set_of_their_use() -> None:
    one = read_spec(SPEC)
    assert one.identity()["data"] == {"source": "nano", "name": "", "split": "train"}
    mixed = read_spec(edited("data: nano", f"data: {MIXED}"))
    assert [(o.source, o.name, o.split, o.weight) for o in mixed.data.sources] == [
        ("./a.jsonl", "", "train", 3),
        ("org/set", "pair", "dev", 1),
    ]
    assert (mixed.data.source, mixed.data.query_prefix, mixed.data.num_negatives) == ("", "query: ", 2)
    assert read_spec(mixed.to_yaml()) == mixed
    plain = read_spec(edited("data: nano", "data: {sources: [nano, {source: ./a.parquet}]}"))
    assert [o.weight for o in plain.data.sources] == [0, 0]
    assert read_spec(plain.to_yaml()) == plain
    assert len({one.hash, mixed.hash, plain.hash}) == 3
    assert first_difference(one.identity(), mixed.identity()) == ("data.source", "nano", None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
        | st.sampled_from(["4e10", "1e5", "yes", "null", "12:30", "0x1f", "-.5", "1_000", "~", ".inf", "on"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_yaml_brings_back_what_was_written(value: object) -> None:
    assert yaml12.load(yaml12.dump({"a": value}), "text") == {"a": value}


def test_how_the_grid_is_searched() -> None:
    plain = read_spec(SPEC)
    assert (plain.allocation.kind, plain.search.warm_start, plain.seeds) == ("grid", False, 1)
    for text, change in (
        ("allocation: adaptive", ("allocation.kind", "adaptive", "grid")),
        ("allocation: {kind: adaptive, drop_below: 0.1}", ("allocation.kind", "adaptive", "grid")),
        ("allocation: {stop_below: 1}", ("allocation.stop_below", 1.0, 0.25)),
        ("seeds: 3", ("seeds", 3, 1)),
    ):
        spec = read_spec(SPEC + text + "\n")
        assert first_difference(spec.identity(), plain.identity()) == change
        assert read_spec(spec.to_yaml()) == spec
    assert read_spec(edited("search:", "search:\n  warm_start: true")).search.warm_start
    with pytest.raises(ValueError, match=r"allocation.kind is 'some': choose 'grid' or 'adaptive'"):
        read_spec(SPEC + "allocation: some\n")


def test_hash_is_over_identity_and_not_over_resources() -> None:
    spec = read_spec(SPEC)
    assert read_spec(SPEC + "resources: {max_concurrent_trials: 2}\n").hash == spec.hash
    assert (
        read_spec(edited("weight_decay: {low: 0.001, high: 1}", "weight_decay: {low: 0.001, high: 2}")).hash
        != spec.hash
    )


def test_first_difference_names_the_field() -> None:
    ours, theirs = read_spec(SPEC), read_spec(edited("high: 1}", "high: 2}"))
    assert first_difference(ours.identity(), ours.identity()) is None
    assert first_difference(ours.identity(), theirs.identity()) == ("methods[0].search.weight_decay.high", 1.0, 2.0)
    fewer = read_spec(edited("[nano-3k, nano-14k]", "[nano-3k]"))
    assert first_difference(ours.identity(), fewer.identity()) == ("models", ["nano-3k", "nano-14k"], ["nano-3k"])


# What a person may get wrong, and the words that must be in the answer: the field, the value, the mend.
MISTAKES = {
    "unknown field": ("trials: 3", "trails: 3", ["'trails'", "did you mean 'trials'?"]),
    "unknown inner field": ("start: 1}", "begin: 1}", ["search.learning_rate", "'begin'", "start"]),
    "missing field": ("data: nano\n", "", ["data is missing"]),
    "no source": ("data: nano", "data: {split: train}", ["data", "no source", "'source: nano'"]),
    "empty source": ("data: nano", "data: {source: ''}", ["data.source", "not empty"]),
    "no sources": ("data: nano", "data: {sources: []}", ["data.sources", "at least one"]),
    "source beside sources": ("data: nano", "data: {source: nano, sources: [a/b]}", ["data", "'nano'", "the list"]),
    "split beside sources": ("data: nano", "data: {split: dev, sources: [a/b]}", ["data", "split 'dev'", "the list"]),
    "source twice": ("data: nano", "data: {sources: [a/b, a/b]}", ["data", "'a/b' twice", "sum of its weights"]),
    "some weights": (
        "data: nano", "data: {sources: [{source: a/b, weight: 2}, c/d]}", ["data", "'c/d'", "all sources a weight"]),
    "weight of nothing": (
        "data: nano", "data: {sources: [{source: a/b, weight: 0}]}", ["data.sources[0].weight", "0", "1 up"]),
    "share as a weight": (
        "data: nano", "data: {sources: [{source: a/b, weight: 0.7}]}", ["data.sources[0].weight", "0.7", "whole"]),
    "weight beyond reason": (
        "data: nano", "data: {sources: [{source: a/b, weight: 1001}]}", ["weight is 1001", "give a number up to 1000"]),
    "negatives of nano": (
        "data: nano", "data: {source: nano, num_negatives: 3}", ["data has num_negatives 3", "nano has no hard", "0"]),
    "negatives of nano among others": (
        "data: nano", "data: {sources: [a/b, nano], num_negatives: 1}", ["data has num_negatives 1", "nano has no"]),
    "unknown field of a source": (
        "data: nano", "data: {sources: [{sorce: a/b}]}", ["data.sources[0]", "'sorce'", "did you mean 'source'?"]),
    "fewer negatives than none": (
        "data: nano", "data: {source: nano, num_negatives: -1}", ["data.num_negatives", "-1", "0 up"]),
    "prefix that is no text": (
        "data: nano", "data: {source: nano, query_prefix: 3}", ["data.query_prefix", "3", "text"]),
    "text for a number": ("8e10, 4e10", "'8e10'", ["budgets_flops[0]", "'8e10'", "without quotes"]),
    "word for a number": ("trials: 3", "trials: many", ["trials", "'many'", "whole number"]),
    "true for a number": ("trials: 3", "trials: true", ["trials", "True", "whole number"]),
    "half a trial": ("trials: 3", "trials: 2.5", ["trials", "2.5", "whole number"]),
    "no trials": ("trials: 3", "trials: 0", ["trials", "0", "1 up"]),
    "negative budget": ("8e10, 4e10", "8e10, -4e10", ["budgets_flops[1]", "-4e10", "1 up"]),
    "budget beyond reason": ("8e10", "8e40", ["budgets_flops[0]", "8e40", "1e+30"]),
    "infinite budget": ("8e10", ".inf", ["budgets_flops[0]", "inf"]),
    "one budget without a list": ("[8e10, 4e10]", "8e10", ["budgets_flops", "8e10", "list"]),
    "budget twice": ("8e10, 4e10", "4e10, 4e10", ["budgets_flops", "4e10", "once"]),
    "no budget": ("[8e10, 4e10]", "[]", ["budgets_flops", "at least one"]),
    "unknown method": ("[full,", "[lorra,", ["methods[0]", "'lorra'", "did you mean 'lora'?", "freeze"]),
    "unknown method with settings": ("{lora: {", "{lorra: {", ["methods[1]", "'lorra'", "did you mean 'lora'?"]),
    "two methods in one": ("[full, {lora", "[{full: , lora", ["methods[0]", "one method"]),
    "method without its setting": ("[full,", "[freeze,", ["methods[0].freeze.active_fraction", "missing"]),
    "method with another's setting": ("alpha: 8", "alhpa: 8", ["methods[1].lora", "'alhpa'", "'alpha'"]),
    "impossible setting": ("rank: 4", "rank: 0", ["methods[1].lora", "rank is 0", "from 1 up"]),
    "rank of four and a half": ("rank: 4", "rank: 4.5", ["methods[1].lora.rank", "4.5", "whole"]),
    "same label twice": ("[full,", "[{lora: {rank: 4, alpha: 16}},", ["methods[1]", "'lora-r4'", "once"]),
    "unknown model": ("nano-14k", "nano-15k", ["models[1]", "'nano-15k'", "did you mean 'nano-1", "org/name"]),
    "unknown ladder": ("[nano-3k, nano-14k]", "pithia", ["models[0]", "'pithia'", "did you mean 'pythia", "nano"]),
    "model twice": ("nano-14k", "nano-3k", ["models", "'nano-3k'", "once"]),
    "ladder and its member": ("nano-14k", "nano", ["models", "'nano-3k'", "once"]),
    "unknown sampler": ("search:", "search:\n  sampler: tpo", ["search.sampler", "'tpo'", "'random'"]),
    "unknown pooling": ("batch_size: 64", "pooling: max", ["fixed.pooling", "'max'", "'mean'"]),
    "name with a path": ("name: example", "name: ../example", ["name", "'../example'", "letters"]),
    "hidden name": ("name: example", "name: ..", ["name", "'..'", "letters"]),
    "number as a name": ("name: example", "name: 3", ["name", "3", "text"]),
    "half a range": ("{low: 0.001, high: 1}", "{low: 0.001}", ["search.weight_decay", "both low and high"]),
    "range upside down": ("low: 0.001, high: 1}", "low: 1, high: 0.1}", ["search.weight_decay", "low 1", "high 0.1"]),
    "logarithm of zero": ("low: 0.001", "low: 0", ["search.weight_decay", "log: false"]),
    "start outside": ("start: 1}", "start: 20}", ["search.learning_rate", "20", "from 0.1 to 10"]),
    "temperature of zero": ("temperature: 0.05", "temperature: 0", ["search.temperature", "0", "above 0"]),
    "temperature in pretraining units": (
        "temperature: 0.05", "temperature: {value: 1, of: pretraining}", ["search.temperature", "'of'"]),
    "fewer pairs than candidates": (
        "fixed:", "evaluation: {num_pairs: 99}\nfixed:", ["evaluation", "num_candidates 256", "99"]),
    "empty section": ("fixed: {batch_size: 64, max_length: 32, gradient_clipping: 1}", "fixed:", ["fixed", "empty"]),
    "field twice": ("trials: 3", "trials: 3\ntrials: 4", ["line 7", "'trials'", "twice"]),
    "broken YAML": ("[8e10, 4e10]", "[8e10, 4e10", ["line 6", "YAML"]),
    "a tab": ("trials: 3", "trials:\n\t3", ["line 7", "YAML"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_field_value_and_mend(mistake: str) -> None:
    old, new, words = MISTAKES[mistake]
    with pytest.raises(ValueError) as caught:
        read_spec(edited(old, new))
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message and message.startswith("spec: "), message


def test_more_than_one_mistake_is_counted() -> None:
    with pytest.raises(ValueError, match=r"trials is 0.*\(2 more fields are wrong\)"):
        read_spec(edited("trials: 3", "trials: 0\nseed: -1\nlimits: {max_epochs: 0}"))


@pytest.mark.parametrize("text", ["\n", "- a\n- b\n", "only words\n\n"])
def test_a_text_without_fields_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="holds no fields: begin with"):
        read_spec(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'quikstart' is neither a file nor a preset: did you mean 'quickstart'\?"):
        read_spec("quikstart")
    with pytest.raises(ValueError, match="is a folder"):
        read_spec(tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_spec(tmp_path / "picture.yaml")


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(edited("trials: 3", "trials: 0"))
    with pytest.raises(ValueError, match=r"mine\.yaml: trials is 0"):
        read_spec(path)


def test_a_preset_by_name_is_the_file() -> None:
    assert {"pythia", "quickstart", "smoke"} <= set(preset_names())
    assert all(name.removesuffix("-nano") in preset_names() for name in preset_names())
    assert read_spec("smoke").name == "smoke"


def test_planning_and_reading_load_nothing_heavy() -> None:
    code = (
        "import sys, sweeps.plan, sweeps.store\n"
        "print([m for m in ('torch', 'ray', 'optuna', 'transformers', 'datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_tasks_are_evaluated_at_the_end_and_decide_nothing_that_is_tried() -> None:
    plain, scored = read_spec(SPEC), read_spec(SPEC + "evaluation: {tasks: nano}\n")
    assert (plain.tasks, scored.tasks) == ((), ("nano",))
    assert plain.hash == scored.hash and "tasks" not in plain.to_yaml()
    assert read_spec(scored.to_yaml()) == scored
    assert read_spec(SPEC + "evaluation: {tasks: [BIOSSES, SICK-R]}\n").tasks == ("BIOSSES", "SICK-R")


def test_tasks_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.tasks nano with resources\.keep_weights none"):
        read_spec(SPEC + "evaluation: {tasks: nano}\nresources: {keep_weights: none}\n")
