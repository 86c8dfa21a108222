"""The rendered objects are valid for Kubernetes and as restricted as the image."""

from __future__ import annotations

import tomllib
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from prebuilds.cli.app import command_tree
from prebuilds.temporal.workers import GRACE
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, PEOPLE_SUFFIX, PROVISIONER_QUEUE
from tests.unit.chart.helm import CHART, FILES, OTHERS, ROOT, container, of_kind, pod_templates, rendered, run_helm
from tests.unit.queries import RULES
from worker import parse_options

EVERY_FILE = pytest.mark.parametrize("values", FILES)


@EVERY_FILE
def test_helm_finds_nothing_to_complain_of(values: str) -> None:
    done = run_helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / values))
    assert done.returncode == 0, done.stdout + done.stderr


@EVERY_FILE
@pytest.mark.parametrize("version", ["1.27.0", kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(values: str, version: str) -> None:
    known = [each for each in rendered(values) if each["kind"] not in OTHERS]
    for each in known:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(known) > 10


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)


@EVERY_FILE
def test_every_process_is_an_ordinary_user_who_can_write_to_volumes_alone(values: str) -> None:
    for name, pod in pod_templates(rendered(values)).items():
        user = None if values == "external-secrets.yaml" else 10001  # there the values take it away, for OpenShift
        assert (pod["spec"]["securityContext"].get("runAsUser"), name) == (user, name)
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in container(pod)["volumeMounts"]}
        state = {"state"} if name.startswith("StatefulSet/") else set()
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]} | state
        assert container(pod)["resources"]["limits"]["memory"]


def test_user_folder_and_port_are_the_images() -> None:
    image = (ROOT / "Dockerfile").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())["podSecurityContext"]
    assert f"USER {values['runAsUser']}:{values['runAsGroup']}\n" in image
    assert "ENTRYPOINT" in image, "arguments alone are given, so that it stays"
    [settings] = of_kind(rendered("minimal.yaml"), "ConfigMap").values()
    for name in ("PREBUILDS_STATE_DIR", "PREBUILDS_METRICS_PORT"):
        assert f"{name}={settings['data'][name]}" in image
    assert all("command" not in container(pod) for pod in pod_templates(rendered("minimal.yaml")).values())


def test_without_a_security_context_the_cluster_chooses_the_user() -> None:
    """OpenShift refuses a user that it has not chosen."""
    for given in ("podSecurityContext=null", "podSecurityContext.runAsUser=null,podSecurityContext.fsGroup=null"):
        for pod in pod_templates(rendered("minimal.yaml", "--set", given)).values():
            assert not {"runAsUser", "fsGroup", "fsGroupChangePolicy"} & pod["spec"]["securityContext"].keys()
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


@EVERY_FILE
def test_no_secret_is_made_and_no_token_of_the_cluster_is_given_unasked(values: str) -> None:
    assert not of_kind(rendered(values), "Secret")
    for name, pod in pod_templates(rendered(values)).items():
        expected = name == "StatefulSet/workspaces-provisioner-terraform"
        assert pod["spec"]["automountServiceAccountToken"] is expected, name


@EVERY_FILE
def test_every_command_is_one_that_the_program_understands(values: str) -> None:
    roles = set()
    for pod in pod_templates(rendered(values)).values():
        program, command, *options = container(pod)["args"]
        assert program == "prebuilds"
        if command == "worker":
            roles.update(parse_options(options).roles)
        else:
            parsed: Any = typer.main.get_command(command_tree([command]))
            parsed.commands[command].make_context(command, list(options))
    served = {"control", "claims", "provisioner", *([] if values == "external-secrets.yaml" else ["http"])}
    assert roles == served


@EVERY_FILE
def test_a_worker_has_the_time_that_it_needs_to_drain(values: str) -> None:
    for name, pod in pod_templates(rendered(values)).items():
        if not name.startswith(("Job/", "CronJob/")):
            stop = container(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
            left = pod["spec"]["terminationGracePeriodSeconds"] - int(stop[1])
            assert left >= GRACE.total_seconds() + 5, name


@EVERY_FILE
def test_probes_and_services_name_ports_that_are_there(values: str) -> None:
    objects = rendered(values)
    pods = pod_templates(objects)
    for name, pod in pods.items():
        if name.startswith(("Job/", "CronJob/")):
            continue
        ports = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        expected = {"metrics": 9464, "http": 8080} if name.endswith("-http") else {"metrics": 9464}
        assert ports == expected
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            check = container(pod)[probe]["httpGet"]
            assert check["port"] in ports
            assert check["path"] == ("/readyz" if (probe, "http" in ports) == ("readinessProbe", True) else "/healthz")
    for service in of_kind(objects, "Service").values():
        chosen = [
            pod for pod in pods.values() if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ]
        targets = {port["targetPort"] for port in service["spec"].get("ports", ())}
        with_all = [pod for pod in chosen if targets <= {port["name"] for port in container(pod).get("ports", ())}]
        assert with_all, service["metadata"]["name"]


@EVERY_FILE
def test_selectors_and_scale_targets_name_existing_workloads(values: str) -> None:
    objects = rendered(values)
    pods = pod_templates(objects)
    for each in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget").values():
        labels = each["spec"]["selector"]["matchLabels"]
        found = [name for name, pod in pods.items() if labels.items() <= pod["metadata"]["labels"].items()]
        assert [name.split("/")[1] for name in found] == [each["metadata"]["name"]]
    for scaled in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject").values():
        target = scaled["spec"]["scaleTargetRef"]
        workload = of_kind(objects, target["kind"])[target["name"]]
        assert "replicas" not in workload["spec"], "an upgrade would undo what was scaled"


@EVERY_FILE
def test_jobs_before_an_install_need_nothing_that_comes_after_them(values: str) -> None:
    objects = rendered(values)
    hooks = {each["metadata"]["name"] for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})}
    [job] = of_kind(objects, "Job").values()
    pod = job["spec"]["template"]["spec"]
    account_is_given = values == "external-secrets.yaml"
    assert account_is_given or pod["serviceAccountName"] in hooks
    assert "envFrom" not in pod["containers"][0]
    assert "configMap" not in str(pod)
    assert container(job["spec"]["template"])["args"][:2] == ["prebuilds", "init"]
    jobs = of_kind(objects, "CronJob")
    assert len(jobs) == 2
    assert all(each["spec"]["suspend"] for each in jobs.values()), "a person begins them"


def test_roles_with_workflows_become_worker_deployments_under_the_controller() -> None:
    objects = rendered("worker-controller.yaml")
    assert set(of_kind(objects, "Deployment")) == {"main-prebuilds-http"}
    versioned = of_kind(objects, "WorkerDeployment")
    assert set(versioned) == {"main-prebuilds-control", "main-prebuilds-claims"}
    plain = of_kind(rendered("tls.yaml"), "Deployment")
    for name, each in versioned.items():
        assert each["apiVersion"] == "temporal.io/v1alpha1"
        spec = each["spec"]
        # What the controller's schema (1.7 to 1.11) knows. It takes no selector; the template is a Deployment's.
        assert set(spec) == {"replicas", "minReadySeconds", "workerOptions", "rollout", "sunset", "template"}
        assert spec["workerOptions"] == {"connectionRef": {"name": "main-prebuilds"}, "temporalNamespace": "default"}
        assert [step["rampPercentage"] for step in spec["rollout"]["steps"]] == [10, 50]
        assert container(spec["template"])["args"] == container(plain[name]["spec"]["template"])["args"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "metadata": each["metadata"], "template": spec["template"]},
            kubernetes_validate.latest_version(),
            strict=True,
        )
    [connection] = of_kind(objects, "Connection").values()
    assert connection["spec"] == {
        "hostPort": "temporal.example.com:7233",
        "mutualTLSSecretRef": {"name": "temporal-tls"},
    }


def test_the_worker_controller_leaves_claims_alone_unless_told() -> None:
    objects = rendered("minimal.yaml", "--set", "workerController.enabled=true")
    assert set(of_kind(objects, "WorkerDeployment")) == {"main-prebuilds-control"}
    assert "main-prebuilds-claims" in of_kind(objects, "Deployment")
    assert of_kind(objects, "Connection")["main-prebuilds"]["spec"].keys() == {"hostPort"}


def test_each_provisioner_worker_keeps_a_folder_of_its_own() -> None:
    for workload in of_kind(rendered("everything.yaml"), "StatefulSet").values():
        [claim] = workload["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "state"
        assert set(workload["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
        mounts = container(workload["spec"]["template"])["volumeMounts"]
        assert {"name": "state", "mountPath": "/var/lib/prebuilds"} in mounts


def test_backlogs_are_those_of_the_queues_that_are_served() -> None:
    scaled = of_kind(rendered("everything.yaml"), "ScaledObject")
    queues = {
        name: [(each["metadata"]["taskQueue"], each["metadata"]["queueTypes"]) for each in found["spec"]["triggers"]]
        for name, found in scaled.items()
    }
    of_terraform = [PROVISIONER_QUEUE, f"{PROVISIONER_QUEUE}{PEOPLE_SUFFIX}"]
    of_terraform += ["prebuilds-large", f"prebuilds-large{PEOPLE_SUFFIX}"]
    assert queues == {
        "workspaces-control": [(CONTROL_QUEUE, "workflow,activity")],
        "workspaces-provisioner-terraform": [(queue, "activity") for queue in of_terraform],
    }
    words = ("--set", "claims.autoscaling.by=backlog", "--set-json", "provisioners.terraform.queues=[]")
    defaults = of_kind(rendered("everything.yaml", *words), "ScaledObject")
    [claims] = defaults["workspaces-claims"]["spec"]["triggers"]
    assert claims["metadata"]["taskQueue"] == CLAIMS_QUEUE
    of_default = [
        each["metadata"]["taskQueue"] for each in defaults["workspaces-provisioner-terraform"]["spec"]["triggers"]
    ]
    assert of_default == of_terraform[:2]


def test_a_section_may_switch_off_what_all_have() -> None:
    budgets = of_kind(rendered("everything.yaml"), "PodDisruptionBudget")
    assert "workspaces-control" in budgets
    assert "workspaces-claims" not in budgets


def test_the_alerts_are_those_of_the_repository() -> None:
    [made] = of_kind(rendered("everything.yaml"), "PrometheusRule").values()
    base = "https://git.example.com/prebuilds/blob/main"
    text = RULES.read_text().replace("runbook_url: docs/", f"runbook_url: {base}/docs/")
    assert made["spec"] == yaml.safe_load(text)
    [monitor] = of_kind(rendered("everything.yaml"), "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["relabelings"] == [
        {"action": "replace", "targetLabel": "job", "replacement": "prebuilds-production"}
    ]
    services = of_kind(rendered("everything.yaml"), "Service").values()
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    assert [each["metadata"]["name"] for each in services if labels <= each["metadata"]["labels"].items()] == [
        "workspaces-metrics"
    ]
