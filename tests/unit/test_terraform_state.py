"""Terraform states: packing, the later of two copies, their contents, and a plan's replacements."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet

from prebuilds.api import InvalidInput, ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.terraform.driver import endpoint_of
from prebuilds.provisioners.terraform.state import (
    Saved,
    has_resources,
    later,
    pack,
    path_text,
    replacements_in,
    resource_names,
    seed,
    shown_outputs,
    unpack,
)
from prebuilds.settings import load_settings
from prebuilds.settings.state_key import StateKeyUnusable

THING = {"mode": "managed", "type": "terraform_data", "name": "thing", "instances": [{}]}


def state(serial: int, lineage: str = "one", *resources: dict[str, Any]) -> str:
    return json.dumps({"version": 4, "serial": serial, "lineage": lineage, "resources": list(resources)})


def test_a_packed_state_is_small_and_unpacks_to_the_original() -> None:
    saved = Saved(made_by=1, build=3, replaced=[Replacement(resource="a.b", paths=["c"])], text=seed(UUID(int=1)) * 50)
    packed = json.loads(json.dumps(pack(saved)))
    assert unpack(packed) == saved
    assert len(packed["data"]) < len(saved.text) / 10
    assert unpack(None) is None


def test_with_a_key_a_state_is_encrypted_and_older_ones_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(made_by=1, build=3, text='{"password": "hunter2"}')
    plain = pack(saved)
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    monkeypatch.setenv("PREBUILDS_STATE_KEY", old)
    encrypted = json.loads(json.dumps(pack(saved)))
    assert encrypted["encoding"] == "zlib+fernet"
    assert b"hunter2" in zlib.decompress(base64.b64decode(plain["data"]))
    with pytest.raises(zlib.error):
        zlib.decompress(base64.urlsafe_b64decode(encrypted["data"]))
    assert unpack(plain) == unpack(encrypted) == saved

    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{new}, {old}")
    assert unpack(encrypted) == saved
    renewed = pack(saved)
    monkeypatch.setenv("PREBUILDS_STATE_KEY", new)
    assert unpack(renewed) == saved
    with pytest.raises(StateKeyUnusable, match="no key in PREBUILDS_STATE_KEY opens"):
        unpack(encrypted)
    monkeypatch.delenv("PREBUILDS_STATE_KEY")
    with pytest.raises(StateKeyUnusable, match="is encrypted; set PREBUILDS_STATE_KEY"):
        unpack(encrypted)


@pytest.mark.parametrize("value", ["hunter2hunter2", "c2hvcnQ=", f"{'A' * 43}=,hunter2"])
def test_a_malformed_key_is_refused_by_name_and_not_repeated(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_KEY", value)
    with pytest.raises(InvalidInput, match="PREBUILDS_STATE_KEY: must be Fernet keys") as refused:
        load_settings()
    assert list(refused.value.details) == ["PREBUILDS_STATE_KEY"]
    assert "hunter2" not in str(refused.value) + str(refused.value.__cause__)


def test_no_key_and_an_empty_one_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_KEY", "")
    load_settings()
    assert pack(Saved(made_by=1, build=1, text="{}"))["encoding"] == "zlib+base64"


@pytest.mark.parametrize("change", [{"v": 2}, {"encoding": "zlib+age"}, {"data": "!"}, {"data": "AAAA"}])
def test_a_state_that_cannot_be_read_is_refused_and_not_forgotten(change: dict[str, Any]) -> None:
    packed = pack(Saved(made_by=1, build=1, text="{}"))
    with pytest.raises(ProvisionFailed, match="saved Terraform state"):
        unpack(packed | change)


@pytest.mark.parametrize(
    ("local", "saved", "chosen"),
    [
        (None, None, None),
        (state(1), None, "local"),
        (None, state(1), "saved"),
        (state(5), state(4), "local"),
        (state(4), state(4), "local"),
        (state(4), state(5), "saved"),
        ('{"serial": 9, "li', state(5), "saved"),
        (state(9, "other"), state(1), "saved"),
        (state(1, "other", THING), state(9), "local"),
        (state(9, "other", THING), state(1, "one", THING), "saved"),
    ],
)
def test_the_later_of_two_state_copies_is_used(local: str | None, saved: str | None, chosen: str | None) -> None:
    assert later(local, saved) == {"local": local, "saved": saved, None: None}[chosen]


def test_every_host_seeds_a_workspace_with_the_same_lineage() -> None:
    assert seed(UUID(int=1)) == seed(UUID(int=1)) != seed(UUID(int=2))
    assert not has_resources(seed(UUID(int=1)))


def test_a_states_resources_and_outputs_are_read() -> None:
    data = {"mode": "data", "type": "http", "name": "page", "instances": [{}]}
    assert not has_resources(state(1, "one", data, THING | {"instances": []}))
    assert has_resources(state(1, "one", data, THING))
    assert has_resources("{half a st"), "an unreadable state is not discarded"
    assert resource_names(state(1, "one", data, THING | {"module": "module.vm"})) == ["module.vm.terraform_data.thing"]
    outputs = {"b": {"value": 1}, "a": {"value": "x"}, "token": {"value": "hunter2", "sensitive": True}}
    assert shown_outputs(json.dumps({"outputs": outputs})) == {"a": "x", "b": 1}


def test_replacements_are_resources_and_paths_never_values() -> None:
    def change(address: str, actions: list[str], **more: Any) -> dict[str, Any]:
        return {"address": address, "change": {"actions": actions, "before": {"a": "hunter2"}, **more}}

    plan = {
        "resource_changes": [
            change("a.b", ["delete", "create"], replace_paths=[["disk", 0, "size"], ["owner"]]),
            change("c.d[0]", ["create", "delete"], replace_paths=[]) | {"action_reason": "replace_because_tainted"},
            change("e.f", ["update"]),
            change("g.h", ["delete"]),
            change("i.j", ["no-op"]),
        ]
    }
    assert replacements_in(plan) == [
        Replacement(resource="a.b", paths=["disk[0].size", "owner"]),
        Replacement(resource="c.d[0]", paths=["(replace because tainted)"]),
    ]
    assert path_text([0]) == "[0]"


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("http://vm.example/x", ("vm.example", 80)),
        ("https://vm.example:8443", ("vm.example", 8443)),
        ("ssh://me@vm.example", ("vm.example", 22)),
        ("10.0.0.1:22", ("10.0.0.1", 22)),
        ("[::1]:80", ("::1", 80)),
        ("vm.example", None),
        ("the third desk", None),
        ("vm:notaport", None),
    ],
)
def test_an_address_that_names_a_port_can_be_asked(address: str, endpoint: tuple[str, int] | None) -> None:
    assert endpoint_of(address) == endpoint
