"""The nano tasks: five of mteb's kinds of task, made of the docstring pairs that a nano sweep holds out for tests.

Knows rows and mteb's task classes. Never knows a model, a store, or how the rows were found. Labels come from where a
text stands (its module, its package) and not from people: what is measured is real, what it is called is modest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.pair_classification import AbsTaskPairClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from trainer.nano_rows import NanoRow, NanoRows

NUM_QUERIES, NUM_DOCUMENTS = 500, 1500
NUM_PAIR_ANCHORS = 600
NUM_GRADED_ANCHORS = 300
LABEL_ROWS = (24, 40)
"""A package with fewer rows is no label; of one with more, so many count."""
TRAIN_ROWS = 12
"""Of each label, for classification."""
SPLIT = "test"


def nano_task(name: str, rows: NanoRows) -> Any:
    """A fresh task of this name over these rows."""
    return {kind.__name__: kind for kind in _KINDS}[name](rows)


def _metadata(name: str, kind: str, category: str, main_score: str, description: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        dataset={"path": "isoflop/nano", "revision": "of-the-rows"},
        description=description,
        reference=None,
        type=kind,
        category=category,
        modalities=["text"],
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=None,
        domains=["Programming", "Written"],
        task_subtypes=[],
        license="not specified",
        annotations_creators="derived",
        dialect=[],
        sample_creation="found",
        bibtex_citation=None,
    )


class _OfRows:
    """What the tasks share: rows instead of a data set of the Hub, whose hash stands for its commit."""

    metadata: TaskMetadata
    make: Callable[[Sequence[NanoRow]], Any]

    def __init__(self, rows: NanoRows) -> None:
        dataset = {**self.metadata.dataset, "revision": rows.revision}
        self.metadata = self.metadata.model_copy(update={"dataset": dataset})
        self._rows = rows.rows
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        self.dataset = type(self).make(self._rows)
        self.data_loaded = True


class NanoRetrieval(_OfRows, AbsTaskRetrieval):  # type: ignore[misc]  # mteb is not followed
    """Find the code, or the rest of the docstring, that a docstring's first sentence belongs to."""

    metadata = _metadata("NanoRetrieval", "Retrieval", "t2t", "ndcg_at_10", __doc__)
    k_values = (1, 3, 5, 10, 20, 100)

    @staticmethod
    def make(rows: Sequence[NanoRow]) -> dict[str, dict[str, dict[str, Any]]]:
        documents = rows[:NUM_DOCUMENTS]
        queries = documents[:NUM_QUERIES]
        corpus = [{"id": f"d{i}", "title": "", "text": row.positive} for i, row in enumerate(documents)]
        asked = [{"id": f"q{i}", "text": row.query} for i, row in enumerate(queries)]
        return {
            "default": {
                SPLIT: {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(asked),
                    "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(len(queries))},
                    "top_ranked": None,
                }
            }
        }


class NanoClustering(_OfRows, AbsTaskClustering):  # type: ignore[misc]  # mteb is not followed
    """Group first sentences of docstrings by the package that they stand in."""

    metadata = _metadata("NanoClustering", "Clustering", "t2c", "v_measure", __doc__)
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 1000

    @staticmethod
    def make(rows: Sequence[NanoRow]) -> DatasetDict:
        labelled = [(row.query, label) for label, own in enumerate(_by_package(rows)) for row in own]
        return DatasetDict({SPLIT: _columns(labelled, "sentences", "labels")})


class NanoClassification(_OfRows, AbsTaskClassification):  # type: ignore[misc]  # mteb is not followed
    """Name the package that a piece of code or documentation stands in, from a few of each."""

    metadata = _metadata("NanoClassification", "Classification", "t2c", "accuracy", __doc__)
    n_experiments = 5

    @staticmethod
    def make(rows: Sequence[NanoRow]) -> DatasetDict:
        packages = list(enumerate(_by_package(rows)))
        train = [(row.positive, label) for label, own in packages for row in own[:TRAIN_ROWS]]
        test = [(row.positive, label) for label, own in packages for row in own[TRAIN_ROWS:]]
        return DatasetDict({"train": _columns(train, "text", "label"), SPLIT: _columns(test, "text", "label")})


class NanoPairClassification(_OfRows, AbsTaskPairClassification):  # type: ignore[misc]  # mteb is not followed
    """Tell a first sentence with its own code from the same sentence with other code of the same module."""

    metadata = _metadata("NanoPairClassification", "PairClassification", "t2t", "max_ap", __doc__)

    @staticmethod
    def make(rows: Sequence[NanoRow]) -> DatasetDict:
        near = _neighbours(rows, lambda row: row.module)
        anchors = [(row, other) for row, other in zip(rows, near, strict=True) if other][:NUM_PAIR_ANCHORS]
        pairs = [pair for row, other in anchors for pair in ((row, row, 1), (row, other, 0))]
        return DatasetDict(
            {
                SPLIT: Dataset.from_dict(
                    {
                        "sentence1": [row.query for row, _, _ in pairs],
                        "sentence2": [other.positive for _, other, _ in pairs],
                        "labels": [label for _, _, label in pairs],
                    }
                )
            }
        )


class NanoRelatedness(_OfRows, AbsTaskSTS):  # type: ignore[misc]  # mteb is not followed
    """Order code by how near it stands to a first sentence: its own, of the module, of the package, of another.

    A structural stand-in for relatedness: no person has graded these pairs.
    """

    metadata = _metadata("NanoRelatedness", "STS", "t2t", "cosine_spearman", __doc__)
    min_score, max_score = 0, 3

    @staticmethod
    def make(rows: Sequence[NanoRow]) -> DatasetDict:
        in_module = _neighbours(rows, lambda row: row.module)
        in_package = _neighbours(rows, lambda row: row.package, apart=lambda row: row.module)
        elsewhere = _neighbours(rows, lambda row: "", apart=lambda row: row.package)
        graded = [
            (row, other, grade)
            for row, *others in zip(rows, in_module, in_package, elsewhere, strict=True)
            for grade, other in zip((3, 2, 1, 0), (row, *others), strict=True)
            if other and all(others)
        ][: 4 * NUM_GRADED_ANCHORS]
        return DatasetDict(
            {
                SPLIT: Dataset.from_dict(
                    {
                        "sentence1": [row.query for row, _, _ in graded],
                        "sentence2": [other.positive for _, other, _ in graded],
                        "score": [float(grade) for _, _, grade in graded],
                    }
                )
            }
        )


_KINDS = (NanoRetrieval, NanoClustering, NanoPairClassification, NanoRelatedness, NanoClassification)


def _by_package(rows: Sequence[NanoRow]) -> list[list[NanoRow]]:
    """The rows of each package that has enough of them, none with more than another may have, by package."""
    packages = defaultdict(list)
    for row in rows:
        packages[row.package].append(row)
    least, most = LABEL_ROWS
    return [own[:most] for _, own in sorted(packages.items()) if len(own) >= least]


def _neighbours(
    rows: Sequence[NanoRow], group: Callable[[NanoRow], str], apart: Callable[[NanoRow], str] | None = None
) -> list[NanoRow | None]:
    """For each row the next one of its group, in a circle, that is apart from it; ``None`` where there is none."""
    groups: dict[str, list[NanoRow]] = defaultdict(list)
    places = []
    for row in rows:
        own = groups[group(row)]
        places.append(len(own))
        own.append(row)
    return [_next(groups[group(row)], place, apart) for row, place in zip(rows, places, strict=True)]


def _next(own: Sequence[NanoRow], place: int, apart: Callable[[NanoRow], str] | None) -> NanoRow | None:
    row = own[place]
    for step in range(1, len(own)):
        other = own[(place + step) % len(own)]
        if apart is None or apart(other) != apart(row):
            return other
    return None


def _columns(labelled: Sequence[tuple[str, int]], text: str, label: str) -> Dataset:
    return Dataset.from_dict({text: [words for words, _ in labelled], label: [number for _, number in labelled]})
