"""A container's machine: the fields that a template may set, the refusals, and the requests to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.source import parse_source
from tests.unit.test_container_source import IMAGE, spec_of


@pytest.mark.parametrize(
    ("source", "field", "says"),
    [
        ({"privileged": True}, "source.privileged", "unknown key"),
        ({"pid": "host"}, "source.pid", "unknown key"),
        ({"ipc": "host"}, "source.ipc", "unknown key"),
        ({"uts": "host"}, "source.uts", "unknown key"),
        ({"userns_mode": "host"}, "source.userns_mode", "unknown key"),
        ({"devices": ["/dev/sda"]}, "source.devices", "unknown key"),
        ({"hostname": "-x"}, "source", "hostname: must be a host name"),
        ({"hostname": "a" * 64}, "source", "at most 63"),
        ({"hostname": "{owner}"}, "source", "use {owner_slug}"),
        ({"extra_hosts": {"a b": "10.0.0.1"}}, "source.extra_hosts.a b.[key]", "host name"),
        ({"extra_hosts": {"db": "db.example"}}, "source.extra_hosts.db", "host-gateway"),
        ({"extra_hosts": {f"h{n}": "::1" for n in range(101)}}, "source.extra_hosts", "100"),
        ({"dns": ["one.one"]}, "source.dns.0", "IP address"),
        ({"dns": ["1.1.1.1"] * 4}, "source.dns", "at most 3"),
        ({"shm_size": "lots"}, "source.shm_size", "512m"),
        ({"shm_size": 0}, "source.shm_size", "greater than"),
        ({"shm_size": "2g", "memory": "1g"}, "source", "shm_size: 2147483648 bytes are more than memory"),
        ({"tmpfs": [{"target": "/x", "size": "2g"}], "memory": "1g"}, "source", "tmpfs /x: 2147483648 bytes"),
        ({"tmpfs": [{"target": "/x", "mode": 1}]}, "source.tmpfs.0.mode", "unknown key"),
        ({"init": "tini"}, "source.init", "true or false"),
        ({"ulimits": {"files": 1}}, "source.ulimits.files.[key]", "known are core, cpu"),
        ({"ulimits": {"nofile": "many"}}, "source.ulimits.nofile", ""),
        ({"ulimits": {"nofile": {"soft": 2, "hard": 1}}}, "source.ulimits.nofile", "soft must not be above hard"),
        ({"ulimits": {"nofile": {"soft": -1, "hard": 1}}}, "source.ulimits.nofile", "soft must not be above hard"),
        ({"platform": "arm64"}, "source.platform", "match"),
        ({"gpus": 0}, "source.gpus", "all, a number"),
        ({"gpus": True}, "source.gpus", "all, a number"),
        ({"gpus": ["0", 0]}, "source.gpus", "all, a number"),
        ({"restart": "always"}, "source.restart", "use unless-stopped"),
        ({"restart": "sometimes"}, "source.restart", "unless-stopped"),
    ],
)
def test_a_wrong_field_is_named(source: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidSource) as refused:
        parse_source(IMAGE | source)
    assert list(refused.value.details) == [field]
    assert says in refused.value.details[field]


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ("all", {"Count": -1, "DeviceIDs": None}),
        (2, {"Count": 2, "DeviceIDs": None}),
        ([0, "GPU-1a"], {"Count": 0, "DeviceIDs": ["0", "GPU-1a"]}),
    ],
)
def test_gpus_are_asked_for_as_the_engine_wants_it(gpus: Any, expected: dict[str, Any]) -> None:
    spec = spec_of({"gpus": gpus})
    [request] = spec.config["HostConfig"]["DeviceRequests"]
    assert request == expected | {"Driver": "", "Capabilities": [["gpu"]], "Options": {}}
    assert spec.needs_gpus


def test_a_restart_is_asked_for_as_the_engine_wants_it() -> None:
    def policy(restart: Any) -> Any:
        return spec_of({"restart": restart}).config["HostConfig"].get("RestartPolicy")

    assert policy(False) is None, "a bare no in YAML"
    assert policy("on-failure:3") == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert policy("unless-stopped") == {"Name": "unless-stopped", "MaximumRetryCount": 0}


def test_omitted_fields_do_not_change_a_containers_fingerprint() -> None:
    plain = spec_of({})
    changed = spec_of({"hostname": "dev", "gpus": "all", "dns": ["::1"], "ulimits": {"nofile": 9}})
    assert changed.differs_from(plain.config["Labels"]) == ["dns", "gpus", "hostname", "ulimits"]
    assert not {"gpus", "restart", "init"} & set(plain.fingerprints)


def test_a_host_name_from_a_value_is_checked_when_it_is_known() -> None:
    assert spec_of({"hostname": "{name}.dev"}).config["Hostname"] == "prebuild-1.dev"
    with pytest.raises(InvalidSource, match="must be a host name") as refused:
        spec_of({"hostname": "{param.name}"}, parameters={"name": "a b"})
    assert list(refused.value.details) == ["source.hostname"]
