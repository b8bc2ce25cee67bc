"""What preparing a data set costs by its size: memory of all processes together, and pairs per second, one against two.

``python -m benchmarks.data [--sizes 50000 200000 800000] [--compared 200000] [--repeats N]`` writes synthetic pairs,
prepares each size in a fresh process, reads batches from it as a trial does, prints a table and writes
``benchmarks/results/data.json``. Memory is the largest sum of the resident sets of a process and its workers, so what
they share counts several times. Compare the runs with one and two processes by their ratio: they are interleaved.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "data.json"
WORDS = [f"{a}{b}{c}" for a in ("ba", "co", "di", "fu", "ge") for b in ("lan", "mer", "nix") for c in "abcdefghijkl"]
BATCH_PAIRS, BATCHES_READ = 1024, 200


def write_source(path: Path, num_pairs: int) -> None:
    """Pairs of about 12 and 60 words, as JSONL."""
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(num_pairs):
            query, positive = (" ".join(rng.choices(WORDS, k=k)) for k in (11, 59))
            file.write(json.dumps({"query": f"{query} {number}", "pos": [f"{positive} {number}"]}) + "\n")


def prepare(source: Path, folder: Path, num_processes: int) -> dict[str, float]:
    """Wall seconds of each stage, in this process and its workers."""
    from trainer.data import DataSource, Origin, Pair, open_split
    from trainer.pairs import Reading, write_pairs
    from trainer.sources import read_files
    from trainer.tokens import write_tokens

    seconds, started = {}, time.perf_counter()

    def stage(name: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()

    for part in ("pairs", "tokens"):
        (folder / part).mkdir(parents=True)
    write_pairs(
        [
            Reading(
                origin=Origin(source=str(source)),
                pairs=(Pair(row.query, row.positive, row.query) for row in read_files([source])),
                split_rule="by query",
            )
        ],
        folder / "pairs",
        source=DataSource(source=str(source)),
        fingerprint="",
        report=lambda *_: None,
        num_processes=num_processes,
    )
    stage("pairs")
    write_tokens(
        folder / "pairs",
        folder / "tokens",
        tokenizer=tokenizer(),
        max_length=75,
        progress=lambda *_: None,
        num_processes=num_processes,
    )
    stage("tokens")
    read_batches(open_split(folder / "tokens", "train"))
    stage("read")
    return seconds


def read_batches(split: object) -> None:
    """What a trial reads in some hundred steps."""
    import numpy as np

    for step in range(BATCHES_READ):
        indices = split.order(0, np.arange(step * BATCH_PAIRS, (step + 1) * BATCH_PAIRS))
        split.texts(indices)


def tokenizer() -> object:
    """A byte-level BPE of the synthetic words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(
        [" ".join(WORDS)], trainers.BpeTrainer(vocab_size=1024, initial_alphabet=alphabet, show_progress=False)
    )
    return found


def measure(source: Path, num_processes: int) -> dict[str, float]:
    """Seconds by stage and ``peak_bytes`` of one preparation in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", "--one", str(source), str(num_processes)]
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        process = subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(0.05)
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return {**json.loads(output), "peak_bytes": peak}


def resident_bytes(pid: int) -> int:
    """Of a process and all below it; what has ended meanwhile counts nothing."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    resident = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(resident) + sum(resident_bytes(int(child)) for child in children)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 800_000], help="pairs")
    parser.add_argument("--compared", type=int, default=200_000, help="pairs for one process against two")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("SOURCE", "PROCESSES", "FOLDER"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        source, num_processes, folder = flags.one
        print(json.dumps(prepare(Path(source), Path(folder), int(num_processes))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {"sizes": by_size(Path(scratch), flags.sizes)}
        source = Path(scratch) / "pairs.jsonl"
        write_source(source, flags.compared)
        found["compared"] = by_processes(source, flags.compared, flags.repeats)
    show(found)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def by_size(scratch: Path, sizes: list[int]) -> list[dict[str, float]]:
    """One row a size, with two processes."""
    rows = []
    for num_pairs in sizes:
        source = scratch / f"{num_pairs}.jsonl"
        write_source(source, num_pairs)
        rows.append({"num_pairs": num_pairs, "source_bytes": source.stat().st_size, **measure(source, 2)})
        source.unlink()
    return rows


def by_processes(source: Path, num_pairs: int, repeats: int) -> dict[str, float]:
    """Median seconds by stage with one and with two processes, and the median ratio of neighbours."""
    runs = [(measure(source, 1), measure(source, 2)) for _ in range(repeats)]
    medians = {
        f"{stage}_seconds_{count}": statistics.median(run[count - 1][stage] for run in runs)
        for stage in ("pairs", "tokens")
        for count in (1, 2)
    }
    ratios = {
        f"{stage}_ratio": statistics.median(one[stage] / two[stage] for one, two in runs)
        for stage in ("pairs", "tokens")
    }
    return {"num_pairs": num_pairs, "repeats": repeats, **medians, **ratios}


def show(found: dict[str, object]) -> None:
    """The tables, as text."""
    table = Table("pairs", "source", "peak memory", "dividing, pairs/s", "tokenising, pairs/s", "reading, pairs/s")
    for row in found["sizes"]:
        rates = [row["num_pairs"] / row["pairs"], row["num_pairs"] / row["tokens"]]
        rates.append(BATCH_PAIRS * BATCHES_READ / row["read"])
        sizes = (f"{row[name] / 2**20:,.0f} MiB" for name in ("source_bytes", "peak_bytes"))
        table.add_row(f"{row['num_pairs']:,}", *sizes, *(f"{rate:,.0f}" for rate in rates))
    compared = found["compared"]
    ratios = ", ".join(f"{stage} {compared[f'{stage}_ratio']:.2f}x" for stage in ("pairs", "tokens"))
    console = Console()
    console.print(table)
    console.print(f"two processes against one, {compared['num_pairs']:,} pairs: {ratios}")


if __name__ == "__main__":
    main()
