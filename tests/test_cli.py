"""The command line: what it answers, what it refuses, and what it does not load."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import isoflop
from sweeps.store import Store
from tests.cluster.sweep import NUM_TRIALS, SPEC, filled_store, make_world
from trainer.whole import whole

VERBS = (
    "data",
    "plan",
    "launch",
    "resume",
    "status",
    "fit",
    "recommend",
    "next",
    "report",
    "export",
    "reproduce",
    "card",
    "tasks",
    "evaluate",
    "list",
    "stop",
    "logs",
    "doctor",
)
HEAVY = {"torch", "ray", "optuna", "transformers", "datasets", "peft", "deepspeed", "mteb"}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled_store(tmp_path / "stores" / "fake", make_world(tmp_path / "world", seconds=0.0))


class Answer:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Call the command line in this process: its exit status and what it wrote."""

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["isoflop", *arguments])
        with pytest.raises(SystemExit) as ended:
            isoflop.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else int(code is not None), out, err)

    return call


def refused(answer: Answer, *parts: str) -> None:
    """Fail unless it is exit status 2 and one sentence on standard error that has these parts."""
    assert answer.status == 2, answer.err
    assert answer.out == ""
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert answer.err.startswith("isoflop: ")
    for part in parts:
        assert part in answer.err


def write_spec(folder: Path, old: str = "", new: str = "") -> str:
    assert old in SPEC
    path = folder / "spec.yaml"
    path.write_text(SPEC.replace(old, new) if old else SPEC)
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("trials: 3", "trails: 3", ("'trails'", "did you mean 'trials'")),
        ("trials: 3", "trials: many", ("trials", "'many'", "whole number")),
        ("[1e9, 4e9]", "[-1e9]", ("budgets_flops[0]", "-1")),
        ("[full, bias]", "[ful]", ("'ful'", "did you mean 'full'")),
        ("[nano-1k]", "[nano-2k]", ("'nano-2k'", "choose a ladder")),
        ("name: fake", "name: ../../etc", ("name", "'../../etc'")),
        ("name: fake", "name: [", ("line", "mend")),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(
    ask,
    tmp_path: Path,
    old: str,
    new: str,
    parts: tuple[str, ...],  # type: ignore[no-untyped-def]
) -> None:
    refused(ask("plan", write_spec(tmp_path, old, new)), "spec.yaml", *parts)


def test_a_spec_that_is_nowhere_is_refused(ask) -> None:  # type: ignore[no-untyped-def]
    refused(ask("plan", "quickstrat"), "'quickstrat'", "did you mean 'quickstart'")


@pytest.mark.parametrize(
    ("content", "parts"),
    [("", ("pairs.jsonl",)), ('{"query": "a"}\n', ("pairs.jsonl",)), ("no json\n", ("pairs.jsonl", "1"))],
    ids=["empty", "no positive", "not json"],
)
def test_wrong_data_are_refused_in_one_sentence(  # type: ignore[no-untyped-def]
    ask, tmp_path: Path, content: str, parts: tuple[str, ...]
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    answer = ask("data", "prepare", str(path), "--model", "nano-1k", "--json")
    assert answer.status == 2, answer.err
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("isoflop: ") and "Traceback" not in answer.err
    for part in parts:
        assert part in last


@pytest.mark.parametrize("length", ["0", "-3", "1"])
def test_data_refuses_a_length_that_holds_no_text(ask, tmp_path: Path, length: str) -> None:  # type: ignore[no-untyped-def]
    refused(ask("data", "prepare", "nano", "--max-length", length), f"--max-length is {length}: give at least 2")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("verb", ["status", "resume", "report"])
def test_a_store_that_is_none_is_refused(ask, tmp_path: Path, verb: str) -> None:  # type: ignore[no-untyped-def]
    refused(ask(verb, "nowhere"), "nowhere")
    (tmp_path / "other").mkdir()
    refused(ask(verb, str(tmp_path / "other")), "other", "sweep.yaml")


def test_a_store_of_another_spec_is_refused_and_untouched(ask, store: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = {path: path.read_bytes() for path in sorted(store.root.rglob("*")) if path.is_file()}
    answer = ask("launch", write_spec(tmp_path, "batch_size: 8", "batch_size: 16"))
    refused(answer, "holds another sweep", "batch_size", "another --store")
    assert {path: path.read_bytes() for path in sorted(store.root.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--on", "nowhere"], ("--on is 'nowhere'", "give http://HEAD:8265")),
        (["--on", "http://127.0.0.1:1", "--store", "relative"], ("--store is 'relative'", "all nodes")),
        (["--on", "kuberay", "--store", "/shared/a"], ("--image is missing",)),
        (["--detach"], ("--detach is given", "a launch on this machine")),
        (["--max-cost", "3"], ("--max-cost is 3 without a price", "--price")),
    ],
)
def test_a_launch_that_cannot_be_is_refused_in_one_sentence(  # type: ignore[no-untyped-def]
    ask, tmp_path: Path, options: list[str], parts: tuple[str, ...]
) -> None:
    answer = ask("launch", write_spec(tmp_path), *options)
    assert answer.status == 2
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("isoflop: ") and "Traceback" not in answer.err
    for part in parts:
        assert part in last


def test_a_manifest_is_all_that_is_printed(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("--on", "kuberay", "--store", "/shared/a", "--image", "i", "--dry-run")
    answer = ask("launch", write_spec(tmp_path), *options)
    assert answer.status == 0
    assert [document["kind"] for document in yaml.safe_load_all(answer.out)] == ["ConfigMap", "RayJob"]
    assert "12 trials" in answer.err


def test_a_plan_shows_hours_and_money_of_a_device(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spec = write_spec(tmp_path)
    assert "GPU-hours" not in ask("plan", spec).out
    answer = ask("plan", spec, "--device", "L4", "--price", "0.5", "--mfu", "0.1")
    assert "GPU-hours of L4" in answer.out and "at 0.5 an hour" in answer.out
    record = json.loads(ask("plan", spec, "--device", "L4", "--mfu", "0.1", "--json").out)["cost"]
    # Two methods, three trials each, at two budgets.
    assert record["gpu_hours"] == pytest.approx(2 * 3 * 5e9 / (0.1 * 121e12) / 3600)
    refused(ask("plan", spec, "--device", "abacus"), "--device is 'abacus'", "choose among")


def test_the_stores_of_a_folder_are_listed(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    assert f"{NUM_TRIALS} of {NUM_TRIALS}" in ask("list").out
    [listed] = json.loads(ask("list", "--root", str(store.root.parent), "--json").out)["stores"]
    assert (listed["sweep"], listed["state"], listed["store"]) == ("fake", "done", str(store.root))
    refused(ask("list", "--root", "nowhere"), "--root is 'nowhere'")


def test_how_a_trial_ended_is_told(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    trial = min(store.trial_ids())
    assert f"{trial}: COMPLETE" in ask("logs", trial, "--store", "fake").out
    refused(ask("logs", trial[:3], "--store", "fake"), "trials of", "give more of it")
    refused(ask("logs", "9.9e9", "--store", "fake"), "not being filled", "give --on")
    refused(ask("stop", "fake"), "is not being filled")


def test_a_broken_row_is_told_and_nothing_else_is_lost(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    broken = sorted((store.root / "trials").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:100])
    refused(ask("recommend", "fake", "--budget", "1e9"), broken.name, "delete this file")
    refused(ask("report", "fake"), broken.name)
    answer = ask("status", "fake")
    assert answer.status == 0
    assert f"{NUM_TRIALS - 1} of {NUM_TRIALS} have a row" in answer.out
    assert broken.name in answer.out.replace("\n", "")


@pytest.mark.parametrize("budget", ["0", "-1e9", "nan", "inf", "1e31"])
def test_a_budget_that_is_none_is_refused(ask, store: Store, budget: str) -> None:  # type: ignore[no-untyped-def]
    refused(ask("recommend", "fake", f"--budget={budget}"), "--budget")


def test_a_fault_of_ours_shows_its_traceback(ask, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def broken(*_: object) -> None:
        int("not a number for a person to mend")

    monkeypatch.setattr("sweeps.reading.read_spec", broken)
    monkeypatch.setattr(sys, "argv", ["isoflop", "plan", "smoke"])
    with pytest.raises(ValueError, match="not a number"):
        isoflop.main()


def test_status_counts_the_rows(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(ask("status", "fake", "--json").out)
    rows = store.read_trials()
    assert (found["num_rows"], found["num_trials"], found["states"]) == (
        NUM_TRIALS,
        NUM_TRIALS,
        {"COMPLETE": NUM_TRIALS},
    )
    assert found["spent_flops"] == rows["booked_flops"].sum()
    assert [group["best_loss"] for group in found["groups"]] == pytest.approx(
        rows.groupby(["budget_flops", "method"])["loss"].min().tolist()
    )
    assert found["is_driven"] is False
    words = ask("status", str(store.root)).out
    assert f"{NUM_TRIALS} of {NUM_TRIALS} have a row" in words and "every trial has its row" in words


def test_status_of_a_sweep_that_died_says_how_to_go_on(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    gone = sorted((store.root / "trials").iterdir())[:2]
    for path in gone:
        path.unlink()
    store.checkpoints(gone[0].stem).mkdir(parents=True)
    answer = ask("status", "fake")
    assert f"{NUM_TRIALS - 2} of {NUM_TRIALS} have a row, 1 more have begun" in answer.out
    assert f"isoflop resume {store.root}" in answer.out


def test_plan_tells_every_cell_and_what_it_assumes(ask) -> None:  # type: ignore[no-untyped-def]
    planned = json.loads(ask("plan", "pythia", "--json").out)
    assert planned["facts"] == {
        "num_train_pairs": None,
        "tokens_per_pair": 78.0,
        "measured": False,
        "pairs_per_epoch": None,
    }
    assert planned["total"]["num_cells"] == len(planned["cells"]) > 0
    assert planned["total"]["flops"] == sum(cell["flops"] for cell in planned["cells"])
    assert all(out["reason"] for out in planned["left_out"])
    assert "78 tokens a pair" in ask("plan", "pythia").out


def test_recommend_and_report_answer_from_the_store_alone(ask, store: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(ask("recommend", "fake", "--budget", "4e9", "--json").out)
    assert found["budget_flops"] == 4_000_000_000
    assert found["model"] == "nano-1k"
    assert "train nano-1k" in ask("recommend", "fake", "--budget", "4e9").out
    page = Path(json.loads(ask("report", "fake", "--json").out)["report"])
    assert page == (store.root / "report" / "index.html").resolve()
    assert "fake" in page.read_text()


def test_export_refuses_before_anything_is_loaded(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    refused(ask("export", "fake", "--out", "model"), "no complete trial with weights", "resources.keep_weights")
    trial, *_ = sorted(store.trial_ids())
    refused(ask("export", "fake", "--trial", trial, "--out", "model"), trial, "has no weights")
    refused(ask("export", "fake", "--trial", trial[:3], "--out", "model"), trial[:3], "may be", "more characters")
    refused(ask("export", "fake", "--trial", "none", "--out", "model"), "'none'", "no row")
    refused(ask("export", "nowhere", "--out", "model"), "nowhere")


def test_a_folder_that_cannot_be_made_is_refused_and_a_missing_file_of_ours_is_not(  # type: ignore[no-untyped-def]
    ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for folder, named in ((file / "sub", file), (file / "sub" / "deeper", file), (Path("/proc/x"), "/proc/.x")):
        monkeypatch.setattr(isoflop, "app", lambda *_, made=folder, **__: whole(made).__enter__())
        refused(ask(), str(named), "cannot be written", "give another folder")
    monkeypatch.setattr(isoflop, "app", lambda *_, **__: (tmp_path / "gone").read_text())
    with pytest.raises(FileNotFoundError):
        isoflop.main()


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    answer, modules = run_fresh(*arguments)
    assert answer.returncode == 0
    assert "Usage: isoflop" in answer.stdout
    assert not modules & (HEAVY | {"numpy", "pandas", "pyarrow", "matplotlib"})


@pytest.mark.parametrize(
    "arguments", [["plan", "quickstart"], ["plan", "pythia", "--json"], ["status", "fake", "--json"]]
)
def test_plan_and_status_load_no_torch_no_ray_and_no_optuna(store: Store, arguments: list[str]) -> None:
    answer, modules = run_fresh(*arguments)
    assert answer.returncode == 0, answer.stderr
    assert not modules & HEAVY
    if arguments[0] == "status":
        # Its import alone takes as long as a status may.
        assert "pandas" not in modules


def run_fresh(*arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The command in a fresh process, and the packages it has loaded when it ends."""
    code = (
        "import atexit, sys; sys.argv = ['isoflop', *sys.argv[1:]]\n"
        "atexit.register(lambda: print('LOADED', *{m.partition('.')[0] for m in sys.modules}, file=sys.stderr))\n"
        "import isoflop; isoflop.main()"
    )
    answer = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    return answer, set(answer.stderr.splitlines()[-1].split()[1:])


def test_a_watched_status_follows_the_rows_and_ends_with_the_sweep(store: Store) -> None:
    """In a real terminal: the last rows are written while it looks."""
    last, *_ = kept = sorted((store.root / "trials").iterdir())
    held_back = last.read_bytes()
    last.unlink()
    leader, follower = pty.openpty()
    code = "import sys; sys.argv = ['isoflop', 'status', sys.argv[1], '--watch']; import isoflop; isoflop.main()"
    command = [sys.executable, "-c", code, str(store.root)]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    shown = ""
    while f"{len(kept) - 1} of {len(kept)} have a row" not in shown:
        shown += os.read(leader, 4096).decode()
    assert f"{len(kept)} of {len(kept)}" not in shown
    last.write_bytes(held_back)
    with contextlib.suppress(OSError):  # what a terminal gives when its last writer has gone
        while part := os.read(leader, 4096):
            shown += part.decode()
    os.close(leader)
    assert process.wait() == 0
    assert f"{len(kept)} of {len(kept)} have a row" in shown


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--best", "--all"], ("--trial, --best, --frontier and --all", "give one of them")),
        (["--trial", "1e9", "--frontier"], ("give one of them",)),
        (["--on", "auto", "--json"], ("--json and --on", "leave one out")),
        (["--tasks", "BIOSES"], ("'BIOSES'", "did you mean 'BIOSSES'")),
        (["--tasks", "nano"], ("no complete trial with weights", "resources.keep_weights: best")),
        (["--all", "--tasks", "nano"], ("no weights of the", "resources.keep_weights: all")),
    ],
)
def test_what_cannot_be_evaluated_is_refused(ask, store: Store, options: list[str], parts: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    refused(ask("evaluate", "fake", *options), *parts)


def test_a_trial_without_weights_has_no_scores(ask, store: Store) -> None:  # type: ignore[no-untyped-def]
    complete = store.read_trials().query("state == 'COMPLETE'")["trial_id"].iloc[0]
    refused(ask("evaluate", "fake", "--trial", complete), "has no weights", "resources.keep_weights: all")


def test_an_evaluation_without_a_store_only_fetches(ask) -> None:  # type: ignore[no-untyped-def]
    refused(ask("evaluate", "--all"), "STORE is missing")
    answer = ask("evaluate", "--prefetch", "--tasks", "nano")
    assert answer.status == 0 and "5 tasks are in the cache" in answer.out
