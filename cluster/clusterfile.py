"""A cluster file: read, and refused for what would fail or be unsafe once machines cost money.

Knows Ray's own schema for clouds, and what this project asks of a cluster beyond it: an on-demand head, a token on
every machine, a dashboard on loopback, nothing left to fill in. Never starts anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CLOUDS = ("aws", "gcp")
ONPREM = "onprem"
BLANK = "FILL-IN"


def read_cluster_file(path: Path) -> dict[str, Any]:
    """The file's fields, checked. Raises ``ValueError`` with one sentence that names the field and the mend."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give another file") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ValueError(f"{path}{line} is not YAML: mend it there") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("provider"), dict):
        raise ValueError(f"{path}: provider is missing: write 'provider: {{type: ...}}', as in cluster/aws.yaml")
    kind = fields["provider"].get("type")
    if kind not in (*CLOUDS, ONPREM):
        raise ValueError(f"{path}: provider.type is {kind!r}: choose among {', '.join((*CLOUDS, ONPREM))}")
    for where, value in _leaves(fields):
        if isinstance(value, str) and BLANK in value:
            raise ValueError(f"{path}: {where} is {value!r}: fill it in")
    if kind in CLOUDS:
        _check_schema(fields, path)
        _check_safety(fields, path)
    return fields


def _check_schema(fields: dict[str, Any], path: Path) -> None:
    """By the schema of Ray's cluster launcher. What a cloud itself knows, such as types of machines, is not asked."""
    import copy

    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(fields)))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        raise ValueError(
            f"{path}: {where or 'the file'} does not fit Ray's cluster launcher: {error.message}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} does not fit Ray's cluster launcher: {error}") from error


def _check_safety(fields: Mapping[str, Any], path: Path) -> None:
    head = fields["head_node_type"]
    types = fields["available_node_types"]
    if head not in types:
        raise ValueError(f"{path}: head_node_type is {head!r}: name one of {', '.join(types)}")
    if _is_spot(types[head]["node_config"]):
        raise ValueError(
            f"{path}: available_node_types.{head} is a spot machine, and a sweep's driver dies with its head: make the "
            "head on demand"
        )
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in fields.get(name, ()) if "ray start" in command]
        if not starts or any("RAY_AUTH_MODE=token" not in command for command in starts):
            raise ValueError(
                f"{path}: {name} starts Ray without RAY_AUTH_MODE=token: whoever reaches such a Ray can run programs "
                "on it; take the commands of the file that comes with isoflop"
            )
    if any("--dashboard-host=0.0.0.0" in command for command in fields["head_start_ray_commands"]):
        raise ValueError(
            f"{path}: head_start_ray_commands opens the dashboard to every network: give --dashboard-host=127.0.0.1, "
            "it is reached by a tunnel"
        )


def _is_spot(node_config: Mapping[str, Any]) -> bool:
    """In the words of AWS and of Google Cloud."""
    aws = node_config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    scheduling = node_config.get("scheduling", {})
    entries = scheduling if isinstance(scheduling, list) else [scheduling]
    return aws or any(entry.get("preemptible") or entry.get("provisioningModel") == "SPOT" for entry in entries)


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{number}]")
    else:
        yield where, value
