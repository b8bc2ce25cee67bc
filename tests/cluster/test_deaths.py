"""Deaths of trials' processes: known sequences, and what explains them."""

from __future__ import annotations

from cluster.deaths import MOST_DEATHS, Deaths


def died(deaths: Deaths, node: str, times: int = 1) -> None:
    for _ in range(times):
        deaths.dies("trial", node, f"killed on {node}")


def test_as_many_deaths_in_a_row_as_are_too_many() -> None:
    deaths = Deaths()
    died(deaths, "a", MOST_DEATHS - 1)
    assert deaths.verdict("trial", {"a"}) == ""
    died(deaths, "")
    assert deaths.verdict("trial", {"a"}) == "its process died 5 times without progress: killed on "
    assert deaths.verdict("another", {"a"}) == ""


def test_progress_forgives() -> None:
    deaths = Deaths()
    for spent in (1, 2, 2, 2, 2):
        deaths.reaches("trial", spent)
        died(deaths, "a")
    assert deaths.verdict("trial", {"a"}) == "", "the first two times it had come further"
    died(deaths, "a")
    assert "5 times" in deaths.verdict("trial", {"a"})


def test_a_node_that_is_gone_explains_every_death_on_it_also_later() -> None:
    deaths = Deaths()
    died(deaths, "gone", 20)
    died(deaths, "a", MOST_DEATHS - 1)
    assert deaths.verdict("trial", {"a"}) == ""
    assert "24 times" in deaths.verdict("trial", {"a", "gone"})


def test_a_recorded_trial_is_forgotten() -> None:
    deaths = Deaths()
    died(deaths, "a", MOST_DEATHS)
    deaths.forget("trial")
    assert deaths.verdict("trial", {"a"}) == ""
