"""The cluster files that come with the project, by Ray's own schema, and what is refused in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.clusterfile import BLANK, read_cluster_file
from cluster.onprem import on_prem

FOLDER = Path(__file__).parents[2] / "cluster"
CLOUDS = ("aws", "gcp")


def shipped(name: str) -> dict[str, Any]:
    """The file that comes with the project, filled in as a person would."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner) for inner in value]
        return "filled-in" if isinstance(value, str) and BLANK in value else value

    filled: dict[str, Any] = fill(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    return filled


def written(folder: Path, fields: dict[str, Any]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize("name", [*CLOUDS, "onprem"])
def test_a_shipped_file_asks_to_be_filled_in_and_is_then_well_formed(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"is .*{BLANK}.*: fill it in"):
        read_cluster_file(FOLDER / f"{name}.yaml")
    assert read_cluster_file(written(tmp_path, shipped(name))) == shipped(name)


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_has_an_on_demand_head_without_trials_spot_workers_limits_a_token_and_an_end(name: str) -> None:
    fields = shipped(name)
    types = fields["available_node_types"]
    head = types[fields["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    workers = [kind for key, kind in types.items() if key != fields["head_node_type"]]
    assert all("SPOT" in str(kind["node_config"]).upper() for kind in workers)
    assert "SPOT" not in str(head["node_config"]).upper()
    assert all(kind["min_workers"] == 0 and 0 < kind["max_workers"] <= fields["max_workers"] for kind in workers)
    assert all(kind["resources"]["GPU"] >= 1 for kind in workers)
    assert fields["idle_timeout_minutes"] > 0
    commands = "\n".join([*fields["head_start_ray_commands"], *fields["worker_start_ray_commands"]])
    assert commands.count("RAY_AUTH_MODE=token") == 2
    assert commands.count("RAY_AUTH_TOKEN_PATH=$HOME/.isoflop/ray-token") == 2
    assert "chmod 600 ~/.isoflop/ray-token" in fields["setup_commands"]
    assert "--dashboard-host=127.0.0.1" in commands


def unknown_field(fields: dict[str, Any]) -> None:
    fields["max_wrkers"] = 3


def no_workers_number(fields: dict[str, Any]) -> None:
    fields["max_workers"] = "many"


def more_at_least_than_at_most(fields: dict[str, Any]) -> None:
    fields["available_node_types"]["l4"]["min_workers"] = 99


def another_head(fields: dict[str, Any]) -> None:
    fields["head_node_type"] = "boss"


def spot_head_aws(fields: dict[str, Any]) -> None:
    fields["available_node_types"]["head"]["node_config"]["InstanceMarketOptions"] = {"MarketType": "spot"}


def spot_head_gcp(fields: dict[str, Any]) -> None:
    fields["available_node_types"]["head"]["node_config"]["scheduling"] = [{"preemptible": True}]


def no_token(fields: dict[str, Any]) -> None:
    fields["worker_start_ray_commands"] = ["ray start --address=$RAY_HEAD_IP:6379"]


def open_dashboard(fields: dict[str, Any]) -> None:
    commands = fields["head_start_ray_commands"]
    fields["head_start_ray_commands"] = [command.replace("127.0.0.1", "0.0.0.0") for command in commands]


def another_provider(fields: dict[str, Any]) -> None:
    fields["provider"]["type"] = "moon"


def no_provider(fields: dict[str, Any]) -> None:
    del fields["provider"]


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("aws", unknown_field, "max_wrkers"),
        ("aws", no_workers_number, "max_workers does not fit"),
        ("gcp", more_at_least_than_at_most, "l4|min_workers"),
        ("aws", another_head, "head_node_type"),
        ("aws", spot_head_aws, "head is a spot machine"),
        ("gcp", spot_head_gcp, "head is a spot machine"),
        ("gcp", no_token, "worker_start_ray_commands starts Ray without RAY_AUTH_MODE=token"),
        ("aws", open_dashboard, "opens the dashboard to every network"),
        ("aws", another_provider, "provider.type is 'moon': choose among aws, gcp, onprem"),
        ("aws", no_provider, "provider is missing"),
    ],
)
def test_what_would_fail_or_be_unsafe_is_refused(
    name: str, spoil: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    fields = copy.deepcopy(shipped(name))
    spoil(fields)
    with pytest.raises(ValueError, match=words):
        read_cluster_file(written(tmp_path, fields))


def test_what_is_no_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("cluster_name: a\nprovider: {type: [\n")
    with pytest.raises(ValueError, match=r"broken\.yaml, line \d is not YAML"):
        read_cluster_file(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"python": "python3"}, "python"),
        ({"cluster_name": "a; rm -rf /"}, "cluster_name"),
        ({"workers": [{"hots": "a"}]}, r"workers\.0\.hots|workers\.0\.host"),
        ({"workers": [{"host": "-oProxyCommand=x"}]}, "which ssh would read as an option"),
        ({"ports": {"cluster": "many"}}, r"ports\.cluster"),
    ],
)
def test_a_wrong_field_of_machines_of_one_s_own_is_named(spoil: dict[str, Any], words: str, tmp_path: Path) -> None:
    fields = shipped("onprem") | spoil
    with pytest.raises(ValueError, match=words):
        on_prem(fields, tmp_path / "mine.yaml")
