"""The texts of evaluation tasks: of the forms that mteb has, and of real tasks from a Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.hub import LoopbackHub
from tests.world import make_pairs, save_decoder, save_tokenizer, write_jsonl
from trainer.nano_rows import NanoRow, NanoRows
from trainer.splits import SplitRule, hash_key, normalised
from trainer.task_texts import task_texts
from trainer.tasks import NANO_KINDS

DEAD_ENDPOINT = "http://127.0.0.1:9"
QUERIES, POSITIVES = (list(texts) for texts in zip(*make_pairs(1200), strict=True))
# The first whose queries the split rule puts into train.
TRAIN = [
    place for place, query in enumerate(QUERIES) if not SplitRule().splits(np.array([hash_key(normalised(query))]))[0]
]
OWN = [f"a text of the task that no pair has number {number} among all of these words" for number in range(12)]


def test_every_form_of_task_gives_its_texts_and_nothing_else() -> None:
    rows = NanoRows.of([NanoRow(q, p, f"package{i % 12}.m{i % 24}") for i, (q, p) in enumerate(make_pairs(480))])
    queries, positives = ({row[number] for row in rows.rows} for number in (0, 1))
    found = {name: list(texts) for name, texts in task_texts(tuple(NANO_KINDS), rows)}
    assert set(found["NanoRetrieval"]) == queries | positives
    assert set(found["NanoClustering"]) == queries
    # The texts that a probe is trained on are not scored.
    assert set(found["NanoClassification"]) < positives
    assert set(found["NanoPairClassification"]) <= queries | positives
    assert set(found["NanoPairClassification"]) & queries and set(found["NanoPairClassification"]) & positives
    assert set(found["NanoRelatedness"]) <= queries | positives


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """Three real tasks in the layouts of their data sets, with some texts that pairs have too."""
    root = tmp_path_factory.mktemp("hub")
    sets = root / "datasets" / "mteb"
    query, *known = QUERIES[TRAIN[0]], *(POSITIVES[place] for place in TRAIN[1:4])
    scored = [{"sentence1": one, "sentence2": query, "score": 1.0} for one in [*OWN[:3], known[0]]]
    write_rows(sets / "biosses-sts" / "test.jsonl", scored)
    summary = {
        "text": OWN[3],
        "human_summaries": [OWN[4], OWN[5]],
        "machine_summaries": [known[1]],
        "id": "x",
    }
    write_rows(sets / "summeval" / "test.jsonl", [{**summary, "relevance": [1.0]}])
    arguana = sets / "arguana"
    documents = [OWN[6], OWN[7], known[2]]
    write_rows(
        arguana / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
    )
    write_rows(arguana / "queries.jsonl", [{"_id": "q0", "text": OWN[8]}])
    write_rows(arguana / "qrels" / "test.jsonl", [{"query-id": "q0", "corpus-id": "d0", "score": 1.0}])
    files = (("default", "test", "qrels/test"), ("corpus", "corpus", "corpus"), ("queries", "queries", "queries"))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}.jsonl\n"
        for name, split, path in files
    )
    (arguana / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with LoopbackHub(root) as running:
        yield running


@pytest.mark.slow
def test_real_tasks_are_checked_online_and_then_from_the_cache(hub: LoopbackHub, tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "model")
    save_decoder(tmp_path / "model")
    pairs = write_jsonl(tmp_path / "pairs.jsonl", zip(QUERIES, POSITIVES, strict=True))
    command = [*(sys.executable, "-m", "isoflop", "data", "check", str(pairs)), "--json"]
    command += ["--tasks", "BIOSSES,SummEval,ArguAna", "--bound", "0.2"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_HOME": str(tmp_path / "home"),
        "NO_PROXY": "127.0.0.1",
        "ISOFLOP_CACHE": str(tmp_path / "cache"),
    }
    answers = [
        subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=200)
        for more in ({"HF_ENDPOINT": hub.url}, {"HF_ENDPOINT": DEAD_ENDPOINT, "HF_HUB_OFFLINE": "1"})
    ]
    assert [answer.returncode for answer in answers] == [1, 1], answers[0].stderr + answers[1].stderr
    online, offline = (json.loads(answer.stdout) for answer in answers)
    assert online == offline
    found = {one["task"]: one for one in online["contamination"]}
    assert found["BIOSSES"]["num_texts"] == 5 and found["BIOSSES"]["exact"] == pytest.approx(0.4)
    assert found["SummEval"]["num_texts"] == 4 and found["SummEval"]["exact"] == pytest.approx(0.25)
    assert found["ArguAna"]["num_texts"] == 4 and found["ArguAna"]["exact"] == pytest.approx(0.25)
    assert [problem.partition(" stand")[0] for problem in online["problems"]] == [
        "40.00% of the texts of BIOSSES",
        "25.00% of the texts of SummEval",
        "25.00% of the texts of ArguAna",
    ]
