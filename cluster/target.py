"""Where a sweep is to run: what a person gives as ``--on``, as one of four frozen values.

Knows the forms of an address and of a cluster file's name. Never connects to anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SCHEMES = ("http", "https", "ray")
DASHBOARD = "http://127.0.0.1:8265"
"""Of a head, on its loopback; here, where a tunnel leads there."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FORMS = (
    "give http://HEAD:8265, ray://HEAD:10001, auto for a Ray on this machine, a cluster file such as "
    "cluster/aws.yaml, or kuberay"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """A Ray of the sweep's own on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayAddress:
    """A Ray cluster that is up."""

    address: str

    @property
    def host(self) -> str:
        """Empty for ``auto``: this machine."""
        return "" if self.address == "auto" else urlsplit(self.address).hostname or ""

    @property
    def is_here(self) -> bool:
        """Whether paths and programs of this machine are those of the cluster's head."""
        return self.address == "auto"

    @property
    def is_client(self) -> bool:
        """Whether it is a Ray Client server's, which is asked where the cluster's dashboard is."""
        return self.address.startswith("ray://")

    @property
    def crosses_a_network(self) -> bool:
        """Whether what is sent, the token with it, leaves this machine unencrypted."""
        return self.host not in LOOPBACK | {""} and not self.address.startswith("https://")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFile:
    """A cluster that a YAML file describes, to be brought up."""

    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubernetes:
    """A cluster that KubeRay makes for the sweep."""


Target = Here | RayAddress | ClusterFile | Kubernetes


def tunnel(dashboard: str, host: str) -> str:
    """What a person types on another machine to see a dashboard that is on ``host``'s loopback.

    A Ray Client server's address says nothing of the dashboard's port: Ray's own is taken.
    """
    port = urlsplit(DASHBOARD if dashboard.startswith("ray://") else dashboard).port or 8265
    return f"ssh -N -L {port}:127.0.0.1:{port} {host}"


def read_target(on: str | None) -> Target:
    """The target of ``--on``. Raises ``ValueError`` where it has none of the forms."""
    if on is None:
        return Here()
    if on == "auto":
        return RayAddress(address=on)
    if on == "kuberay":
        return Kubernetes()
    if "://" in on:
        parts = urlsplit(on)
        if (
            parts.scheme not in SCHEMES
            or not parts.hostname
            or parts.username is not None
            or parts.password is not None
        ):
            raise ValueError(f"--on is {on!r}, which is no address of a Ray cluster: {FORMS}")
        return RayAddress(address=on.rstrip("/"))
    if Path(on).suffix in (".yaml", ".yml"):
        if not Path(on).is_file():
            raise ValueError(f"--on is {on!r}, and there is no such file: {FORMS}")
        return ClusterFile(path=Path(on))
    raise ValueError(f"--on is {on!r}, which is neither an address nor a file: {FORMS}")
