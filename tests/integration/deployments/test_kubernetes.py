"""The manifests of docker/k8s: they fit together, they start a bridge that works, and Kubernetes' schemas take them.

`kubectl kustomize` was run on both by hand (docs/deploying.md), and by no test.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.settings import Settings
from tests.support.helpers import COMMAND_S, eventually, free_ports
from tests.support.house import API_KEY, ROOT, House

pytestmark = pytest.mark.slow

K8S = ROOT / "docker" / "k8s"
FOLDER = K8S / "base"


def manifests() -> dict[tuple[str, str], Any]:
    """What the kustomizations name, by kind and name."""
    found = {}
    for folder in (FOLDER, K8S / "keda"):
        for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
            if (folder / name).is_file():
                for one in yaml.safe_load_all((folder / name).read_text()):
                    found[one["kind"], one["metadata"]["name"]] = one
    return found


def pods() -> dict[str, Any]:
    """The pod templates by the name of their Deployment."""
    return {name: one["spec"]["template"] for (kind, name), one in manifests().items() if kind == "Deployment"}


def settings() -> dict[str, str]:
    """What the ConfigMap says."""
    lines = (FOLDER / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def matches(selector: Any, pod: Any) -> bool:
    """Whether a label selector means the pod."""
    return bool(selector.items() <= pod["metadata"]["labels"].items())


def test_each_file_is_named_and_each_name_leads_somewhere() -> None:
    """Selectors mean pods, volumes are mounted, budgets leave one of each, and KEDA scales what there is."""
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    config = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert files == set(config["resources"])
    assert all((FOLDER / name).exists() for name in [*config["configMapGenerator"][0]["envs"], "bridge.toml"])
    has = manifests()
    for (kind, name), one in has.items():
        if kind == "Deployment":
            assert matches(one["spec"]["selector"]["matchLabels"], pods()[name])
        if kind == "Service":
            assert all(matches(one["spec"]["selector"], pod) for pod in pods().values())
        if kind == "PodDisruptionBudget":
            assert one["spec"]["minAvailable"] == 1
            assert matches(one["spec"]["selector"]["matchLabels"], pods()[name])
            assert has["Deployment", name]["spec"]["replicas"] > 1, "else no node can be drained"
    scaled = has["ScaledObject", "bridge-engine"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in pods()
    assert 1 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"], "RunPod forgets results while no engine lives"
    (trigger,) = scaled["triggers"]
    assert "bridge_engine_lag_seconds" in trigger["metadata"]["query"]


def test_no_kustomization_stands_inside_of_one_that_it_takes() -> None:
    """Kustomize refuses that as a cycle; and each folder that is named has one."""
    files = sorted(K8S.rglob("kustomization.yaml"))
    assert [file.parent.name for file in files] == ["base", "keda", "k8s"]
    for file in files:
        for name in yaml.safe_load(file.read_text())["resources"]:
            taken = (file.parent / name).resolve()
            if taken.is_dir():
                assert (taken / "kustomization.yaml").exists()
                assert not file.parent.resolve().is_relative_to(taken)


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_may_do_no_more_than_it_must(name: str) -> None:
    """Pod Security's `restricted`, a root that is read only, no token; probes and times as documented."""
    spec = pods()[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001, "the image's user"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = float(Settings.model_fields["bridge_stop_grace_s"].default)
    assert spec["terminationGracePeriodSeconds"] >= waits + grace + 10


def test_the_metric_of_the_scaled_object_can_be_asked_for() -> None:
    """By the address of a Service that the NetworkPolicy lets Prometheus reach."""
    policy = manifests()["NetworkPolicy", "bridge"]["spec"]
    assert all(matches(policy["podSelector"]["matchLabels"], pod) for pod in pods().values())
    address = manifests()["ScaledObject", "bridge-engine"]["spec"]["triggers"][0]["metadata"]["serverAddress"]
    named = [rule["namespaceSelector"]["matchLabels"] for rule in policy["ingress"][0]["from"]]
    namespace = re.fullmatch(r"http://\w+\.(\w+)\.svc:\d+", address)
    assert namespace
    assert {"kubernetes.io/metadata.name": namespace[1]} in named


def test_worker_and_engine_as_the_manifests_start_them_do_a_job(redis_url: str, tmp_path: Path) -> None:
    """With their arguments and variables, secrets from files, and both probes answered."""
    secrets, config = tmp_path / "secrets", tmp_path / "bridge.toml"
    secrets.mkdir()
    config.write_text((FOLDER / "bridge.toml").read_text())
    ports = dict(zip(pods(), free_ports(len(pods())), strict=True))
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        for name, value in (("runpod_api_key", API_KEY), ("broker_url", redis_url), ("result_backend", redis_url)):
            (secrets / name).write_text(value + "\n")
        (secrets / "redis_url").write_text(redis_url + "\n")
        for name in (
            "RUNPOD_API_KEY",
            "CELERY_BROKER_URL",
            "CELERY_RESULT_BACKEND",
            "BRIDGE_REDIS_URL",
            "RUNPOD_ENDPOINT_ID",
        ):
            del house.environment[name]
        for name, pod in pods().items():
            (container,) = pod["spec"]["containers"]
            told = {**settings(), **{one["name"]: one["value"] for one in container.get("env", ())}}
            assert {variable.lower().removesuffix("_file") for variable in told} <= {
                field.removesuffix("_file") for field in Settings.model_fields
            }
            here = {
                key: value.replace("/run/secrets/bridge", str(secrets)).replace("/etc/bridge", str(tmp_path))
                for key, value in told.items()
            }
            command = [str(Path(sys.executable).with_name("bridge")), *container["args"]]
            house.start(name, *command, **here, BRIDGE_HTTP_BIND=f"127.0.0.1:{ports[name]}")
        for name, pod in pods().items():
            (container,) = pod["spec"]["containers"]
            for probe in ("livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                eventually(partial(answers, ports[name], path), timeout=30)
        assert house.send({"a": 1}, endpoint="demo").get(timeout=60) == {"a": 1}


def answers(port: int, path: str) -> bool:
    """Whether it is 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bool(answer.status == 200)


@pytest.mark.versions
@pytest.mark.timeout(600)
def test_kubernetes_schemas_take_each_manifest(tmp_path: Path) -> None:
    """By `kubernetes-validate`, strictly: a field that it does not know is a fault. KEDA's kind is not among them."""
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", str(tmp_path / "venv"), "--python", sys.executable], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), "kubernetes-validate"], check=True)
    ours = {f"{kind}-{name}": one for (kind, name), one in manifests().items() if kind != "ScaledObject"}
    wrong = json.loads(json.dumps(ours["Deployment-bridge-engine"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    for name, one in {**ours, "wrong": wrong}.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(one))
        for version in ("1.27", "1.34"):
            command = [str(python), "-m", "kubernetes_validate", "--strict", "-k", version, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
            assert (done.returncode == 0) is (name != "wrong"), done.stdout + done.stderr
