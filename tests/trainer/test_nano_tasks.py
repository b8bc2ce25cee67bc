"""The nano tasks through mteb: models that know the answers, and one that knows nothing, get the scores they must."""

from __future__ import annotations

import numpy as np
import pytest
from mteb.models.abs_encoder import AbsEncoder

from trainer.nano_rows import NanoRow, NanoRows
from trainer.nano_tasks import LABEL_ROWS, TRAIN_ROWS, nano_task
from trainer.scoring import TaskScore, model_meta, score
from trainer.tasks import NANO_KINDS, make_task

NUM_PACKAGES, MODULES, IN_MODULE = 6, 3, 10


def rows(seed: int = 0) -> NanoRows:
    """Packages of modules of pairs; texts say which pair they are of, and nothing more."""
    places = [(p, m, i) for p in range(NUM_PACKAGES) for m in range(MODULES) for i in range(IN_MODULE)]
    return NanoRows.of(
        [
            NanoRow(query=f"query {p} {m} {i} {seed}", positive=f"positive {p} {m} {i} {seed}", module=f"p{p}.m{m}")
            for p, m, i in places
        ]
    )


class Known(AbsEncoder):
    """A model that is told what a text's pair, module and package are worth to it."""

    def __init__(self, pair: float, module: float, package: float) -> None:
        self.mteb_model_meta = model_meta("known", f"{pair} {module} {package}")
        self.weights = pair, module, package
        self.rng = np.random.default_rng(0)
        self.axes: dict[str, np.ndarray] = {}

    def axis(self, name: str) -> np.ndarray:
        return self.axes.setdefault(name, self.rng.normal(size=300))

    def encode(self, inputs: object, **_: object) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]  # type: ignore[attr-defined]  # a data loader
        embeddings = []
        for text in texts:
            _, package, module, number, _ = text.split()
            names = (f"{package} {module} {number}", f"{package} {module}", package)
            parts = [weight * self.axis(name) for weight, name in zip(self.weights, names, strict=True)]
            embeddings.append(self.axis("all") + sum(parts))
        return np.array(embeddings, np.float32)


def scores_of(model: Known, over: NanoRows | None = None) -> dict[str, TaskScore]:
    return {name: score(model, make_task(name, over or rows())) for name in NANO_KINDS}


def test_a_model_that_knows_where_a_text_stands_has_full_marks() -> None:
    found = scores_of(Known(0.5, 1, 2))
    assert {name: s.score for name, s in found.items()} == pytest.approx(dict.fromkeys(NANO_KINDS, 1.0), abs=0.05)
    assert {name: s.task_type for name, s in found.items()} == NANO_KINDS
    assert {name: s.main_metric for name, s in found.items()} == {
        "NanoRetrieval": "ndcg_at_10",
        "NanoClustering": "v_measure",
        "NanoPairClassification": "max_ap",
        "NanoRelatedness": "cosine_spearman",
        "NanoClassification": "accuracy",
    }
    assert {s.dataset_revision for s in found.values()} == {rows().revision}


def test_each_task_asks_for_what_it_is_called() -> None:
    """Knowing packages alone finds no pair, and knowing pairs alone names no package."""
    packages = scores_of(Known(0, 0, 1))
    assert packages["NanoClustering"].score == pytest.approx(1.0)
    assert packages["NanoClassification"].score == pytest.approx(1.0)
    assert packages["NanoPairClassification"].score == pytest.approx(0.5, abs=0.02), "its pairs are of one module"
    assert packages["NanoRetrieval"].score < 0.2
    pairs = scores_of(Known(1, 0, 0))
    assert pairs["NanoRetrieval"].score == pytest.approx(1.0)
    assert pairs["NanoPairClassification"].score == pytest.approx(1.0)
    assert pairs["NanoClassification"].score < 0.5
    assert 0.3 < pairs["NanoRelatedness"].score < packages["NanoRelatedness"].score < 0.95


def test_a_model_that_gives_all_texts_one_embedding_has_no_correlation() -> None:
    found = score(Known(0, 0, 0), make_task("NanoRelatedness", rows()))
    assert found.score is None and '"cosine_spearman": null' in found.metrics


def test_a_fresh_task_gives_the_same_score_and_a_used_one_would_not() -> None:
    """mteb draws the clustered texts from the task's own random state, which goes on from model to model."""
    model = Known(0.2, 0.2, 0.35)
    first, second = (score(model, make_task("NanoClustering", rows())).metrics for _ in range(2))
    assert first == second
    used = make_task("NanoClustering", rows())
    assert [score(model, used).metrics for _ in range(2)][1] != first


def test_rows_are_named_by_what_they_are_and_their_order_does_not_matter() -> None:
    assert NanoRows.of(list(reversed(rows().rows))) == rows()
    assert rows(seed=1).revision != rows().revision
    assert len(rows().revision) == 40


def test_what_is_classified_was_not_trained_on() -> None:
    task = nano_task("NanoClassification", rows())
    task.load_data()
    train, test = (set(task.dataset[split]["text"]) for split in ("train", "test"))
    assert not train & test
    assert len(train) == NUM_PACKAGES * TRAIN_ROWS
    assert len(test) == NUM_PACKAGES * (MODULES * IN_MODULE - TRAIN_ROWS)
    assert LABEL_ROWS[0] <= MODULES * IN_MODULE <= LABEL_ROWS[1]


def test_relatedness_takes_each_pair_at_all_four_grades() -> None:
    task = nano_task("NanoRelatedness", rows())
    task.load_data()
    for row in task.dataset["test"]:
        (_, *asked), (_, *found) = row["sentence1"].split(), row["sentence2"].split()
        same = [a == b for a, b in zip(asked[:3], found[:3], strict=True)]
        grade = 3 if all(same) else 2 if same[:2] == [True, True] else 1 if same[0] else 0
        assert row["score"] == grade
    grades = task.dataset["test"]["score"]
    assert {grade: list(grades).count(grade) for grade in (0, 1, 2, 3)} == dict.fromkeys((0, 1, 2, 3), len(grades) // 4)
