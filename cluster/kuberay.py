"""A sweep on Kubernetes: the manifest of a RayJob that KubeRay runs, printed or applied.

Knows KubeRay's ``ray.io/v1`` (1.6 or newer, for a token of our own), where the clouds put spot machines, and kubectl.
Never knows a driver's inside: it runs ``cluster/inside.py`` as every job does.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from rich.console import Console

from cluster.answers import say
from cluster.jobs import ATTEMPT, ENTRY, KEEPER, SPEC, STORE
from cluster.local import HEALTH, access_token
from cluster.order import Order, job_environment
from cluster.share import SWEEP
from sweeps.spec import Resources, SweepSpec
from trainer.prepare import default_cache

if TYPE_CHECKING:
    from cluster.dispatch import Wish

TOKEN_SECRET, TOKEN_KEY = "isoflop-ray-token", "auth_token"
SHARED_CLAIM = "isoflop-shared"
ORDER_FOLDER = "/etc/isoflop"
NAME_LENGTH = 40
WAIT_SECONDS = 1800.0
MAX_REPLICAS = 8
IDLE_SECONDS = 600
DRAIN_SECONDS, GRACE_SECONDS = 20, 45
"""A pod's Ray drains in the first, within the second, which Kubernetes waits before it kills."""
# Ends of a sweep that another start would not change are no failures of the RayJob, or each would cost a new cluster.
ENTRYPOINT = f"sh -c 'python -m {KEEPER} {ENTRY} {ORDER_FOLDER}; end=$?; case $end in 1|3) exit 0;; esac; exit $end'"
# How spot machines are marked, by label on Google's, Amazon's and Azure's Kubernetes and with Karpenter.
SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
SPOT_TAINTS = {"cloud.google.com/gke-spot": "true", "kubernetes.azure.com/scalesetpriority": "spot"}

Manifest = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """For people: texts with their lines, nothing by reference."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def launch_with(spec: SweepSpec, wish: Wish, store: str, cache: str, console: Console) -> int:
    """Apply the sweep's manifests with kubectl, or print them with ``dry_run``; the exit status.

    Raises ``ValueError`` where the image is missing, or kubectl is or fails.
    """
    if wish.image is None:
        raise ValueError("--image is missing: give a container image with isoflop in it that the cluster can pull")
    order = Order(spec=spec.to_yaml(), store=store, cache=cache, bounds=wish.bounds, wait_seconds=WAIT_SECONDS)
    documents = manifests(spec, order, wish.image, wish.names)
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False)
    if wish.dry_run:
        console.file.write(text)
        return 0
    token = access_token(default_cache())
    secret = _kubectl(
        *("create", "secret", "generic", TOKEN_SECRET, f"--from-file={TOKEN_KEY}={token}"),
        *("--dry-run=client", "--output=yaml"),
    )
    _kubectl("apply", "--filename=-", stdin=secret)
    say(console, _kubectl("apply", "--filename=-", stdin=text).strip())
    name = documents[-1]["metadata"]["name"]
    say(console, f"see it with 'kubectl get rayjob {name}', end it with 'kubectl delete rayjob {name}'")
    cluster = f"$(kubectl get rayjob {name} --output jsonpath='{{.status.rayClusterName}}')"
    say(console, f"dashboard: kubectl port-forward service/{cluster}-head-svc 8265, with --on http://127.0.0.1:8265")
    return 0


def manifests(spec: SweepSpec, order: Order, image: str, names: tuple[str, ...] = ()) -> list[Manifest]:
    """The order as a ConfigMap and the RayJob that carries it out. No secret is in them."""
    name = kubernetes_name(spec.name, order.store)
    labels = {"app.kubernetes.io/name": "isoflop", "app.kubernetes.io/instance": name}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": order.files(),
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "entrypoint": ENTRYPOINT,
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": job_environment(order, names)}),
            "metadata": {
                "job_name": spec.name,
                SWEEP: spec.name,
                STORE: order.store,
                SPEC: spec.hash,
                ATTEMPT: "1",
            },
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "rayClusterSpec": _cluster(spec.resources, name, order, image),
        },
    }
    return [config, job]


def kubernetes_name(sweep: str, store: str) -> str:
    """A name that Kubernetes takes (RFC 1123), the same for the same sweep and store."""
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in sweep.lower()).strip("-") or "sweep"
    return f"{letters[:NAME_LENGTH].rstrip('-')}-{hashlib.sha256(f'{sweep} {store}'.encode()).hexdigest()[:6]}"


def _cluster(resources: Resources, name: str, order: Order, image: str) -> Manifest:
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": IDLE_SECONDS, "upscalingMode": "Default"},
        "headGroupSpec": {
            # The driver and Ray's servers have the head for themselves; the dashboard is reached by a port-forward.
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _pod("ray-head", image, {"cpu": "4", "memory": "16Gi"}, order, name, is_head=True),
        },
        "workerGroupSpecs": _groups(resources, order, name, image),
    }


def _groups(resources: Resources, order: Order, name: str, image: str) -> list[Manifest]:
    """One kind of pod for trials on one GPU, and, where trials may take more, one with a whole machine's."""
    if not resources.gpus_per_trial:
        cpus = max(1, round(resources.cpus_per_trial))
        return [_group("cpu", {"cpu": str(4 * cpus), "memory": f"{16 * cpus}Gi"}, MAX_REPLICAS, order, name, image)]
    cpus = max(4, round(resources.cpus_per_trial))
    most = 8 if resources.max_gpus_per_trial == "auto" else resources.max_gpus_per_trial
    most = most if resources.workers_per_trial == "auto" else resources.workers_per_trial
    one = {"cpu": str(cpus), "memory": "32Gi", "nvidia.com/gpu": "1"}
    groups = [_group("gpu-1", one, MAX_REPLICAS, order, name, image)]
    if most > 1:
        many = {"cpu": str(cpus * most), "memory": f"{32 * most}Gi", "nvidia.com/gpu": str(most)}
        groups.append(_group(f"gpu-{most}", many, 1, order, name, image))
    return groups


def _group(kind: str, wanted: dict[str, str], most: int, order: Order, name: str, image: str) -> Manifest:
    return {
        "groupName": kind,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": _pod("ray-worker", image, wanted, order, name, is_head=False),
    }


def _pod(role: str, image: str, wanted: dict[str, str], order: Order, name: str, *, is_head: bool) -> Manifest:
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    settings |= HEALTH if is_head else {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_SECONDS)}
    mounts = [{"name": "shared", "mountPath": _shared_folder(order)}, {"name": "memory", "mountPath": "/dev/shm"}]
    volumes: list[Manifest] = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": SHARED_CLAIM}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    if is_head:
        mounts.append({"name": "order", "mountPath": ORDER_FOLDER})
        volumes.append({"name": "order", "configMap": {"name": name}})
    container = {
        "name": role,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in settings.items()],
        "resources": {"requests": wanted, "limits": wanted},
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod: Manifest = {"containers": [container], "volumes": volumes, "securityContext": {"runAsNonRoot": True}}
    pod |= {"affinity": _off_spot()} if is_head else {"tolerations": _tolerations(), **_grace()}
    return {"spec": pod}


def _off_spot() -> Manifest:
    """A sweep's driver dies with its head: not on machines that may go."""
    rules = [{"key": label, "operator": "NotIn", "values": [value]} for label, value in SPOT_LABELS.items()]
    terms = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _tolerations() -> list[Manifest]:
    gpu: Manifest = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return [
        gpu,
        *(
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in SPOT_TAINTS.items()
        ),
    ]


def _grace() -> Manifest:
    return {"terminationGracePeriodSeconds": GRACE_SECONDS}


def _shared_folder(order: Order) -> str:
    """Where the shared volume is mounted: the top folder of the store, or of the cache where the store is a URI."""
    place = order.cache if urlsplit(order.store).scheme else order.store
    return "/" + PurePosixPath(place).parts[1]


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    program = shutil.which("kubectl")
    if program is None:
        raise ValueError("kubectl is not installed here: install it, or print the manifests with --dry-run")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(f"kubectl {arguments[0]} failed ({last[0]}): mend that, or print the manifests with --dry-run")
    return done.stdout
