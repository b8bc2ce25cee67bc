"""What the doctor makes of a cluster's facts, and of this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.doctor import Finding, is_well, judge
from cluster.probe import ClusterFacts, MachineFacts, Questions, ask_machine

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "deepspeed": "0.19.8"}
SOUND = MachineFacts(
    host="a",
    address="10.0.0.1",
    versions=VERSIONS,
    gpus=("NVIDIA L4",),
    cuda_error="",
    nccl="2.27.3",
    deepspeed_error="",
    unseen=(),
)
STORE = "/shared/stores/a"


def facts(*machines: MachineFacts, unwritable: dict[str, str] | None = None) -> ClusterFacts:
    return ClusterFacts(machines=machines, unwritable=unwritable or {}, hub_error="")


def found(cluster: ClusterFacts, what: str) -> list[Finding]:
    return [finding for finding in judge(cluster, (STORE,)) if finding.what == what]


def test_a_sound_cluster_is_well() -> None:
    findings = judge(facts(SOUND, replace(SOUND, host="b")), (STORE,))
    assert is_well(findings) and {finding.verdict for finding in findings} == {"good"}
    assert [f.words for f in findings if f.what == "GPUs"] == ["2 x NVIDIA L4"]


@pytest.mark.parametrize(
    ("sick", "what", "words"),
    [
        (replace(SOUND, host="b", versions=VERSIONS | {"torch": "2.9.0"}), "versions", "torch is 2.13.0.*2.9.0 on b"),
        (replace(SOUND, host="b", versions={"python": "3.11.7"}), "versions", "none on b"),
        (replace(SOUND, host="b", unseen=(STORE,)), "storage", "is not the head's folder.* on b"),
        (replace(SOUND, host="b", cuda_error="no driver"), "GPUs", "b: no driver"),
        (replace(SOUND, host="b", nccl="2.20.1"), "NCCL", "versions 2.20.1, 2.27.3"),
        (replace(SOUND, host="b", error="it did not answer"), "machines", "b: it did not answer"),
    ],
)
def test_what_is_sick_is_named_with_its_machine_and_mend(sick: MachineFacts, what: str, words: str) -> None:
    import re

    cluster = facts(SOUND, replace(SOUND, host="c"), sick)
    bad = [finding for finding in found(cluster, what) if finding.verdict == "bad"]
    assert any(re.search(words, finding.words) for finding in bad)
    assert all(finding.mend for finding in bad)
    assert not is_well(judge(cluster, (STORE,)))


def test_what_only_some_sweeps_need_is_a_note() -> None:
    without = replace(SOUND, gpus=(), nccl="", deepspeed_error="ImportError: no ninja")
    findings = judge(facts(without), ())
    assert is_well(findings)
    assert {f.what for f in findings if f.verdict == "note"} == {"GPUs", "NCCL", "DeepSpeed", "storage"}


def test_a_store_that_the_head_cannot_write() -> None:
    [finding] = found(facts(SOUND, unwritable={STORE: "Permission denied"}), "storage")
    assert finding.verdict == "bad" and "Permission denied" in finding.words


def test_facts_arrive_as_they_were_sent() -> None:
    sent = facts(SOUND, replace(SOUND, host="b", unseen=(STORE,)))
    assert ClusterFacts.from_json(sent.to_json()) == sent
    assert Questions(folders=(STORE,)).folders == (STORE,)


def test_a_machine_tells_of_itself(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "mark").write_text("")
    (tmp_path / "other").mkdir()
    told = ask_machine("10.0.0.1", [str(tmp_path / "shared"), str(tmp_path / "other")], "mark")
    assert told.unseen == (str(tmp_path / "other"),)
    assert told.versions["ray"] and told.versions["python"].startswith("3.")
    assert told.deepspeed_error == ""
