"""The chart and the code have the same settings, and secrets come from Secrets alone."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet
from temporalio.envconfig import ClientConfigProfile

from prebuilds import settings
from prebuilds.settings import Settings, load_settings
from prebuilds.store.engine import PASSWORD_FILE
from tests.unit.chart.helm import CHART, FILES, container, environment, pod_templates, rendered
from tests.unit.chart.settings import SCHEMA, SET_BY_THE_CHART, offered

SECRETS = {
    "PREBUILDS_DATABASE_URL": "postgresql://somebody:secret@db.example.com/prebuilds",
    "PREBUILDS_STATE_KEY": Fernet.generate_key().decode(),
    "PREBUILDS_PAYLOAD_KEY": Fernet.generate_key().decode(),
    "PREBUILDS_WEBHOOK_URL": "https://hooks.example.com/secret",
    "TEMPORAL_API_KEY": "secret",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
}
FOLDER = "/run/secrets/prebuilds/"


def test_every_setting_is_in_the_schema_or_set_by_the_chart() -> None:
    config = json.loads(SCHEMA.read_text())["definitions"]["config"]["properties"]
    names = {name for name in config if name.startswith("PREBUILDS_")}
    assert names == offered(), "run `make reference`, or name a secret in tests/unit/chart/settings.py"


def test_every_secret_comes_from_a_secret() -> None:
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret <= SET_BY_THE_CHART
    template = (CHART / "templates/_environment.tpl").read_text()
    for name in secret:
        assert f'"PREBUILDS_{name}" $values.' in template, f"set PREBUILDS_{name} by a secretKeyRef"


@pytest.mark.parametrize("values", FILES)
def test_a_process_can_read_its_environment(
    values: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    objects = rendered(values)
    for name, pod in pod_templates(objects).items():
        with monkeypatch.context() as patch:
            for variable in os.environ:
                if variable.startswith(("PREBUILDS_", "TEMPORAL_")):
                    patch.delenv(variable)
            patch.setattr(settings, "_warned_variables", set())
            found = environment(objects, pod, SECRETS)
            for variable, value in found.items():
                patch.setenv(variable, value)
            with caplog.at_level(logging.WARNING):
                read = load_settings()
            assert not caplog.records, f"{name}: {caplog.text}"
            profile = ClientConfigProfile.load()
        assert (str(read.state_dir), read.metrics_port, read.metrics_host) == ("/var/lib/prebuilds", 9464, "0.0.0.0")
        assert read.http_host == ("0.0.0.0" if name.endswith("-http") else "127.0.0.1")
        assert profile.address == found["TEMPORAL_ADDRESS"]
        assert (profile.tls is not None) is (values in ("tls.yaml", "everything.yaml", "worker-controller.yaml"))
        assert (profile.api_key == "secret") is (values == "everything.yaml")


@pytest.mark.parametrize("values", FILES)
def test_files_that_variables_name_are_mounted(values: str) -> None:
    objects = rendered(values)
    for name, pod in pod_templates(objects).items():
        named = {value for value in environment(objects, pod, SECRETS).values() if value.startswith(FOLDER)}
        sources = [volume["projected"]["sources"] for volume in pod["spec"]["volumes"] if "projected" in volume]
        there = {FOLDER + item["path"] for each in sources for source in each for item in source["secret"]["items"]}
        assert named == there, name
        if values == "tls.yaml":
            assert len(there) == 6
            assert environment(objects, pod, SECRETS)["PGSSLROOTCERT"] in there


def test_each_process_is_to_the_database_who_it_has_to_be() -> None:
    expected = {"Job": "owner", "CronJob": "owner", "Deployment": "worker", "StatefulSet": "worker"}
    for name, pod in pod_templates(rendered("everything.yaml")).items():
        role = "server" if name.endswith("-http") else expected[name.split("/")[0]]
        assert environment(rendered("everything.yaml"), pod, SECRETS)["PGUSER"] == f"prebuilds_{role}", name
        [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == "secrets"]
        [source] = volume["projected"]["sources"]
        assert source["secret"]["name"] == f"prebuilds-{role}"


def test_a_whole_url_of_a_secret_stands_for_user_and_password() -> None:
    for name, pod in pod_templates(rendered("external-secrets.yaml")).items():
        [url] = [each for each in container(pod)["env"] if each["name"] == "PREBUILDS_DATABASE_URL"]
        role = "owner" if name.startswith(("Job/", "CronJob/")) else "worker"
        assert url["valueFrom"]["secretKeyRef"]["name"] == f"cluster-{role}"
        assert not {"PGUSER", PASSWORD_FILE} & {each["name"] for each in container(pod)["env"]}


def test_secrets_of_a_part_reach_that_part_alone() -> None:
    with_webhook = {
        name
        for name, pod in pod_templates(rendered("everything.yaml")).items()
        if any(each["name"] == "PREBUILDS_WEBHOOK_URL" for each in container(pod)["env"])
    }
    assert with_webhook == {"Deployment/workspaces-control"}


def test_no_value_of_the_chart_is_a_secret() -> None:
    """Each value that sounds like a secret is the name of a Secret or of a key in one."""

    def walk(value: Any, path: str = "") -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if name.endswith("Secret"):
                    assert isinstance(inner, str) or set(inner) == {"name", "key"}, path
                walk(inner, f"{path}.{name}")
        elif isinstance(value, str) and any(word in path.lower() for word in ("password", "apikey", "token")):
            assert path.endswith((".name", ".key")), path

    walk(yaml.safe_load((CHART / "values.yaml").read_text()))
