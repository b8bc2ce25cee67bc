"""How fast the command line answers: wall seconds of each command in a fresh process, best and median of several.

    python benchmarks/cli.py [--repeats 5] [--json]

Run it on an idle machine; a busy one shows in the difference between best and median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = [
    ["--help"],
    *([verb, "--help"] for verb in ("data", "plan", "launch", "resume", "status", "recommend", "report")),
    ["plan", "quickstart"],
    ["plan", "pythia"],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    rows = [measure(command, flags.repeats) for command in COMMANDS]
    if flags.json:
        print(json.dumps(rows, indent=2))
        return
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
