"""Whether a Ray, its machines and its storage are fit for a sweep: one finding a line, each with its mend.

Knows what a sweep needs of a cluster. Never changes anything: the files it writes to try a folder are gone at the end.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.table import Table

from cluster.answers import find_prepared, say
from cluster.dispatch import shared_place
from cluster.local import ENVIRONMENT
from cluster.probe import MARK, ORDER, ClusterFacts, Questions, ask_cluster
from cluster.reach import reached
from cluster.target import RayAddress
from sweeps.spec import SweepSpec
from trainer.prepare import default_cache

LOOK_SECONDS = 5
VISIBLE = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
Verdict = Literal["good", "bad", "note"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    """``note`` where it matters to some sweeps only."""
    words: str
    mend: str = ""


def examine(on: str | None, store: str | None, spec: SweepSpec | None, console: Console) -> list[Finding]:
    """Look at the target: a Ray of our own on this machine where ``on`` is ``None``.

    ``store`` is a folder to try, ``spec`` a sweep whose data and models are asked for. Raises ``ValueError`` where no
    Ray can be reached at all.
    """
    say(console, "asking every machine, a minute or so")
    if on is None:
        return _examine_here(store, spec)
    from cluster.jobs import connect

    with reached(on) as target:
        client = connect(target, default_cache())
        findings = [_version_finding(client), _token_finding(client.get_address(), target)]
        facts = _ask_by_job(client, Questions(folders=_folders(store, target)), target)
    return [*findings, *judge(facts, _folders(store, target)), _hub_finding(facts, spec)]


def judge(facts: ClusterFacts, folders: Sequence[str]) -> list[Finding]:
    """What the facts mean for a sweep."""
    asked = [machine for machine in facts.machines if not machine.error]
    names = ", ".join(machine.host for machine in asked)
    findings = [Finding(what="machines", verdict="good", words=f"{len(asked)}: {names}")]
    findings += [
        Finding(
            what="machines",
            verdict="bad",
            words=f"{machine.host or machine.address}: {machine.error}",
            mend="look at Ray's logs there, and start Ray on it again",
        )
        for machine in facts.machines
        if machine.error
    ]
    findings += _version_findings(facts)
    findings += _folder_findings(facts, folders)
    return [*findings, *_gpu_findings(facts), _deepspeed_finding(facts)]


def is_well(findings: Sequence[Finding]) -> bool:
    return all(finding.verdict != "bad" for finding in findings)


def record(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(finding) for finding in findings]


def view(findings: Sequence[Finding]) -> RenderableType:
    """For a terminal: a line each, and the mend below what is not good."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        table.add_row({"good": "ok", "bad": "BAD", "note": "note"}[finding.verdict], finding.what, finding.words)
        if finding.mend and finding.verdict != "good":
            table.add_row("", "", f"-> {finding.mend}")
    return table


def _examine_here(store: str | None, spec: SweepSpec | None) -> list[Finding]:
    from cluster.local import local_ray

    folders = () if store is None else (str(Path(store).resolve()),)
    with local_ray(default_cache()) as ray:
        token = _token_finding(ray.dashboard, RayAddress(address=ray.dashboard))
        facts = ask_cluster(Questions(folders=folders))
    words = f"{facts.machines[0].versions.get('ray', '')}, started here"
    started = Finding(what="Ray", verdict="good", words=words)
    return [started, token, *judge(facts, folders), _hub_finding(facts, spec)]


def _folders(store: str | None, target: RayAddress) -> tuple[str, ...]:
    if store is None:
        return ()
    return (str(Path(store).resolve()) if target.is_here else shared_place("--store", store, "/shared/stores/NAME"),)


def _ask_by_job(client: Any, questions: Questions, target: RayAddress) -> ClusterFacts:
    import shlex
    import sys

    from cluster.jobs import follow
    from cluster.order import packages_in

    said: list[str] = []
    with TemporaryDirectory(prefix="isoflop-doctor-") as name:
        packages_in(Path(name))
        (Path(name) / ORDER).write_text(json.dumps(asdict(questions)), encoding="utf-8")
        job_id = client.submit_job(
            entrypoint=shlex.join([sys.executable if target.is_here else "python", "-m", "cluster.probe"]),
            # Ray hides GPUs from a task that asks for none.
            runtime_env={"working_dir": name, "env_vars": {VISIBLE: ENVIRONMENT[VISIBLE]}},
            metadata={"job_name": "isoflop doctor"},
        )
    follow(client, job_id, said.append)
    lines = "".join(said).splitlines()
    answers = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not answers:
        last = lines[-1] if lines else "it wrote nothing"
        raise ValueError(
            f"the doctor's job {job_id} gave no answer ({last}): see its log in the dashboard, and whether `python` on "
            "the head's PATH is the one that Ray is installed in"
        )
    return ClusterFacts.from_json(answers[-1])


def _version_finding(client: Any) -> Finding:
    import ray

    # Jobs need no equal versions of launcher and cluster: this is for the person who looks for a difference.
    return Finding(what="Ray", verdict="good", words=f"answers at {client.get_address()}; {ray.__version__} here")


def _token_finding(url: str, target: RayAddress) -> Finding:
    """Whether the dashboard answers someone without a token: who can submit a job can do everything."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=LOOK_SECONDS):
            return Finding(
                what="token",
                verdict="bad",
                words="this Ray answers without one: whoever reaches it can run programs on it",
                mend="start Ray on every machine with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, a 0600 file",
            )
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(what="token", verdict="good", words="asked for, and ours is accepted")
        raise
    except OSError as error:
        return Finding(what="token", verdict="note", words=f"not tried: {error}", mend=f"is {target.address} a proxy?")


def _version_findings(facts: ClusterFacts) -> Iterator[Finding]:
    asked = [machine for machine in facts.machines if not machine.error]
    packages = sorted({package for machine in asked for package in machine.versions})
    different = 0
    for package in packages:
        found = Counter(machine.versions.get(package, "") for machine in asked)
        if len(found) > 1:
            different += 1
            usual = found.most_common(1)[0][0]
            others = ", ".join(
                f"{machine.versions.get(package) or 'none'} on {machine.host}"
                for machine in asked
                if machine.versions.get(package, "") != usual
            )
            yield Finding(
                what="versions",
                verdict="bad",
                words=f"{package} is {usual or 'missing'} on most machines, and {others}",
                mend="install the same versions everywhere, from constraints.txt: losses differ otherwise",
            )
    if asked and not different:
        first = asked[0].versions
        words = ", ".join(f"{package} {first[package] or 'missing'}" for package in packages)
        yield Finding(what="versions", verdict="good", words=f"equal on all machines: {words}")


def _folder_findings(facts: ClusterFacts, folders: Sequence[str]) -> Iterator[Finding]:
    if not folders:
        yield Finding(what="storage", verdict="note", words="not tried", mend="give --store, as for the launch")
    for folder in folders:
        blind = [machine.host for machine in facts.machines if folder in machine.unseen]
        if folder in facts.unwritable:
            words, mend = (
                f"{folder} cannot be written ({facts.unwritable[folder]})",
                "check its permissions on the head",
            )
            yield Finding(what="storage", verdict="bad", words=words, mend=mend)
        elif blind:
            words = f"{folder} is not the head's folder, or cannot be written, on {', '.join(blind)}"
            mend = "mount the same shared file system there, writable"
            yield Finding(what="storage", verdict="bad", words=words, mend=mend)
        else:
            yield Finding(what="storage", verdict="good", words=f"{folder}: one folder, written by every machine")


def _gpu_findings(facts: ClusterFacts) -> Iterator[Finding]:
    names = Counter(gpu for machine in facts.machines for gpu in machine.gpus)
    if not names:
        mend = "for a sweep on GPUs, check that nvidia-smi answers on the machines and that torch has CUDA"
        yield Finding(what="GPUs", verdict="note", words="none: trials train on processors", mend=mend)
        yield Finding(what="NCCL", verdict="note", words="not needed without GPUs: workers speak gloo")
        return
    for machine in facts.machines:
        if machine.cuda_error:
            words = f"{machine.host}: {machine.cuda_error}"
            mend = "check the driver there with nvidia-smi, and take the machine out until it works"
            yield Finding(what="GPUs", verdict="bad", words=words, mend=mend)
    yield Finding(what="GPUs", verdict="good", words=", ".join(f"{count} x {name}" for name, count in names.items()))
    versions = sorted({machine.nccl for machine in facts.machines if machine.gpus})
    if len(versions) > 1 or not versions[0]:
        words = f"versions {', '.join(version or 'none' for version in versions)}"
        mend = "install the same torch with CUDA everywhere: workers of one trial cannot speak otherwise"
        yield Finding(what="NCCL", verdict="bad", words=words, mend=mend)
    else:
        yield Finding(what="NCCL", verdict="good", words=f"{versions[0]} on all machines with GPUs")


def _deepspeed_finding(facts: ClusterFacts) -> Finding:
    broken = [f"{machine.host} ({machine.deepspeed_error})" for machine in facts.machines if machine.deepspeed_error]
    if broken:
        mend = "pip install isoflop[train] there; needed only by trials that do not fit one GPU"
        return Finding(what="DeepSpeed", verdict="note", words=f"cannot be imported on {', '.join(broken)}", mend=mend)
    return Finding(what="DeepSpeed", verdict="good", words="can be imported on all machines")


def _hub_finding(facts: ClusterFacts, spec: SweepSpec | None) -> Finding:
    if spec is not None and find_prepared(spec) is not None:
        return Finding(what="Hub", verdict="good", words=f"not needed: all that {spec.name} needs is in the cache")
    if not facts.hub_error:
        return Finding(what="Hub", verdict="good", words="reached from the head")
    mend = (
        "for models or data from the Hub, run 'isoflop data prepare SPEC' once where it is reached, with the same "
        "ISOFLOP_CACHE"
    )
    return Finding(what="Hub", verdict="note", words=f"not reached from the head ({facts.hub_error})", mend=mend)
