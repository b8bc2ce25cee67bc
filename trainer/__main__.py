"""``python -m trainer``: one trial from flags, on this machine, for debugging. Prints the result as JSON.

Prepares what is missing, trains, and keeps nothing but the checkpoints and the export it is told to keep. Never writes
a store. SIGTERM and Ctrl-C end it at the next step with a checkpoint and exit status 75.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.data import DataSource
from trainer.prepare import Prepared, default_cache, prepare
from trainer.refusal import is_ours
from trainer.result import CurvePoint, TrialResult, TrialState
from trainer.trial import (
    METHODS,
    Dtype,
    Evaluation,
    Hyperparameters,
    Method,
    Placement,
    Pooling,
    Stopped,
    TrialFiles,
    TrialSpec,
    method_from,
)

STOPPED = 75
"""Exit status of a trial that was told to stop: ``EX_TEMPFAIL`` of sysexits.h, start it again and it goes on."""


def main() -> int:
    """Run the trial that the flags describe. Exit status 2 on bad input, with one sentence; 75 when stopped."""
    flags = _parser().parse_args()
    try:
        result = _run(flags, _asked(flags))
    except ValueError as error:
        if not is_ours(error):
            raise
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    except Stopped:
        kept = f"go on with --checkpoints {flags.checkpoints}" if flags.checkpoints else "nothing was told to be kept"
        print(f"trainer: stopped; {kept}", file=sys.stderr)
        return STOPPED
    record = asdict(result)
    del record["curve"]
    print(json.dumps({"trial_id": result.spec.trial_id, **record}, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Run one trial on this machine.")
    parser.add_argument("--model", default="nano-3k", help="ladder member, Hub id or folder (default: %(default)s)")
    parser.add_argument("--data", default="nano", help="nano, a JSONL or Parquet file, or a Hub id (default: nano)")
    parser.add_argument("--method", default="full", choices=METHODS, help="what is trained (default: full)")
    parser.add_argument("--active-fraction", type=float, default=0.5, help="freeze: share of blocks that train")
    parser.add_argument("--rank", type=int, default=4, help="lora: rank")
    parser.add_argument("--alpha", type=float, default=8.0, help="lora: alpha")
    parser.add_argument("--budget", type=float, default=1e9, help="training FLOPs, as booked (default: 1e9)")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=64, help="pairs in a step")
    parser.add_argument("--max-length", type=int, default=32, help="tokens a text is cut to")
    parser.add_argument("--pooling", default="mean", choices=get_args(Pooling))
    parser.add_argument("--gradient-clipping", type=float, default=1.0, help="0 clips nothing")
    parser.add_argument("--num-pairs", type=int, default=1024, help="held-out pairs that give the loss")
    parser.add_argument("--num-candidates", type=int, default=256, help="positives a held-out query is compared with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes of this machine that share each step")
    parser.add_argument("--zero-stage", type=int, help="train with DeepSpeed at this ZeRO stage (default: plain torch)")
    parser.add_argument("--offload", action="store_true", help="under ZeRO, keep the optimizer in the host's memory")
    parser.add_argument("--dtype", default="float32", choices=get_args(Dtype), help="what is computed in")
    parser.add_argument("--tf32", action="store_true", help="let float32 matrix products on a GPU round to TF32")
    parser.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--chunk-tokens", type=int, default=16384, help="tokens encoded at a time")
    parser.add_argument("--checkpoints", type=Path, help="folder to keep checkpoints in and to resume from")
    parser.add_argument("--checkpoint-seconds", type=float, default=60)
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the model here, for sentence-transformers")
    return parser


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What the flags ask for, checked: what may be misspelled comes before what takes minutes."""

    method: Method
    budget_flops: int
    hyperparameters: Hyperparameters
    evaluation: Evaluation
    placement: Placement


def _asked(flags: argparse.Namespace) -> _Asked:
    """Raises ``ValueError`` with one sentence where a flag has a value that no trial can have."""
    settings = {
        "full": {},
        "bias": {},
        "freeze": {"active_fraction": flags.active_fraction},
        "lora": {"rank": flags.rank, "alpha": flags.alpha},
    }
    if not 1 <= flags.budget < math.inf:
        raise ValueError(f"--budget is {flags.budget:g}: give FLOPs from 1 up, such as 1e9")
    _check_folders(flags)
    asked = _Asked(
        method=method_from(flags.method, **settings[flags.method]),
        budget_flops=int(flags.budget),
        hyperparameters=Hyperparameters(
            learning_rate=flags.learning_rate,
            temperature=flags.temperature,
            weight_decay=flags.weight_decay,
            batch_size=flags.batch_size,
            max_length=flags.max_length,
            warmup_fraction=0.1,
            pooling=flags.pooling,
            gradient_clipping=flags.gradient_clipping,
        ),
        evaluation=Evaluation(num_pairs=flags.num_pairs, num_candidates=flags.num_candidates),
        placement=Placement(
            device=flags.device,
            num_workers=flags.workers,
            gpus_per_worker=1 if flags.device == "cuda" else 0,
            zero_stage=flags.zero_stage,
            offload=flags.offload,
            dtype=flags.dtype,
            tf32=flags.tf32,
            chunk_tokens=flags.chunk_tokens,
            recompute=flags.recompute,
            checkpoint_seconds=flags.checkpoint_seconds,
        ),
    )
    if flags.device == "cuda":
        import torch  # late: `--help` need not wait for it

        if not torch.cuda.is_available():
            raise ValueError("--device is cuda, and torch finds no GPU here: give --device cpu")
    return asked


def _check_folders(flags: argparse.Namespace) -> None:
    """Raise ``ValueError`` where what is to be kept could not be written."""
    for flag, folder in (("--checkpoints", flags.checkpoints), ("--export", flags.export)):
        if folder is None:
            continue
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise ValueError(f"{flag} is {str(folder)!r}, and nothing can be written to {str(there)!r}: give a folder")
    if flags.export and flags.export.exists() and next(flags.export.iterdir(), None) is not None:
        raise ValueError(f"--export is {str(flags.export)!r}, which is not empty: give a folder that is, or a new one")


def _run(flags: argparse.Namespace, asked: _Asked) -> TrialResult:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("prepare", note="")
        prepared = prepare(
            DataSource(source=flags.data),
            [flags.model],
            max_length=flags.max_length,
            cache=default_cache(),
            report=lambda stage, done, total: bars.update(bar, description=stage, completed=done, total=total),
        )
        spec = TrialSpec(
            model=flags.model,
            revision=prepared.models[flags.model].revision,
            method=asked.method,
            budget_flops=asked.budget_flops,
            hyperparameters=asked.hyperparameters,
            evaluation=asked.evaluation,
            data=prepared.manifest.hash,
            seed=flags.seed,
            number=0,
        )
        told_to_stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: told_to_stop.set())

        def report(point: CurvePoint) -> None:
            bars.update(bar, completed=point.spent_flops, note=f"step {point.step}, loss {point.train_loss:.3f}")
            if told_to_stop.is_set():
                raise Stopped

        bars.update(bar, description=spec.trial_id, completed=0, total=spec.budget_flops)
        return _train(flags, spec, asked.placement, prepared, report)


def _train(
    flags: argparse.Namespace,
    spec: TrialSpec,
    placement: Placement,
    prepared: Prepared,
    report: Callable[[CurvePoint], None],
) -> TrialResult:
    """Train, and export where that is asked for and the trial is complete."""
    # Imported late: `--help` need not wait for torch.
    from trainer.export import export
    from trainer.loop import train

    model = prepared.models[spec.model]
    with tempfile.TemporaryDirectory() as scratch:
        files = TrialFiles(
            tokens=model.tokens,
            model=model.path,
            checkpoints=str(flags.checkpoints or Path(scratch) / "checkpoints"),
            weights=str(Path(scratch) / "weights") if flags.export else "",
        )
        result = train(spec, placement, files, report)
        if flags.export and result.state is TrialState.COMPLETE:
            export(
                flags.export,
                result=result,
                weights=Path(files.weights),
                base=Path(model.path),
                manifest=prepared.manifest,
                cache=default_cache(),
            )
        return result


if __name__ == "__main__":
    sys.exit(main())
