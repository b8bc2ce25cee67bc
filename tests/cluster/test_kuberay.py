"""The manifests against what they are for: Kubernetes' own definitions of pods and a ConfigMap, KubeRay's for the rest.

Kubernetes' come with kubernetes-validate, which refuses a field that they do not have. No package carries KubeRay's:
what a RayJob and its cluster may have stands here as in ``rayjob_types.go`` and ``raycluster_types.go`` of
``ray-operator/apis/ray/v1`` (fields, types, which must be there, and the values of an enumeration), as far as a
manifest may use it; all else is refused. No API server has seen these manifests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.kuberay import SHARED_CLAIM, kubernetes_name, manifests
from cluster.order import Order
from sweeps.reading import read_spec
from tests.cluster.sweep import SPEC

KUBERNETES = ("1.29", "1.34")
TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


def record(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def several(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


POD = {"type": "object"}
GROUP = record(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName={"type": "string", "pattern": NAME},
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    rayStartParams=TEXTS,
    template=POD,
)
CLUSTER = record(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=record(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=record(
        idleTimeoutSeconds=WHOLE, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
    ),
    headGroupSpec=record(("rayStartParams", "template"), rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=several(GROUP),
)
METADATA = record(("name",), name={"type": "string", "pattern": NAME}, labels=TEXTS)
JOB = record(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=record(
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        metadata=TEXTS,
        backoffLimit=WHOLE,
        shutdownAfterJobFinishes=TRUTH,
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=CLUSTER,
    ),
)


def templates(job: Any) -> list[dict[str, Any]]:
    """The pods of a RayJob, each as the resource that Kubernetes knows."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    kind = {"apiVersion": "v1", "kind": "PodTemplate"}
    return [{**kind, "metadata": {"name": f"group-{i}"}, "template": g["template"]} for i, g in enumerate(groups)]


def made(resources: str = "", store: str = "/shared/stores/fake", name: str = "fake") -> tuple[Any, Any]:
    spec = read_spec(SPEC.replace("name: fake", f"name: {name}") + resources)
    order = Order(spec=spec.to_yaml(), store=store, cache="/shared/cache")
    config, job = manifests(spec, order, "registry/isoflop:1")
    return config, job


@pytest.mark.parametrize(
    ("resources", "groups"),
    [
        ("", {"cpu": None}),
        ("resources: {gpus_per_trial: 1}\n", {"gpu-1": "1", "gpu-8": "8"}),
        ("resources: {gpus_per_trial: 0.25, max_gpus_per_trial: 1}\n", {"gpu-1": "1"}),
        ("resources: {gpus_per_trial: 1, workers_per_trial: 4}\n", {"gpu-1": "1", "gpu-4": "4"}),
    ],
)
def test_the_manifests_are_what_kuberay_and_kubernetes_take(resources: str, groups: dict[str, str | None]) -> None:
    config, job = made(resources)
    jsonschema.validate(job, JOB)
    for version in KUBERNETES:
        for resource in (config, *templates(job)):
            kubernetes_validate.validate(resource, version, strict=True)
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    found = {
        group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for group in workers
    }
    assert found == groups
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in workers)


def test_a_field_that_nobody_knows_would_be_seen() -> None:
    _, job = made()
    [head, *_] = templates(job)
    head["template"]["spec"]["toleration"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="toleration"):
        kubernetes_validate.validate(head, KUBERNETES[-1], strict=True)
    job["spec"]["rayClusterSpec"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(job, JOB)


def test_the_token_is_a_secret_by_name_and_nowhere_else() -> None:
    config, job = made()
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "isoflop-ray-token"}
    assert "RAY_AUTH" not in json.dumps([config, job["spec"]["runtimeEnvYAML"]])


def test_workers_may_be_spot_and_the_head_may_not() -> None:
    _, job = made("resources: {gpus_per_trial: 1}\n")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in head
    rules = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    keys = {rule["key"] for term in rules["nodeSelectorTerms"] for rule in term["matchExpressions"]}
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        tolerated = {toleration["key"] for toleration in pod["tolerations"]}
        assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= tolerated
        assert tolerated - {"nvidia.com/gpu"} <= keys
        [container] = pod["containers"]
        drain = {entry["name"]: entry["value"] for entry in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        assert int(drain) < pod["terminationGracePeriodSeconds"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_order_arrives_in_the_head_s_folder(tmp_path: Path) -> None:
    config, job = made()
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    order = Order.read(tmp_path)
    assert order.store == "/shared/stores/fake"
    assert read_spec(order.spec).name == "fake"
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "order"]
    assert f"python -m cluster.keep cluster.inside {mount['mountPath']};" in job["spec"]["entrypoint"]
    assert {"name": "order", "configMap": {"name": config["metadata"]["name"]}} in pod["volumes"]
    [shared] = [volume for volume in pod["volumes"] if volume["name"] == "shared"]
    assert shared["persistentVolumeClaim"]["claimName"] == SHARED_CLAIM
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["ISOFLOP_CACHE"] == "/shared/cache"


@pytest.mark.parametrize("sweep", ["fake", "Pythia_v1.2", "-", "x" * 100, "9lives", "a..b"])
def test_every_sweep_s_name_becomes_one_that_kubernetes_takes(sweep: str) -> None:
    name = kubernetes_name(sweep, "/s")
    jsonschema.validate(name, {"type": "string", "pattern": NAME})
    assert name != kubernetes_name(sweep, "/t") and name == kubernetes_name(sweep, "/s")
