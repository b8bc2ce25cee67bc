"""Tasks that stand for all: known structure is found, and a choice is judged on models that it was not made by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import lasso_path

import isoflop
from analysis.score_table import models_by_tasks
from analysis.subset import by_correlation, by_lasso, choose_tasks, correlation

FACTORS, NUM_OF_EACH = 3, 8


def made_up(num_models: int = 60, *, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Three abilities; of each, eight tasks that show it, of which the first (``a0``, ``b0``, ``c0``) shows it best."""
    random = np.random.default_rng(seed)
    ability = random.standard_normal((num_models, FACTORS))
    columns = {}
    for factor, name in enumerate("abc"):
        for number in range(NUM_OF_EACH):
            own = noise * (0.2 if number == 0 else 3.0) * random.standard_normal(num_models)
            columns[f"{name}{number}"] = 0.5 + 0.1 * (ability[:, factor] + own)
    return pd.DataFrame(columns, index=[f"model-{n}" for n in range(num_models)])


def test_both_ways_find_the_task_that_shows_each_ability_best() -> None:
    found = choose_tasks(made_up(300, noise=0.3), 3)
    for subset in found.subsets:
        assert set(subset.tasks) == {"a0", "b0", "c0"}, subset.way
        assert subset.correlation > 0.9
        assert all(subset.how_often[task] > 0.5 for task in subset.tasks)
        assert subset.unseen_mean is not None and subset.unseen_random is not None
        assert subset.unseen_mean.median > 0.9 > 0.85 > subset.unseen_random.median
        assert subset.unseen_prediction is not None and subset.unseen_prediction.median > 0.9
    assert found.notes == ()


def test_the_lasso_path_is_that_of_another_solver() -> None:
    """Coordinate descent on a grid of penalties enters the same tasks in the same order."""
    values = made_up(noise=0.5, seed=3).to_numpy()
    target = values.mean(axis=1)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    centred = target - target.mean()
    _, weights, _ = lasso_path(scaled, centred, positive=True, alphas=np.geomspace(0.05, 0.02, 500), tol=1e-10)
    entered: list[int] = []
    for column in weights.T:
        entered = [task for task in entered if column[task] > 0]
        entered += [task for task in np.flatnonzero(column > 0).tolist() if task not in entered]
        if len(entered) >= 3:
            break
    assert by_lasso(values, 3).tolist() == entered[:3]


def test_correlation_chooses_the_best_single_task_and_then_what_adds_most() -> None:
    values = made_up(noise=0.5, seed=1).to_numpy()
    target = values.mean(axis=1)
    alone = [np.corrcoef(values[:, task], target)[0, 1] for task in range(values.shape[1])]
    first, second = by_correlation(values, 2)
    assert first == int(np.argmax(alone))
    pairs = [
        np.corrcoef(values[:, first] + values[:, t], target)[0, 1] if t != first else -1 for t in range(len(alone))
    ]
    assert second == int(np.argmax(pairs))
    assert correlation(values[:, 0], target) == pytest.approx(alone[0])


def test_scores_of_noise_have_no_stable_choice() -> None:
    random = np.random.default_rng(0)
    noise = pd.DataFrame(random.standard_normal((30, 12)), columns=[f"t{n}" for n in range(12)])
    for subset in choose_tasks(noise, 3).subsets:
        assert max(subset.how_often.values()) < 0.9
        assert subset.unseen_mean is not None and subset.unseen_mean.median < 0.8
        assert subset.correlation_with_others is not None and abs(subset.correlation_with_others) < 0.7


def test_the_same_table_gives_the_same_answer() -> None:
    table = made_up(20)
    assert choose_tasks(table, 2).to_dict() == choose_tasks(table, 2).to_dict()


def test_few_models_are_said() -> None:
    found = choose_tasks(made_up(8), 5)
    assert "8 models are few for choosing 5 tasks" in found.notes[0]
    with pytest.raises(ValueError, match="4 models"):
        choose_tasks(made_up(4), 2)
    with pytest.raises(ValueError, match="-k is 24 of 24 tasks"):
        choose_tasks(made_up(), 24)


def test_long_and_wide_are_the_same_table() -> None:
    wide = made_up(10)
    long = wide.rename_axis("model").reset_index().melt("model", var_name="task", value_name="score")
    left, notes = models_by_tasks(long.sample(frac=1, random_state=0))
    right, _ = models_by_tasks(wide.rename_axis("Model").reset_index())
    assert notes == ()
    pd.testing.assert_frame_equal(left, right.loc[left.index], check_names=False)


def test_gaps_are_left_out_and_told() -> None:
    table = made_up(10).rename_axis("model").reset_index()
    table.loc[3, "a0"] = None
    table["rare"] = [None] * 7 + [0.5, 0.6, 0.7]
    table["flat"] = 1.0
    found, notes = models_by_tasks(table)
    assert found.shape == (9, 24)
    assert [note.split(",")[0] for note in notes] == ["Left out", "1 of 10 models are left out", "Left out"]
    assert "rare" in notes[0] and "flat" in notes[2]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"model": ["a"], "words": ["b"]}), "fewer than two columns of numbers"),
        (pd.DataFrame({"task": ["a"], "value": [1.0]}), "none of the model"),
        (pd.DataFrame({"model": ["a", "a"], "task": ["t", "t"], "score": [1.0, 2.0]}), "two scores of 'a' on 't'"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(table: pd.DataFrame, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models_by_tasks(table)


def test_the_command_reads_a_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = made_up(20, noise=0.3)
    table.assign(Average=table.mean(axis=1)).rename_axis("Model").to_csv(tmp_path / "leaderboard.csv")

    def ask(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["isoflop", "tasks", *words])
        with pytest.raises(SystemExit) as ended:
            isoflop.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    file = str(tmp_path / "leaderboard.csv")
    status, out, _ = ask(file, "-k", "3", "--without", "Average", "--json")
    found = json.loads(out)
    assert (status, found["num_tasks"], found["num_models"]) == (0, 24, 20)
    assert "Average" not in found["subsets"][0]["how_often"]
    status, out, _ = ask(file, "-k", "3", "--without", "Average")
    assert status == 0 and out.startswith("3 of 24 tasks, by the scores of 20 models.")
    status, out, err = ask(file, "--without", "average")
    assert status == 2 and "--without is 'average'" in err
    assert ask(str(tmp_path / "nothing.csv"))[0] == 2


def test_a_report_does_without_the_lasso() -> None:
    code = "import sys, cluster.answers, analysis.report; print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
