"""The report: what the page says, that it trusts no name, and that a browser opens it."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.frontier import fit_frontier
from analysis.recommend import recommend
from analysis.report import MAX_TABLE_ROWS, ReportContext, order_sentence, write_report
from tests.analysis.law_rows import FULL, LORA, TOKENS_PER_PAIR, law_rows, measured_nano_rows, parabola_law, row
from tests.analysis.test_figures import training_curves
from trainer.ladder import LADDERS
from trainer.trial import TrialState

HOSTILE = "</script><script>alert(\"x\")</script> & 'quoted' $a_{"
CONTEXT = ReportContext(
    sweep="quickstart",
    manifest=(("Source", "nano"), ("Pairs", "64,000 train")),
    plan=(("Cells", "70"),),
    left_out=(("3.2e11 FLOPs, nano-1k, full", "19 epochs of the data; at most 8"),),
    notes=("The exponents of nano models are not those of the paper.",),
)


class Page(HTMLParser):
    """The text of a page by element id, its tags and its links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._skip = 0
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.words += " ".join(data.split()) + " "


def rows_with_failures() -> pd.DataFrame:
    failures = [
        row(FULL, 320_000_000_000, "nano-25k", 0, number=3, state=TrialState.DIVERGED, error="loss is not finite"),
        row(LORA, 320_000_000_000, "nano-7k", 0, number=4, state=TrialState.FAILED, error=HOSTILE),
    ]
    return pd.concat([measured_nano_rows(), pd.DataFrame(failures)], ignore_index=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = rows_with_failures()
    frontier = fit_frontier(rows)
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    return write_report(tmp_path_factory.mktemp("report"), rows, training_curves(frontier), frontier, answer, CONTEXT)


def test_the_page_says_what_to_do_and_what_to_mind(report: Path) -> None:
    words = Page(report).words
    assert "Train nano-14k by full fine-tuning" in words
    assert "With 1.0e12 FLOPs, train nano-14k (14,496 non-embedding parameters)" in words
    assert "an extrapolation" in words
    assert "72 trials: 70 COMPLETE, 1 DIVERGED, 1 FAILED" in words
    assert "This is the order that was expected: full < lora < freeze < bias." in words
    assert "an edge of the grid, not an optimum" in words
    for said in ("64,000 train", "19 epochs of the data; at most 8", CONTEXT.notes[0], "loss is not finite"):
        assert said in words
    for trial in rows_with_failures()["trial_id"]:
        assert trial in words


def test_the_page_needs_no_network_and_runs_only_its_own_script(report: Path) -> None:
    page = Page(report)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        link = attributes.get("href") or attributes.get("xlink:href") or ""
        assert not link.startswith(("http:", "https:", "//", "javascript:"))
        if tag == "a" and not link.startswith("#"):
            assert (report.parent / link).is_file()
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert '<script>alert("x")' not in page.source
    assert HOSTILE.split("$")[0].strip() in page.words, "the error is shown, as text"


def test_files_beside_the_page(report: Path) -> None:
    folder = report.parent
    assert len(pd.read_csv(folder / "trials.csv")) == 72
    assert json.loads((folder / "recommendation.json").read_text())["model"] == "nano-14k"
    assert json.loads((folder / "frontier.json").read_text())["num_complete"] == 70
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("profiles", "frontier", "curves") for kind in ("png", "svg", "csv")
    }


def test_no_complete_trial_gives_a_page_that_says_so(tmp_path: Path) -> None:
    rows = rows_with_failures().tail(2)
    page = Page(write_report(tmp_path, rows, {}, fit_frontier(rows), None, CONTEXT))
    assert "Nothing can be recommended yet" in page.words
    assert "No trial is complete, so nothing can be fitted or recommended." in page.words
    assert "2 trials: 1 DIVERGED, 1 FAILED" in page.words
    assert "Nothing to draw yet." in page.words


def test_no_trial_at_all_gives_a_page_that_says_so(tmp_path: Path) -> None:
    rows = measured_nano_rows().iloc[:0]
    page = Page(write_report(tmp_path, rows, {}, fit_frontier(rows), None, ReportContext(sweep="empty")))
    assert "no trials yet" in page.words
    assert "Nothing can be recommended yet" in page.words


def test_one_budget_gives_a_page_that_says_so(tmp_path: Path) -> None:
    rows = law_rows(parabola_law(), budgets=[1e11])
    frontier = fit_frontier(rows)
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    page = Page(write_report(tmp_path, rows, {}, frontier, answer, ReportContext(sweep="one")))
    assert "Only one budget was measured (1.0e11 FLOPs)" in page.words
    assert "No law over budgets could be fitted" in page.words
    assert "not known" in page.words


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    rows = law_rows(parabola_law(), models=["nano-3k", "nano-7k", "nano-14k"], methods=[FULL], num_trials=700)
    failed = row(FULL, 10**11, "nano-7k", 0, state=TrialState.FAILED, error="out of memory")
    rows = pd.concat([rows, pd.DataFrame([failed])], ignore_index=True)
    page = Page(write_report(tmp_path, rows, {}, fit_frontier(rows), None, ReportContext(sweep="long")))
    assert len(rows) > MAX_TABLE_ROWS
    assert f"The table shows {MAX_TABLE_ROWS} of them" in page.words
    assert "out of memory" in page.words


def test_another_order_is_said_as_it_was_seen() -> None:
    frontier = fit_frontier(law_rows(parabola_law(level={"full": 4.0, "lora": 3.0}), methods=(FULL, LORA)))
    said = order_sentence(frontier)
    assert said.index("lora-r4") < said.index("full (")
    assert said.endswith("The expected order was full < lora, so this sweep saw another one.")
    assert "no order to compare" in order_sentence(fit_frontier(law_rows(parabola_law(), methods=[FULL])))


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_opens_the_page(report: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    quiet = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    opened = subprocess.run(
        [CHROMIUM, *quiet, f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--dump-dom", report.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Train nano-14k by full fine-tuning" in opened.stdout
    # The page's policy let its own script run, which makes headings reachable by keyboard.
    assert opened.stdout.count('<th tabindex="0"') >= 15
    assert "Content Security Policy" not in opened.stderr
    assert opened.stdout.count("<svg") == 3
