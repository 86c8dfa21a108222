"""The fields of a container template, and those whose change replaces the container at a claim."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from prebuilds.api import ProvisionerUnavailable
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.container.engines import Engines
from prebuilds.provisioners.container.source import parse_source
from prebuilds.provisioners.container.spec import SPEC_LABEL, Spec, resolve
from tests.identities import WHO

WORKSPACE = UUID("00000000-0000-4000-8000-000000000001")
IMAGE = {"image": "busybox"}


def wanted(**changes: Any) -> Provision:
    return Provision(
        **WHO,
        **{
            "workspace_id": WORKSPACE,
            "build_number": 1,
            "name": "prebuild-1",
            "owner": "prebuilds",
            "organization": "acme",
            "template": "python",
            "preset": "small",
            "source": {},
            **changes,
        },
    )


def spec_of(source: dict[str, Any], **changes: Any) -> Spec:
    return resolve(parse_source(IMAGE | source), wanted(**changes))


@pytest.mark.parametrize(
    ("source", "field", "says"),
    [
        ({}, "source.image", "is required"),
        (IMAGE | {"imgae": "x"}, "source.imgae", "unknown key"),
        (IMAGE | {"command": "sleep 1"}, "source.command", "list of words"),
        (IMAGE | {"entrypoint": []}, "source.entrypoint", "at least 1"),
        (IMAGE | {"env": {"A": "{folder}"}}, "source.env.A", "mounts"),
        (IMAGE | {"env": {"A": "{port}"}}, "source.env.A", "address only"),
        (IMAGE | {"env": {"A=B": "x"}}, "source.env", "no variable's name"),
        (IMAGE | {"labels": {"prebuilds.x": "y"}}, "source.labels", "are reserved for Prebuilds"),
        (IMAGE | {"memory": "lots"}, "source.memory", "512m"),
        (IMAGE | {"memory": "1k"}, "source.memory", "greater than"),
        (IMAGE | {"cpus": 0}, "source.cpus", "greater than 0"),
        (IMAGE | {"pids": 0}, "source.pids", "greater than"),
        (IMAGE | {"ports": [0]}, "source.ports.0", "greater than"),
        (IMAGE | {"ports": [80, 80]}, "source", "named twice"),
        (IMAGE | {"ports": [80], "network": "none"}, "source", "none can be published"),
        (IMAGE | {"publish_on": "localhost"}, "source.publish_on", "IP address"),
        (IMAGE | {"pull": "sometimes"}, "source.pull", "never"),
        (IMAGE | {"mounts": [{"target": "/x"}]}, "source.mounts.0", "exactly one of volume and bind"),
        (IMAGE | {"mounts": [{"volume": "v", "target": "x"}]}, "source.mounts.0.target", "full path"),
        (IMAGE | {"mounts": [{"bind": "x", "target": "/x"}]}, "source.mounts.0", "full path"),
        (IMAGE | {"mounts": [{"volume": "a", "target": "/x"}, {"volume": "b", "target": "/x/"}]}, "source", "same"),
        (IMAGE | {"ready": {"http": "/", "tcp": True}, "ports": [1]}, "source.ready", "exactly one"),
        (IMAGE | {"ready": {"http": "x"}, "ports": [1]}, "source.ready", "starts with /"),
        (IMAGE | {"ready": {"exec": ["id", "{owner}"]}}, "source.ready", "the owner changes"),
        (IMAGE | {"ready": {"tcp": True}}, "source", "need ports"),
        (IMAGE | {"address": "{port}"}, "source", "needs ports"),
        (IMAGE | {"claim": {"signal": "SIGHUP"}}, "source.claim.signal", "unknown key"),
        (IMAGE | {"claim": {"mode": "rw"}}, "source.claim.mode", "match"),
        (IMAGE | {"claim": {"files": {"/a": "{nobody}"}}}, "source.claim.files./a", "no placeholder"),
        (IMAGE | {"claim": None}, "source.claim", "must be false"),
        (IMAGE | {"claim": False, "env": {"WHO": "{owner}"}}, "source", "env.WHO names {owner}"),
        (IMAGE | {"claim": False, "env": {"WHO": "{owner_slug}"}}, "source", "env.WHO names {owner_slug}"),
        (IMAGE | {"user": "{owner}"}, "source", "user: {owner} may be any text"),
        (IMAGE | {"entrypoint": ["sh", "-c"], "command": ["echo {owner}"]}, "source", "a shell's script"),
        (IMAGE | {"claim": {"exec": ["/bin/bash", "-ec", "echo {owner}"]}}, "source", "a shell's script"),
        (IMAGE | {"stop_timeout": "soon"}, "source.stop_timeout", ""),
        (IMAGE | {"cap_drop": ["net raw"]}, "source.cap_drop.0", "match"),
        (IMAGE | {"tmpfs": ["tmp"]}, "source.tmpfs.0.target", "full path"),
        (IMAGE | {"tmpfs": ["/prebuilds"]}, "source", "tmpfs: the claim cannot write /prebuilds/claim.json"),
        (IMAGE | {"runtime": "/bin/sh"}, "source.runtime", "match"),
        (IMAGE | {"read_only": True}, "source", "the claim cannot write /prebuilds/claim.json; name a file below"),
        (
            IMAGE | {"mounts": [{"bind": "/{owner}/x", "target": "/x"}]},
            "source.mounts.0",
            "before its first placeholder",
        ),
        (
            IMAGE | {"mounts": [{"bind": "/a{owner}", "target": "/x"}]},
            "source.mounts.0",
            "before its first placeholder",
        ),
    ],
)
def test_a_wrong_field_is_named(source: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidSource) as refused:
        parse_source(source)
    assert list(refused.value.details) == [field]
    assert says in refused.value.details[field]


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 * 1024**2), ("2GiB", 2 * 1024**3), ("8388608", 8388608), (8388608, 8388608)]
)
def test_memory_is_read_as_people_write_it(text: Any, size: int) -> None:
    assert parse_source(IMAGE | {"memory": text}).memory == size


def test_a_parameter_without_a_value_can_never_work() -> None:
    with pytest.raises(InvalidSource) as refused:
        spec_of({"env": {"SIZE": "{param.size}"}})
    assert list(refused.value.details) == ["source.env.SIZE"]


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ({"env": {"A": "{owner}", "B": "fixed"}}, ["env.A"]),
        ({"command": ["run", "{name}"]}, ["command"]),
        ({"entrypoint": ["/bin/{param.tool}"]}, ["entrypoint"]),
        ({"labels": {"team": "{owner}"}}, ["labels.team"]),
        ({"mounts": [{"bind": "/srv/{owner}", "target": "/home"}]}, ["mounts./home"]),
        ({"image": "tools:{param.tool}", "user": "{owner_slug}", "workdir": "/{owner}"}, ["image", "user", "workdir"]),
        ({"env": {"A": "{workspace_id}{preset}"}, "mounts": [{"volume": "v", "target": "/v"}]}, []),
        ({"claim": {"files": {"/etc/motd": "{owner}"}, "exec": ["tell", "{owner}"]}}, []),
    ],
)
def test_a_claims_container_changes_are_listed_by_path(source: dict[str, Any], paths: list[str]) -> None:
    parameters = {"tool": "one"}
    before = spec_of(source, parameters=parameters).config["Labels"]
    own = {"owner": "alice", "name": "dev", "build_number": 2, "parameters": parameters}
    claim = spec_of(source, **own, claim_parameters={"tool": "another"})
    assert claim.differs_from(before) == paths
    assert claim.differs_from(claim.config["Labels"]) == []


@pytest.mark.parametrize("project", ["", ".", "..", "../bob", "a/../../bob", "a//b", "/etc"])
def test_a_bind_stays_below_the_template_s_own_folder(project: str) -> None:
    source = {"mounts": [{"bind": "/srv/homes/{param.project}", "target": "/x"}]}
    assert spec_of(source, claim_parameters={"project": "a/b"}).binds[0].path == "/srv/homes/a/b"
    with pytest.raises(InvalidSource, match="a folder below /srv/homes") as refused:
        spec_of(source, claim_parameters={"project": project})
    assert list(refused.value.details) == ["source.mounts.0.bind"]


def test_bounds_that_a_template_leaves_out_make_no_container_another_one() -> None:
    plain, bounded = spec_of({}), spec_of({"cap_drop": ["ALL"], "no_new_privileges": True})
    assert bounded.differs_from(plain.config["Labels"]) == ["cap_drop", "no_new_privileges"]
    assert "runtime" not in plain.fingerprints
    host = plain.config["HostConfig"]
    assert (host["SecurityOpt"], host["PidsLimit"]) == (["no-new-privileges"], 4096)


def test_labels_tell_no_value_and_not_which_are_equal() -> None:
    secret = {"env": {"TOKEN": "{param.token}"}}
    one = spec_of(secret, parameters={"token": "hunter2"}).config["Labels"]
    other = spec_of(secret, parameters={"token": "hunter2"}, workspace_id=UUID(int=2)).config["Labels"]
    assert "hunter2" not in json.dumps(one)
    assert json.loads(one[SPEC_LABEL])["env.TOKEN"] != json.loads(other[SPEC_LABEL])["env.TOKEN"]


@pytest.mark.parametrize(
    ("engine", "publish_on", "named", "host"),
    [
        ("unix:///run/docker.sock", "127.0.0.1", None, "127.0.0.1"),
        ("unix:///run/docker.sock", "::", None, "127.0.0.1"),
        ("unix:///run/docker.sock", "0.0.0.0", "dev.example", "dev.example"),
        ("unix:///run/docker.sock", "127.0.0.1", "dev.example", "127.0.0.1"),
        ("tcp://engine.example:2375", "::", None, "engine.example"),
        ("tcp://engine.example:2375", "::", "dev.example", "dev.example"),
        ("tcp://engine.example:2375", "10.0.0.7", "dev.example", "10.0.0.7"),
    ],
)
def test_an_address_is_where_the_engine_publishes(
    monkeypatch: pytest.MonkeyPatch, engine: str, publish_on: str, named: str | None, host: str
) -> None:
    monkeypatch.setenv("PREBUILDS_ENGINE_HOST", named or "")
    source = parse_source(IMAGE | {"ports": [80], "ready": {"http": "/"}, "publish_on": publish_on})
    assert source.shown_address(Engines(engine).host_of(publish_on)) == f"http://{host}:{{port}}"


async def test_an_invalid_engine_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_ENGINE_HOST", "http://dev.example/")
    with pytest.raises(ProvisionerUnavailable, match="PREBUILDS_ENGINE_HOST is neither"):
        async with Engines("unix:///run/docker.sock").open():
            pass


def test_ports_in_the_network_are_not_published() -> None:
    spec = spec_of({"ports": [80], "publish_on": "network"})
    assert spec.config["HostConfig"]["PortBindings"] == {}
    assert spec.config["ExposedPorts"] == {"80/tcp": {}}
