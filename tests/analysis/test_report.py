"""The report: what the page says, that it trusts no name, and that a browser opens it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.choice_figures import Served
from analysis.conventions import readings
from analysis.expectation import ExpectedLoss
from analysis.explore import explore
from analysis.frontier import fit_frontier
from analysis.recommend import recommend
from analysis.report import ReportContext, order_sentence, write_report
from analysis.report_tables import MAX_TABLE_ROWS
from tests.analysis.law_rows import FULL, LORA, TOKENS_PER_PAIR, law_rows, measured_nano_rows, parabola_law, row
from tests.analysis.test_figures import training_curves
from trainer.ladder import LADDERS
from trainer.result import TrialState

HOSTILE = "</script><script>alert(\"x\")</script> & 'quoted' $a_{"
FIGURES = (
    "frontier",
    "regions",
    "profiles",
    "exponents",
    "foretold",
    "residuals",
    "surface",
    "noise",
    "lifetime",
    "scores",
    "curves",
)
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


def scores_of(rows: pd.DataFrame) -> pd.DataFrame:
    done = rows[rows["state"] == TrialState.COMPLETE]
    first = pd.DataFrame({"trial_id": done["trial_id"], "task": "NFCorpus", "score": 0.9 - done["loss"] / 10})
    return pd.concat([first, first.assign(task="STS22", score=first["score"] / 2)])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = rows_with_failures()
    frontier = fit_frontier(rows)
    answer = recommend(frontier, 10**12, LADDERS["nano"], TOKENS_PER_PAIR)
    served = Served(shapes=tuple(LADDERS["nano"]), tokens_per_query=20.0, tokens_per_document=25.0)
    context = replace(CONTEXT, served=served, scores=scores_of(rows))
    return write_report(tmp_path_factory.mktemp("report"), rows, training_curves(frontier), frontier, answer, context)


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


def test_the_page_says_what_a_loss_is_worth(report: Path) -> None:
    words = Page(report).words
    assert "mean of all tasks: rank correlation -1.00" in words
    assert "NFCorpus: rank correlation -1.00" in words and "STS22: rank correlation -1.00" in words
    assert "expect a mean evaluation score of" in words
    links = json.loads((report.parent / "links.json").read_text())["links"]
    assert [link["task"] for link in links] == ["mean of all tasks", "NFCorpus", "STS22"]
    drawn = pd.read_csv(report.parent / "figures" / "scores.csv")
    assert set(drawn["kind"]) == {"trial", "power-exponential", "isotonic", "expected"}
    assert (drawn["kind"] == "trial").sum() == 3 * 70


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
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    # Bokeh's, once, and the page's own; the others are data, which nothing runs.
    assert [one.get("type") for one in scripts].count(None) == 2
    assert [one.get("type") for one in scripts].count("application/json") == len(scripts) - 2 == 2
    assert '<script>alert("x")' not in page.source
    assert HOSTILE.split("$")[0].strip() in page.words, "the error is shown, as text"


def test_files_beside_the_page(report: Path) -> None:
    folder = report.parent
    assert len(pd.read_csv(folder / "trials.csv")) == 72
    assert json.loads((folder / "recommendation.json").read_text())["model"] == "nano-14k"
    assert json.loads((folder / "frontier.json").read_text())["num_complete"] == 70
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")
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


QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # Nothing outside the page's own folder can be reached, even if it asked for it.
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=10000",
]  # fmt: skip


def opened(page: Path, profile: Path) -> tuple[str, str]:
    """The page as a browser has it after its scripts have run, and what the browser complained about."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_opens_the_page(report: Path, tmp_path: Path) -> None:
    dom, complaints = opened(report, tmp_path)
    assert "Train nano-14k by full fine-tuning" in dom
    # The page's policy let its own script run, which makes headings reachable by keyboard.
    assert dom.count('<th tabindex="0"') >= 15
    assert "Content Security Policy" not in complaints
    assert "Uncaught" not in complaints
    assert dom.count("<svg") >= len(FIGURES)
    # The interactive figures stand, and show the trials of the first method: the menu's first choice.
    assert 'data-ready="true"' in dom
    assert shown_lines(dom)["trials"] == (rows_with_failures()["method"] == "full").sum()


def shown_lines(dom: str) -> dict[str, int]:
    """Lines that each table of the interactive figures shows."""
    page = HTMLParser()
    found: dict[str, str | None] = {}
    page.handle_starttag = lambda tag, attrs: found.update(dict(attrs)) if ("id", "explore") in attrs else None  # type: ignore[method-assign]
    page.feed(dom)
    return {name: int(number) for name, number in (one.split(":") for one in str(found["data-lines"]).split(" "))}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("menu", "value", "expected"),
    [
        ("method", "", lambda rows: len(rows)),
        ("method", "bias", lambda rows: (rows["method"] == "bias").sum()),
        ("budget", "3.2e11", lambda rows: ((rows["method"] == "full") & (rows["budget_flops"] == 320 * 10**9)).sum()),
    ],
)
def test_a_choice_keeps_its_trials(
    report: Path, tmp_path: Path, menu: str, value: str, expected: Callable[[pd.DataFrame], int]
) -> None:
    source = report.read_text()
    start = source.index(f'<select name="{menu}"')
    option = source.index(f'<option value="{value}"', start)
    chosen = f"{source[:option]}<option selected{source[option + len('<option') :]}"
    page = tmp_path / "index.html"
    page.write_text(chosen)
    dom, _ = opened(page, tmp_path / "profile")
    assert shown_lines(dom)["trials"] == expected(rows_with_failures())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_another_count_has_its_own_fits(report: Path, tmp_path: Path) -> None:
    source = report.read_text()
    assert '<option value="total">total</option>' in source
    page = tmp_path / "index.html"
    page.write_text(source.replace('<option value="total">', '<option selected value="total">'))
    dom, complaints = opened(page, tmp_path / "profile")
    assert "Uncaught" not in complaints
    readings = pd.read_csv(report.parent / "figures" / "exponents.csv")
    total = readings[(readings["size"] == "total") & (readings["flops"] == "booked")]
    assert shown_lines(dom)["laws-size"] == total["a"].notna().sum()


def test_names_stay_text_in_the_data_of_the_interactive_figures(tmp_path: Path) -> None:
    rows = pd.DataFrame([row(FULL, 10**11, f"{HOSTILE}{n}", 3.0 + 0.1 * abs(n - 1)) for n in range(3)])
    rows["num_params_non_embedding"] = [1000, 4000, 16000]
    page = Page(write_report(tmp_path, rows, {}, fit_frontier(rows), None, ReportContext(sweep="hostile")))
    assert '<script>alert("x")' not in page.source
    assert [tag for tag, _ in page.tags].count("script") == 4


@pytest.mark.filterwarnings("error")
def test_flops_beyond_a_browser_s_integers_are_shown() -> None:
    models = ["EleutherAI/pythia-70m", "EleutherAI/pythia-160m", "EleutherAI/pythia-410m"]
    rows = law_rows(parabola_law(size=1e8, pivot=2e19), methods=(FULL,), models=models, budgets=(1e19, 4e19))
    frontier = fit_frontier(rows, num_draws=50)
    found = explore(rows, readings(rows, frontier, 4 * 10**19, num_draws=50)[0])
    assert found.num_left_out == 0


def test_each_number_is_traced_to_trials(report: Path) -> None:
    rows, numbers = rows_with_failures(), pd.read_csv(report.parent / "numbers.csv")
    known = set(rows.loc[rows["state"] == TrialState.COMPLETE, "trial_id"])
    assert all(set(str(ids).split(" ")) <= known for ids in numbers["trial_ids"])
    lowest = numbers[(numbers["quantity"] == "lowest loss")].iloc[0]
    [trial] = rows[rows["trial_id"] == lowest["trial_ids"]].to_dict("records")
    assert trial["loss"] == lowest["value"]
    titles = [
        str(attributes["title"]) for tag, attributes in Page(report).tags if tag == "td" and "title" in attributes
    ]
    assert titles and all(title.startswith("From ") for title in titles)
    assert {one for title in titles for one in title.removeprefix("From ").split(", ")} <= known


def test_what_was_foretold_of_a_sweep_stands_beside_what_it_measured(tmp_path: Path) -> None:
    rows = pd.DataFrame([row(FULL, 10**12, "nano-14k", 2.5)])
    expected = ExpectedLoss(
        loss=2.4,
        low=2.3,
        high=2.6,
        noise_relative_sd=0.015,
        extrapolation=2.0,
        sweep="quickstart",
        stated_at="2026-11-22T10:00:00+00:00",
    )
    context = ReportContext(sweep="one", expected=expected)
    path = write_report(tmp_path, rows, {}, fit_frontier(rows), None, context)
    words = Page(path).words
    assert "Sweep quickstart foretold a loss of 2.400 (90 % interval: 2.300 to 2.600, 2 times outside" in words
    assert f"Trial {rows['trial_id'][0]} measured 2.500, inside the interval; the error is -4.0 %" in words
    [line] = pd.read_csv(path.parent / "figures" / "expected.csv").to_dict("records")
    assert (line["predicted"], line["measured"], line["trial_ids"]) == (2.4, 2.5, rows["trial_id"][0])
    open_end = replace(expected, high=None)
    assert open_end.holds(99.0) and not open_end.holds(2.2)
    assert "2.300 to not bounded" in open_end.sentence(2.5, "t")
    waiting = write_report(tmp_path / "waiting", rows.iloc[:0], {}, fit_frontier(rows.iloc[:0]), None, context)
    assert "no trial is complete yet" in Page(waiting).words
