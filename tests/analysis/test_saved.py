"""A saved fit says what the fit said, and no other rows are answered from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.frontier import fit_frontier
from analysis.recommend import recommend
from analysis.saved import read_frontier, saved_frontier, write_frontier
from tests.analysis.law_rows import TOKENS_PER_PAIR, law_rows, measured_nano_rows, parabola_law
from trainer.ladder import LADDERS


def test_a_frontier_comes_back_with_its_draws(tmp_path: Path) -> None:
    for rows in (measured_nano_rows(), law_rows(parabola_law(), budgets=[1e11]), law_rows(parabola_law()).iloc[:0]):
        frontier = fit_frontier(rows, num_draws=50)
        write_frontier(tmp_path / "fit.npz", frontier)
        again = read_frontier(tmp_path / "fit.npz")
        assert again.to_dict() == frontier.to_dict()
        assert [method.profiles for method in again.methods] == [method.profiles for method in frontier.methods]
        for one, other in zip(frontier.methods, again.methods, strict=True):
            assert (one.method, one.noise, one.notes) == (other.method, other.noise, other.notes)
            for law, same in ((one.size_law, other.size_law), (one.loss_law, other.loss_law)):
                assert (law is None) == (same is None)
                if law is not None and same is not None:
                    assert np.array_equal(law.draws_at(1e12), same.draws_at(1e12), equal_nan=True)


def test_the_answer_from_a_saved_fit_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measured_nano_rows()
    first = saved_frontier(rows, tmp_path / "fits")
    monkeypatch.setattr("analysis.saved.fit_frontier", lambda _: pytest.fail("fitted again"))
    again = saved_frontier(rows.sample(frac=1, random_state=1), tmp_path / "fits")
    answers = [recommend(one, 10**12, LADDERS["nano"], TOKENS_PER_PAIR).to_dict() for one in (first, again)]
    assert answers[0] == answers[1]


def test_other_rows_are_fitted_anew_and_take_the_place_of_the_old(tmp_path: Path) -> None:
    rows = law_rows(parabola_law(), budgets=(4e10, 1.2e11))
    first = saved_frontier(rows, tmp_path / "fits")
    [file] = (tmp_path / "fits").iterdir()
    moved = saved_frontier(rows.assign(loss=rows["loss"] * 1.01), tmp_path / "fits")
    assert first.rankings[0].standings[0].loss != moved.rankings[0].standings[0].loss
    [other] = (tmp_path / "fits").iterdir()
    assert other != file


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert saved_frontier(law_rows(parabola_law(), budgets=(4e10, 1.2e11)), tmp_path / "fits").methods
    assert not (tmp_path / "fits").exists()
