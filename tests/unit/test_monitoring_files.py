"""The configuration of Prometheus and Grafana fits the Compose services, the rules and the dashboards."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.unit.compose_file import ROOT, required, resolved

SERVICES = resolved(dict.fromkeys(required(), "x"))["services"]
PROMTOOL = shutil.which("promtool")


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


def test_prometheus_scrapes_every_process_of_ours_under_a_job_of_the_rules() -> None:
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"]
        for job in read("prometheus/prometheus.yml")["scrape_configs"]
    }
    always = {name for name, service in SERVICES.items() if service.get("build") and "profiles" not in service}
    assert set(jobs["prebuilds"]) == {f"{name}:9464" for name in always - {"migrate"}}
    assert jobs["temporal"] == [f"temporal:{SERVICES['temporal']['environment']['PROMETHEUS_ENDPOINT'].split(':')[1]}"]


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: Debian has it in `prometheus`")
def test_prometheus_takes_its_configuration() -> None:
    command = [str(PROMTOOL), "check", "config", "deploy/prometheus/prometheus.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout


def test_grafana_is_given_its_source_and_the_dashboards() -> None:
    [source] = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    [provider] = read("grafana/provisioning/dashboards/prebuilds.yml")["providers"]
    mounted = [volume.split(":") for volume in SERVICES["grafana"]["volumes"] if volume.startswith("./")]
    at = {target: source for source, target, _ in mounted}
    folder = provider["options"]["path"]
    assert {ROOT / source for target, source in at.items() if target.startswith(folder)} == set(
        (ROOT / "deploy/grafana").glob("*.json")
    )
    assert at["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
