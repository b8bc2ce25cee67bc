"""Tasks by name: the paper's fifteen are mteb's first versions at their commits, English only, on the test split."""

from __future__ import annotations

import pytest

from trainer.tasks import LISTS, NANO_KINDS, PAPER15, baseline_tasks, kind_of, make_task, revision_of, task_names


@pytest.mark.parametrize("pinned", PAPER15, ids=lambda pinned: pinned.name)
def test_the_papers_tasks_are_what_mteb_has_under_their_names(pinned: object) -> None:
    import mteb

    task, theirs = make_task(pinned.name), mteb.get_task(pinned.name).metadata
    assert (task.metadata.name, task.metadata.type) == (pinned.name, pinned.kind) == (theirs.name, theirs.type)
    assert task.metadata.dataset["revision"] == pinned.revision == theirs.dataset["revision"]
    assert (list(task.eval_splits), task.hf_subsets) in ((["test"], ["default"]), (["test"], ["en"]))
    assert not task.metadata.name.endswith(".v2")


def test_fifteen_tasks_of_seven_types() -> None:
    assert len(LISTS["paper15"]) == len(set(LISTS["paper15"])) == 15
    assert len({pinned.kind for pinned in PAPER15}) == 7
    # The subset is English where the data set has other languages.
    assert [name for name in LISTS["paper15"] if make_task(name).hf_subsets == ["en"]] == [
        "STS22",
        "AmazonReviewsClassification",
    ]


def test_a_commit_of_ours_stays_where_mteb_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import mteb

    kind = type(mteb.get_task("BIOSSES"))
    moved = kind.metadata.model_copy(update={"dataset": {"path": "mteb/biosses-sts", "revision": "f" * 40}})
    monkeypatch.setattr(kind, "metadata", moved)
    assert make_task("BIOSSES").metadata.dataset["revision"] == revision_of("BIOSSES")
    assert revision_of("BIOSSES").startswith("d3fb88f8")


def test_names_and_lists_come_once_and_in_order() -> None:
    names = task_names(["nano", "BIOSSES", "STS12", "NanoRetrieval", "paper15"])
    assert names[:7] == (*NANO_KINDS, "BIOSSES", "STS12")
    assert len(names) == len(set(names)) == 5 + 15 + 1
    assert kind_of("STS12") == "STS" and kind_of("NanoRelatedness") == "STS"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BIOSES", "did you mean 'BIOSSES'"),
        ("quite unknown", "give paper15, nano, or names"),
        ("GermanSTSBenchmark", "no English texts"),
        ("CIFAR10", "not of texts alone"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(name: str, words: str) -> None:
    with pytest.raises(ValueError, match="--tasks has") as error:
        task_names([name])
    assert words in str(error.value) and repr(name) in str(error.value)


def test_word_matching_stands_beside_where_it_says_something() -> None:
    names = (*LISTS["nano"], *LISTS["paper15"])
    assert baseline_tasks("tf-idf", names) == LISTS["nano"]
    assert baseline_tasks("bm25", names) == (
        "NanoRetrieval", "ArguAna", "CQADupstackGisRetrieval", "CQADupstackAndroidRetrieval", "QuoraRetrieval",
        "StackOverflowDupQuestions",
    )  # fmt: skip
