"""A claim with text that cannot be sent or stored is refused by field before anything is sent."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import pytest

from prebuilds.api import InvalidInput
from prebuilds.cli import claims as cli
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest, ClaimsRequest, parse_claim_id, parse_input

GOOD: dict[str, Any] = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
HALF = "\ud800"
"""Of a surrogate pair; what a command line has in place of a byte that is no text is such a half, too."""
NOBODY = PrebuildsClient(cast("Any", None))
"""A client that can send nothing."""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner", HALF),
        ("name", HALF),
        ("preset", HALF),
        ("initiator", f"a{HALF}"),
        ("autostart_schedule", HALF),
        ("parameters", {"size": HALF}),
        ("claim_parameters", {"token": HALF}),
        ("claim_parameters", {HALF: "x"}),
        ("next_start_at", "9999-12-31T23:59:59-12:00"),
        ("next_start_at", "0001-01-01T00:00:00+14:00"),
        ("next_start_at", "9999-12-31T23:59:59.999999Z"),
        ("next_start_at", "0001-01-01T00:00:00Z"),
    ],
)
def test_text_that_cannot_be_sent_is_refused_by_field(field: str, value: object) -> None:
    for model, name in ((ClaimRequest, {}), (ClaimsRequest, {"name": None, "names": ["dev"]})):
        if field == "name" and name:
            continue
        given = {key: text for key, text in (GOOD | name | {field: value}).items() if text is not None}
        with pytest.raises(InvalidInput) as refused:
            parse_input(model, given, "claim")
        assert list(refused.value.details) == [field]
        assert str(refused.value).isascii()


def test_a_template_is_text_too() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_input(ClaimRequest, {"template": HALF, "owner": "alice", "name": "dev"}, "claim")
    assert list(refused.value.details) == ["template"]


@pytest.mark.parametrize("moment", ["9998-12-31T23:59:59Z", "0002-01-01T00:00:00Z", "2026-03-02T09:14:00+14:00"])
def test_any_other_time_is_taken(moment: str) -> None:
    parse_input(ClaimRequest, GOOD | {"next_start_at": moment}, "claim").model_dump(mode="json")


def test_a_claim_id_is_text() -> None:
    with pytest.raises(InvalidInput, match="claim_id"):
        parse_claim_id(HALF)


async def test_an_empty_claim_id_is_refused_and_not_replaced() -> None:
    with pytest.raises(InvalidInput, match="claim_id"):
        await NOBODY.claim(**GOOD, claim_id="")
    many = ClaimsRequest(preset="acme/python/small", owner="alice", names=["dev"])
    with pytest.raises(InvalidInput, match="claim_id"):
        await NOBODY.claim_all(many, "")


def test_the_command_line_refuses_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "claims", lambda: nullcontext(NOBODY))
    with pytest.raises(InvalidInput, match="claim_id"):
        cli.claim(**GOOD, claim_id="")
