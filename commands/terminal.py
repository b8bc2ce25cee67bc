"""What the commands share: arguments and options, the console, JSON, and stores by the names people give them.

Knows what is typed and printed. Never knows what a command does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.store import Store

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or a preset's name.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes of the spec, such as search.lag=1.")
]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store's folder, or a sweep's name.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="PATH|URI", help="Where results go, also s3:// (default: ./stores/<sweep name>)."),
]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="TARGET",
        help="http://HEAD:8265, ray://HEAD:10001, auto (a Ray on this machine), a cluster file, or kuberay.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(metavar="GPU", help="Such as H100: what hours and money are of.")]
PriceOption = Annotated[float | None, typer.Option(metavar="P", help="Of an hour of one device.")]
MfuOption = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Of the device's peak (default: as measured, else 0.35).")
]
MaxHoursOption = Annotated[float | None, typer.Option(metavar="H", help="End the sweep at so many GPU-hours.")]
MaxCostOption = Annotated[float | None, typer.Option(metavar="M", help="End the sweep at this cost of GPU-hours.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Machine-readable on standard output, everything else on standard error.")
]


def console(*, err: bool = False) -> Console:
    """Where a command speaks: standard output, or standard error beside JSON."""
    from rich.console import Console

    terminal = (sys.stderr if err else sys.stdout).isatty()
    # Where nobody looks at a screen, tables keep their lines whole.
    return Console(stderr=err, width=None if terminal else 200)


def print_json(record: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(record, indent=2))


def whole_flops(budget: float) -> int:
    """A budget as it is typed, in FLOPs; ``ValueError`` outside 1 to 1e30."""
    if not 1 <= budget <= 1e30:
        raise ValueError(f"--budget is {budget:g}: give FLOPs from 1 to 1e30, such as 1e12")
    return round(budget)


def open_store(name: str) -> Store:
    """A store by its folder, its URI, or the name of a sweep whose store lies in ``stores``."""
    from sweeps.store import Store

    if "://" in name:
        return Store.open(name)
    named = Path("stores") / name
    is_name = not Path(name).exists() and Path(name).name == name and named.exists()
    return Store.open((named if is_name else Path(name)).resolve())
