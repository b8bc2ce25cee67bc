"""Evaluation tasks by name: the paper's fifteen at fixed revisions, the nano tasks, and any other text task of mteb.

Knows which revision of a data set a task reads, which split and language count, and how mteb is asked for it. Never
knows a model or a score. mteb takes seconds to load and is imported where a task itself is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.nano_rows import NanoRows
from trainer.task_data import Task, load, quiet_mteb


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """A task as the paper's readers can repeat it: mteb's name of its first version, and its data set's commit."""

    name: str
    kind: str
    """mteb's type of task: the category of the paper's averages."""
    revision: str


def _pinned(kind: str, **revisions: str) -> tuple[Pinned, ...]:
    return tuple(Pinned(name=name.replace("_", "-"), kind=kind, revision=of) for name, of in revisions.items())


# The list `data/mteb/broad_tasks_list` of the paper's code, with the commits that mteb 2.26 names for these tasks.
PAPER15 = (
    *_pinned(
        "Clustering",
        MedrxivClusteringS2S="35191c8c0dca72d8ff3efcd72aa802307d469663",
        StackExchangeClusteringP2P="815ca46b2622cec33ccafc3735d572c266efdb44",
    ),
    *_pinned(
        "Retrieval",
        ArguAna="c22ab2a51041ffd869aaddef7af8d8215647e41a",
        CQADupstackGisRetrieval="5003b3064772da1887988e05400cf3806fe491f2",
        CQADupstackAndroidRetrieval="9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3",
        QuoraRetrieval="e4e08e0b7dbe3c8700f0daef558ff32256715259",
    ),
    *_pinned(
        "STS",
        BIOSSES="d3fb88f8f02e40887cd149695127462bbcf29b4a",
        SICK_R="20a6d6f312dd54037fe07a32d58e5e168867909d",
        STS22="de9d86b3b84231dc21f76c7b7af1f28e2f57f6e3",
    ),
    *_pinned("Summarization", SummEval="cda12ad7615edc362dbf25a00fdd61d3b1eaf93c"),
    *_pinned(
        "Classification",
        ImdbClassification="3d86128a09e091d6018b6d26cad27f2739fc2db7",
        Banking77Classification="0fd18e25b25c072e09e0d92ab615fda904d66300",
        AmazonReviewsClassification="6b5d328eaae8ef408dd7d775040245cf86f92e9d",
    ),
    *_pinned("PairClassification", SprintDuplicateQuestions="d66bd1f72af766a5cc4b0ca5e00c162f89e8cc46"),
    *_pinned("Reranking", StackOverflowDupQuestions="5debda000fe8e27ebb5c123d38081f92e1847a59"),
)
NANO_KINDS = {
    "NanoRetrieval": "Retrieval",
    "NanoClustering": "Clustering",
    "NanoPairClassification": "PairClassification",
    "NanoRelatedness": "STS",
    "NanoClassification": "Classification",
}
"""The type of each nano task (``trainer/nano_tasks.py``)."""
BASELINES = ("bm25", "tf-idf")
"""Word matching to stand beside the models (``trainer/baselines.py``)."""
BASELINE_RECIPE = 1
"""Raise it when a change changes a baseline's scores."""
_SEARCHED = frozenset({"Retrieval", "Reranking"})
LISTS = {"paper15": tuple(pinned.name for pinned in PAPER15), "nano": tuple(NANO_KINDS)}
_PINNED = {pinned.name: pinned for pinned in PAPER15}
_LANGUAGE, _SPLIT = "eng", "test"


def task_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of tasks, each once, in the order given; ``paper15`` and ``nano`` stand for their lists.

    Raises ``ValueError`` for a name that mteb does not know, and for a task without English texts.
    """
    names = tuple(dict.fromkeys(name for entry in given for name in LISTS.get(entry, (entry,))))
    for name in names:
        if name not in NANO_KINDS and name not in _PINNED:
            _from_mteb(name)
    return names


def needs_nano(names: Sequence[str]) -> bool:
    return any(name in NANO_KINDS for name in names)


def kind_of(name: str) -> str:
    """mteb's type of a task."""
    if name in _PINNED:
        return _PINNED[name].kind
    return NANO_KINDS[name] if name in NANO_KINDS else str(_from_mteb(name).metadata.type)


def baseline_tasks(baseline: str, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the tasks that a baseline says something about.

    BM25 finds documents and gives a text no embedding; the words of TF-IDF come from the rows of nano tasks.
    """
    if baseline == "bm25":
        return tuple(name for name in names if kind_of(name) in _SEARCHED)
    return tuple(name for name in names if name in NANO_KINDS)


def make_task(name: str, nano: NanoRows | None = None) -> Task:
    """A fresh task: mteb draws from a task's own random state, so one that has been used gives the next model others.

    ``nano`` are the rows of nano tasks. Data are loaded when the task is evaluated.
    """
    if name in NANO_KINDS:
        from trainer.nano_tasks import nano_task

        assert nano is not None, f"{name} needs rows"
        return nano_task(name, nano)
    return _from_mteb(name)


def revision_of(name: str, nano: NanoRows | None = None) -> str:
    """The commit of the data set that a task reads, or the hash of the nano rows."""
    if name in _PINNED:
        return _PINNED[name].revision
    if name in NANO_KINDS:
        assert nano is not None, f"{name} needs rows"
        return nano.revision
    return str(_from_mteb(name).metadata.dataset["revision"])


def fetch(names: Sequence[str], report: Callable[[str, int, int], None]) -> None:
    """Load the data of every task that comes from the Hub, so that its copy is in the Hugging Face cache.

    Raises ``ValueError`` where the Hub cannot be reached or does not give it.
    """
    hub = [name for name in names if name not in NANO_KINDS]
    for number, name in enumerate(hub):
        report(f"fetching {name}", number, len(hub))
        load(make_task(name))
    report("fetching tasks", len(hub), len(hub))


def _from_mteb(name: str) -> Task:
    """The task of English texts, on the test split where it has one, at the pinned commit where it is the paper's."""
    import mteb

    try:
        with quiet_mteb():
            task = mteb.get_task(name, languages=[_LANGUAGE], exclusive_language_filter=True)
    except KeyError as error:
        near = str(error.args[0]).partition("Did you mean: ")[2].rstrip("?")
        meant = f"did you mean {near}? " if near else ""
        raise ValueError(
            f"--tasks has {name!r}, which mteb does not know: {meant}give paper15, nano, or names of mteb's tasks"
        ) from error
    except ValueError as error:
        raise ValueError(f"--tasks has {name!r}, which has no English texts: give another task") from error
    if list(task.metadata.modalities) != ["text"]:
        raise ValueError(f"--tasks has {name!r}, which is not of texts alone: give another task")
    if _SPLIT in task.metadata.eval_splits:
        task.filter_eval_splits([_SPLIT])
    if name in _PINNED:
        dataset = {**task.metadata.dataset, "revision": _PINNED[name].revision}
        task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    return task
