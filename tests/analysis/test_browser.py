"""The report's interactive figures in a real browser: the pointer over a point tells its trial, menus choose trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from analysis.frontier import fit_frontier
from analysis.report import ReportContext, write_report
from tests.analysis.law_rows import FULL, LORA, law_rows, parabola_law

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium with its driver on this machine (Debian: chromium-driver)"
)
WAIT_S = 60

# Where the figure of all trials shows each one now, in pixels of the window, by its id.
PLACES = """
const trials = Bokeh.documents[0].get_model_by_name("trials").data;
const views = [...Bokeh.index.roots].flatMap((root) => [...root.owner.query((view) => view.model.type == "Figure")]);
const plot = views.find((view) => view.model.title.text == "Every trial");
const corner = plot.canvas_view.el.getBoundingClientRect();
return Object.fromEntries(trials.trial_id.map((name, i) => [name,
  [corner.left + plot.frame.x_scale.compute(trials.x[i]), corner.top + plot.frame.y_scale.compute(trials.y[i])]]));
"""
# What the tooltips say that can be seen; Bokeh keeps them in shadow trees.
TOLD = """
const said = [];
const look = (tree) => tree.querySelectorAll("*").forEach((element) => {
  if (element.className === "bk-tooltip-content") said.push(element.innerText);
  if (element.shadowRoot) look(element.shadowRoot);
});
look(document);
return said.join("\\n");
"""


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return law_rows(parabola_law(), methods=(FULL, LORA))


@pytest.fixture(scope="module")
def page(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    frontier = fit_frontier(rows, num_draws=100)
    return write_report(tmp_path_factory.mktemp("report"), rows, {}, frontier, None, ReportContext(sweep="browser"))


@pytest.fixture
def browser(page: Path, tmp_path: Path) -> Iterator[Chrome]:
    """A browser that has opened the page, with its interactive figures in the window."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--window-size=1200,900", f"--user-data-dir={tmp_path}",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        driver.get_log("performance")  # what the empty first page asked for
        driver.get(page.as_uri())
        WebDriverWait(driver, WAIT_S).until(
            lambda one: one.find_element(By.ID, "explore").get_attribute("data-ready") == "true"
        )
        driver.execute_script('document.getElementById("explore").scrollIntoView();')
        yield driver
    finally:
        driver.quit()


def point_at(browser: Chrome, x: float, y: float) -> None:
    actions = ActionBuilder(browser)
    actions.pointer_action.move_to_location(round(x), round(y))
    actions.perform()


def test_the_pointer_tells_a_trial_and_a_menu_chooses_the_trials(browser: Chrome, rows: pd.DataFrame) -> None:
    for label in (FULL.label, LORA.label):
        # The first method is shown from the start; the other is chosen as a person does.
        Select(browser.find_element(By.NAME, "method")).select_by_visible_text(label)
        own = rows[rows["method"] == label].set_index("trial_id")
        places = browser.execute_script(PLACES)
        assert set(places) == set(own.index)
        for trial in own["loss"].nlargest(2).index:
            point_at(browser, *places[trial])
            WebDriverWait(browser, WAIT_S).until(lambda one, name=trial: name in one.execute_script(TOLD))
            said = dict(line.split(":\t") for line in browser.execute_script(TOLD).splitlines())
            assert (said["trial"], said["loss"]) == (trial, f"{own.loc[trial, 'loss']:.4f}")
            assert said["model, method"] == f"{own.loc[trial, 'model']}, {label}"
        point_at(browser, 1, 1)
        WebDriverWait(browser, WAIT_S).until(lambda one: one.execute_script(TOLD) == "")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:", "chrome:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")] == []


def test_another_convention_moves_the_points_and_names_the_axis(browser: Chrome) -> None:
    before = browser.execute_script(PLACES)
    Select(browser.find_element(By.NAME, "size")).select_by_visible_text("total")
    moved = browser.execute_script(PLACES)
    assert set(moved) == set(before) and any(moved[name][0] != pytest.approx(before[name][0]) for name in before)
    label = 'return Bokeh.documents[0].get_model_by_name("trials-x").axis_label;'
    assert browser.execute_script(label) == "total parameters"
