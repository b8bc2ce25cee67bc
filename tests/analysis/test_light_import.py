"""The analysis runs where neither torch nor Ray is installed, and touches no global figure."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "ray", "optuna", "transformers", "datasets", "peft", "deepspeed", "mteb"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

from pathlib import Path
from analysis.frontier import fit_frontier
from analysis.recommend import recommend
from analysis.report import ReportContext, write_report
from tests.analysis.law_rows import measured_nano_rows
from trainer.ladder import LADDERS

rows = measured_nano_rows()
frontier = fit_frontier(rows)
answer = recommend(frontier, 10**12, LADDERS["nano"], 49.2)
write_report(Path(sys.argv[1]), rows, {}, frontier, answer, ReportContext(sweep="light"))
heavy = {"torch", "ray", "optuna", "transformers", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
print(answer.model)
"""


def test_no_heavy_module_is_needed(tmp_path: object) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "nano-14k"
