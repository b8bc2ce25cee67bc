"""The README's file tree is the repository: every file once, each module by the first sentence of its docstring."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Their names say what they are; a line each would bury the modules.
UNLISTED = {"__init__.py", ".gitignore", "LICENSE", "README.md"}
OTHERS = {
    "CONTRIBUTING.md": "The rules of the house, and where a change goes.",
    "DECISIONS.md": "What was tried, kept and dropped, with figures.",
    "Makefile": "`make sweep`, `make test`, `make check`: each sets up what it needs.",
    "pyproject.toml": "Packages, dependencies with their reasons, lint, types, import contracts.",
    "constraints.txt": "The exact versions that were tested.",
    ".ci/run": "What a clean machine runs.",
    "analysis/page.html.jinja": "What every page has: style, policy, scripts.",
    "analysis/data.html.jinja": "A data set's page.",
    "analysis/data_parts.html.jinja": "What a page says about pairs, here and in a sweep's report.",
    "analysis/parts.html.jinja": "Pictures, interactive figures and cells, as pages use them.",
    "analysis/report.html.jinja": "A sweep's page.",
    "analysis/report.js": "The pages' own script: sorts tables, answers the menus of the interactive figures.",
    "analysis/table.html.jinja": "The page of a table that is not a sweep's.",
    "cluster/aws.yaml": "A cluster on AWS, to be copied and filled in.",
    "cluster/gcp.yaml": "A cluster on Google Cloud, to be copied and filled in.",
    "cluster/onprem.yaml": "A cluster of one's own machines, to be copied and filled in.",
    "docs/cluster.md": "Launching on a cluster: targets, costs and caps, security, what was run and what was not.",
    "docs/columns.md": "Every column of the store: type, unit, meaning.",
    "docs/data.md": "Naming, measuring and checking pairs; the road to the paper's data and to open ones.",
    "docs/decide.md": "What `recommend` and `next` compute, assume and leave out.",
    "docs/paper-experiments.md": "The paper's experiments in miniature, and what came out beside what the paper found.",
    "docs/scores.md": "Evaluating trained models: tasks, averages, what is done again, offline.",
    "docs/link.md": "What a loss is worth in scores: curves, intervals, when they are weak; few tasks for many.",
    "docs/reproduce.md": "A recorded trial trained again and compared; the reproducibility sheet for a paper.",
    "docs/report.md": "What the report shows, and how each number is traced to trials.",
    "docs/fits.md": "Published scaling laws, and what our fits make of the same tables.",
    ".dockerignore": "What of this folder an image is built from.",
    "docker/Dockerfile": "One image for head and workers, with a CPU and a GPU target.",
    "docker/compose.yml": "A head, two workers, Prometheus and Grafana on one machine.",
    "docker/healthy": "Says whether a container's Ray node is alive.",
    "docker/node": "Starts a container as head or as worker.",
    "docker/prometheus.yml": "What Prometheus scrapes: every node of the Ray cluster.",
    "docker/grafana/dashboards.yml": "Which dashboards Grafana shows.",
    "docker/grafana/datasource.yml": "Where Grafana finds Prometheus.",
    "docs/survive.md": "What becomes of a sweep when machines, links, drivers or storage go away, and what was tried.",
    "docs/watch.md": "Status, dashboard, metrics, TensorBoard; many trials and where the limits are; containers.",
    "docs/search.md": "How a sweep decides what to try: samplers, warm starts, adaptive allocation, and what it saved.",
    "docs/speed.md": "How fast a step is against other trainers, and where that was measured.",
    "sweeps/presets/active-share.yaml": "Which share of the blocks should train?",
    "sweeps/presets/isoflop-bias.yaml": "The best size for training the biases alone, by budget.",
    "sweeps/presets/isoflop-freeze.yaml": "The best size for training the last half of the blocks, by budget.",
    "sweeps/presets/isoflop-full.yaml": "The best size for training everything, by budget.",
    "sweeps/presets/isoflop-lora.yaml": "The best size for adapters of rank 128, by budget.",
    "sweeps/presets/learning-rate.yaml": "Is a tenth of the pre-training rate the best, whatever the size?",
    "sweeps/presets/lora-rank.yaml": "Which rank is the best, and does it depend on size and budget?",
    "sweeps/presets/pooling.yaml": "The mean of the token states, or the last one?",
    "sweeps/presets/temperature-weight-decay.yaml": "Which of both, and do they depend on each other?",
    "sweeps/presets/active-share-nano.yaml": "The same in miniature.",
    "sweeps/presets/learning-rate-nano.yaml": "The same in miniature.",
    "sweeps/presets/lora-rank-nano.yaml": "The same in miniature.",
    "sweeps/presets/pooling-nano.yaml": "The same in miniature.",
    "sweeps/presets/temperature-weight-decay-nano.yaml": "The same in miniature.",
    "sweeps/presets/open-english.yaml": "The paper's grid at small budgets, on an open mixture of pairs.",
    "sweeps/presets/quickstart.yaml": "What `make sweep` runs.",
    "sweeps/presets/smoke.yaml": "Seconds: for tests.",
    "sweeps/presets/pythia.yaml": "The paper's grid.",
}


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no module docstring"
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".") + "."


def expected_tree() -> str:
    """The tree as the README must show it, from the files that git tracks or would track."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    lines, folder = [], ""
    for name in sorted(tracked, key=lambda name: (str(Path(name).parent), name)):
        path = ROOT / name
        if path.name in UNLISTED or not path.is_file() or name.startswith(("tests/", "benchmarks/results/")):
            continue
        if path.suffix in {".png", ".svg", ".json", ".csv"}:
            continue
        if str(Path(name).parent) != folder:
            folder = str(Path(name).parent)
            lines.append(f"{folder}/")
        indent = "" if folder in ("", ".") else "  "
        told = first_sentence(path) if path.suffix == ".py" else OTHERS[name]
        lines.append(f"{indent}{path.name + ' ':<{24 - len(indent)}}{told}")
    return "\n".join(line for line in lines if line != "./")


def test_the_readme_s_tree_is_the_repository() -> None:
    readme = (ROOT / "README.md").read_text()
    assert expected_tree() in readme, f"put this into README.md:\n\n{expected_tree()}"
