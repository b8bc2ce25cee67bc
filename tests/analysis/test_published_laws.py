"""Published figures, computed again with our fits (sources in published/README.md and published_checks.py)."""

from __future__ import annotations

import pytest

from tests.analysis.published_checks import BEGIN, END, PAGE, Check, checks


@pytest.fixture(scope="module")
def found() -> list[Check]:
    return list(checks())


def test_every_figure_is_the_published_one(found: list[Check]) -> None:
    wrong = [f"{check.line} (may differ by {check.tolerance:g})" for check in found if not check.holds]
    assert not wrong, "\n".join(wrong)
    assert len(found) > 90


def test_the_page_shows_these_figures(found: list[Check]) -> None:
    shown = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    published = [tuple(line.split(" | ")[:3]) for line in shown]
    assert published == [tuple(check.line.split(" | ")[:3]) for check in found]
    for line, check in zip(shown, found, strict=True):
        ours = float(line.split(" | ")[3])
        assert ours == pytest.approx(check.ours, abs=1.01 * 10.0**-check.digits, rel=1e-6), line
