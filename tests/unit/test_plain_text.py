"""Foreign text cannot act on a terminal: control characters are refused or escaped, and nothing else is changed."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from temporalio.api.failure.v1 import Failure

from prebuilds.api import InvalidInput, ProvisionFailed
from prebuilds.payloads import (
    ClaimId,
    ClaimRequest,
    LintInput,
    OperatorRequest,
    Replacement,
    parse_claim_id,
    parse_input,
)
from prebuilds.provisioners.base import Provisioned
from prebuilds.templates import parse_template_file
from prebuilds.temporal.converter import data_converter
from prebuilds.vocabulary.plain_text import LINES, check_plain, escape, escape_all
from workflows.raw import as_text, preset_ids, stop_cause

ACTING = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA0)]),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]
CLAIM = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}


@pytest.mark.parametrize("character", ACTING, ids=lambda character: f"U+{ord(character):04X}")
def test_control_characters_are_refused_and_escaped(character: str) -> None:
    with pytest.raises(ValueError, match=f"U\\+{ord(character):04X}, character 3 "):
        check_plain(f"ab{character}c")
    shown = escape(f"ab{character}c")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown != f"ab{character}c"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]8;;http://evil\x1b\\here", "\\x1b]8;;http://evil\\x1b\\here"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("half \ud800", "half \\ud800"),
        ("grüße 日本 👩\u200d💻 C:\\new", "grüße 日本 👩\u200d💻 C:\\new"),
    ],
)
def test_escaped_text_says_what_was_there(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters(codec=None)))
def test_only_control_characters_are_escaped_and_only_once(text: str) -> None:
    shown = escape(text)
    assert escape(shown) == shown == check_plain(shown)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not {unicodedata.bidirectional(c) for c in shown} & {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"}
    assert escape(text, keep=LINES).replace("\n", "\\n").replace("\t", "\\t") == shown


def test_escaping_a_value_includes_its_keys() -> None:
    assert escape_all({"k\n": ["a\x07", {"x": 1, "y": None}]}) == {"k\\n": ["a\\x07", {"x": 1, "y": None}]}


@pytest.mark.parametrize(
    ("model", "given", "field"),
    [
        (ClaimRequest, CLAIM | {"owner": "al\x1b[31mice"}, "owner"),
        (ClaimRequest, CLAIM | {"initiator": "bob\u202e"}, "initiator"),
        (ClaimRequest, CLAIM | {"preset": "a\nb"}, "preset"),
        (ClaimRequest, CLAIM | {"autostart_schedule": "* * * * *\x9b"}, "autostart_schedule"),
        (ClaimRequest, CLAIM | {"parameters": {"si\nze": "small"}}, "parameters"),
        (ClaimRequest, CLAIM | {"claim_parameters": {"token": "a\x1b[2Jb"}}, "claim_parameters"),
        (OperatorRequest, {"action": "pause", "reason": "why\nloop: running"}, "reason"),
        (OperatorRequest, {"action": "pause", "reason": "why", "by": "ops\r"}, "by"),
        (OperatorRequest, {"action": "release", "workspace": "alice/\x7f"}, "workspace"),
        (LintInput, {"preset": "a\x00"}, "preset"),
    ],
)
def test_control_characters_in_our_inputs_are_refused_by_field(model: Any, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=r"remove U\+") as refused:
        parse_input(model, given, "input")
    assert list(refused.value.details) == [field]
    assert str(refused.value).isprintable()


def test_a_claim_id_is_one_line() -> None:
    with pytest.raises(InvalidInput, match=r"claim_id: .* remove U\+001B"):
        parse_claim_id("order-1\x1b[1A")
    with pytest.raises(ValidationError):
        TypeAdapter(ClaimId).validate_python("order-1\n")


def test_a_parameters_value_may_have_lines() -> None:
    key = "-----BEGIN KEY-----\r\n\tabc\r\n-----END KEY-----\n"
    request = parse_input(ClaimRequest, CLAIM | {"claim_parameters": {"key": key}}, "claim")
    assert request.claim_parameters == {"key": key}


def test_a_template_may_have_line_breaks_but_no_control_characters() -> None:
    def file(**source: Any) -> str:
        template = {"name": "python", "provisioner": "process", "source": {"command": ["true"]} | source}
        return json.dumps({"organizations": [{"name": "acme", "templates": [template]}]})

    parse_template_file(file(command=["sh", "-c", "cat\n\techo"]))
    with pytest.raises(InvalidInput, match=r"source\.command\[0\]: .* remove U\+202E"):
        parse_template_file(file(command=["rm\u202e"]))
    with pytest.raises(InvalidInput, match=r"the key must not have control characters; remove U\+000A"):
        parse_template_file(file(env={"A\nB": "x"}))


def test_an_error_escapes_the_text_that_it_quotes() -> None:
    error = ProvisionFailed("no image \x1b[31mx:\nits log", {"k\x07": "v\u202e"})
    assert (str(error), error.details) == ("no image \\x1b[31mx:\nits log", {"k\\x07": "v\\u202e"})


async def test_a_failure_in_a_history_does_not_act() -> None:
    try:
        try:
            raise ValueError("inner \x9b1A")
        except ValueError as inner:
            raise RuntimeError("outer \x1b[2J") from inner
    except RuntimeError as error:
        failure = Failure()
        await data_converter.encode_failure(error, failure)
    assert failure.message == "outer \\x1b[2J"
    assert failure.cause.message == "inner \\x9b1A"
    assert "\x1b" not in failure.stack_trace


def test_a_drivers_results_are_shown_escaped() -> None:
    made = Provisioned(address="http://a\x1b[0m", resources={"id": "i\n", "n": 1}, state={"raw": "\x1b"})
    assert (made.address, made.resources) == ("http://a\\x1b[0m", {"id": "i\\n", "n": 1})
    assert made.state == {"raw": "\x1b"}  # the driver's own, which nobody is shown
    replaced = Replacement(resource="aws.vm\x07", paths=["a\u2028"])
    assert (replaced.resource, replaced.paths) == ("aws.vm\\x07", ["a\\u2028"])


def test_signal_arguments_are_stored_escaped() -> None:
    assert stop_cause(["ok\x1b[2J\nStopped: forged"]) == "ok\\x1b[2J\\nStopped: forged"
    assert stop_cause([{"cause": " why\u202e "}]) == "why\\u202e"
    assert as_text(b"\x1bx") == "\\x1bx"
    assert preset_ids(["no\x07id"]) == ([], ["no\\x07id"])
