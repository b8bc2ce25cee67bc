"""How fast the command line answers: wall seconds of each command in a fresh process, best and median of several.

``python -m benchmarks.cli [--repeats N]`` prints a table and writes ``benchmarks/results/cli.json``. Run it on an idle
machine; a busy one shows in the difference between best and median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cli.json"
COMMANDS = [
    ["--help"],
    *([verb, "--help"] for verb in ("data", "plan", "launch", "resume", "status", "recommend", "report")),
    ["plan", "quickstart"],
    ["plan", "pythia"],
]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    rows = [measure(command, flags.repeats) for command in COMMANDS]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{'command':<24}{'best':>8}{'median':>8}  seconds")
    for row in rows:
        print(f"{row['command']:<24}{row['best']:>8.2f}{row['median']:>8.2f}")


def measure(command: list[str], repeats: int) -> dict[str, object]:
    """Wall seconds of ``isoflop command`` in ``repeats`` fresh processes."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "isoflop", *command], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return {
        "command": f"isoflop {' '.join(command)}",
        "best": round(min(seconds), 3),
        "median": round(statistics.median(seconds), 3),
        "repeats": repeats,
    }


if __name__ == "__main__":
    main()
