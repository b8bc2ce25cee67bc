"""What a driver on a cluster is told to do, and what is sent there with it.

Knows the file that carries an order, the packages a job needs, and which of this machine's environment may go along.
Never connects to a cluster.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.bounds import Bounds
from cluster.local import ENVIRONMENT

FILE, SPEC_FILE = "order.json", "order-spec.yaml"
PACKAGES = ("trainer", "analysis", "sweeps", "cluster")
# Parts of names of variables that hold secrets: a job's environment can be read by all who see its dashboard.
SECRET_WORDS = frozenset({"TOKEN", "SECRET", "KEY", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS", "AUTH"})
STOP_SECONDS = 30
"""That a stopped driver has for checkpoints; Ray's default is 3."""
OWN_MODULES = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One sweep to be driven inside a cluster."""

    spec: str
    """The whole spec as YAML, frozen where it was launched."""
    store: str
    """Absolute, and the same folder on every node; or a URI."""
    cache: str
    """Folder for data and models that every node sees."""
    bounds: Bounds = field(default_factory=Bounds)
    wait_seconds: float = 0.0
    """How long machines that the sweep needs may take to come up."""

    def files(self) -> dict[str, str]:
        """The order as the text of two files that lie beside each other."""
        fields = asdict(self)
        return {SPEC_FILE: fields.pop("spec"), FILE: json.dumps(fields, indent=2)}

    def write(self, folder: Path) -> None:
        for name, text in self.files().items():
            (folder / name).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Order:
        """The order that ``write`` wrote."""
        fields = json.loads((folder / FILE).read_text(encoding="utf-8"))
        spec = (folder / SPEC_FILE).read_text(encoding="utf-8")
        return cls(spec=spec, **fields | {"bounds": Bounds(**fields["bounds"])})


@contextmanager
def packed(order: Order, packages: Sequence[str] = PACKAGES) -> Iterator[Path]:
    """A folder with the packages and the order, as a job's working directory; gone at the end.

    Only sources go along: no caches, no stores, nothing that happens to lie beside them.
    """
    with TemporaryDirectory(prefix="isoflop-job-") as name:
        folder = Path(name)
        packages_in(folder, packages)
        order.write(folder)
        yield folder


def packages_in(folder: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Copy the sources of these packages into ``folder``."""
    for package in packages:
        shutil.copytree(OWN_MODULES / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def job_environment(order: Order, names: Sequence[str]) -> dict[str, str]:
    """The variables that a job's processes get: what Ray and the trials need, and those that a person has named.

    Raises ``ValueError`` for a name that is not set here, and for one that looks like a secret.
    """
    own = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}
    own["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_SECONDS)
    given = {}
    for name in names:
        if SECRET_WORDS & set(name.upper().split("_")):
            raise ValueError(
                f"--env is {name!r}, which looks like a secret, and a job's environment is shown in the dashboard: "
                "set it on the nodes where Ray is started instead"
            )
        if name not in os.environ:
            raise ValueError(f"--env is {name!r}, which is not set here: set it, or leave the option out")
        given[name] = os.environ[name]
    return {**own, "ISOFLOP_CACHE": order.cache, **given}
