"""What reading batches takes of memory by the size of a data set: anonymous bytes of a process that trains from it.

``python -m benchmarks.reading [--sizes 1000000 10000000 100000000]`` writes token files of so many pairs, reads batches
of 1,024 from them in a fresh process as a trial does, prints a table and writes ``benchmarks/results/reading.json``.
Mapped pages of the files are listed apart: the system takes them back whenever it wants. Texts are two and four tokens
long, to spare the disk; at 100 million pairs the files take 2.8 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from trainer.data import open_split

RESULTS = Path(__file__).parent / "results" / "reading.json"
LENGTHS = {"query": 2, "positive": 4}
CHUNK_PAIRS = 1_000_000
BATCH_PAIRS, NUM_BATCHES = 1024, 200


def write_tokens(folder: Path, num_pairs: int) -> None:
    """Token files of ``num_pairs`` pairs, written in pieces."""
    random = np.random.default_rng(0)
    for side, length in LENGTHS.items():
        shape = (num_pairs + 1,)
        offsets = np.lib.format.open_memmap(folder / f"train.{side}.offsets.npy", "w+", np.int64, shape)
        with (folder / f"train.{side}.uint16").open("wb") as file:
            for start in range(0, num_pairs, CHUNK_PAIRS):
                size = min(CHUNK_PAIRS, num_pairs - start)
                random.integers(2, 50_000, size * length, np.uint16).tofile(file)
                offsets[start : start + size + 1] = np.arange(start, start + size + 1) * length
        offsets.flush()


def read(folder: Path) -> dict[str, float]:
    """Milliseconds a batch, and what this process holds in memory, before and after reading."""
    before = resident()
    split = open_split(folder, "train")
    started = time.perf_counter()
    for step in range(NUM_BATCHES):
        split.texts(split.order(0, np.arange(step * BATCH_PAIRS, (step + 1) * BATCH_PAIRS)))
    seconds = time.perf_counter() - started
    after = resident()
    return {
        "batch_milliseconds": 1000 * seconds / NUM_BATCHES,
        "anonymous_bytes": after["RssAnon"],
        "anonymous_bytes_added": after["RssAnon"] - before["RssAnon"],
        "mapped_bytes_added": after["RssFile"] - before["RssFile"],
    }


def resident() -> dict[str, int]:
    """Bytes of this process that are in memory, by kind (``man 5 proc_pid_status``)."""
    fields = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in fields if name in ("RssAnon", "RssFile")}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**6, 10**7, 10**8], help="pairs")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(read(flags.one)))
        return
    rows = []
    for num_pairs in flags.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_tokens(Path(folder), num_pairs)
            command = [sys.executable, "-m", "benchmarks.reading", "--one", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append({"num_pairs": num_pairs, **json.loads(output)})
    table = Table("pairs", "ms a batch of 1,024", "anonymous", "added by reading", "mapped pages")
    for row in rows:
        names = ("anonymous_bytes", "anonymous_bytes_added", "mapped_bytes_added")
        sizes = (f"{row[name] / 2**20:,.1f} MiB" for name in names)
        table.add_row(f"{row['num_pairs']:,}", f"{row['batch_milliseconds']:.1f}", *sizes)
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
