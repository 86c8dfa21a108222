"""Decodes encrypted payloads for people, by the protocol that Temporal's UI and the `temporal` command have for it.

Values of a claim's parameters stay hidden. Only JSON can be searched for them, so anything else stays encrypted.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from temporalio.api.common.v1 import Payload, Payloads

from prebuilds.api import InvalidInput
from prebuilds.temporal.payload_key import EncryptingCodec, PayloadKeyUnusable, is_encrypted, payload_codec

SHOWN = frozenset({b"json/plain", b"json/protobuf"})
EMPTY = b"binary/null"
HIDDEN = "***"
OF_CLAIMS = frozenset({"parameters", "claimparameters", "claimparams", "claimparam"})
"""Names of fields that may have a claim's secrets, without case and punctuation. A claim may also give what its preset
calls claim parameters among its `parameters`."""
BODY = 'must be payloads as Temporal writes them in JSON: {"payloads": [{"metadata": {...}, "data": ...}]}'


async def decode_payloads(body: Any) -> dict[str, Any]:
    """Decode what a key of this process opens.

    Args:
        body: `{"payloads": [{"metadata": {NAME: BASE64}, "data": BASE64}]}`.
    Returns:
        The same, with as many payloads in the same order. One that is not encrypted, that no key opens, or that is no
        JSON is returned as it was given.
    Raises:
        InvalidInput: It has another form.
    """
    given = Payloads()
    try:
        if not isinstance(body, dict):
            raise TypeError
        ParseDict(body, given, ignore_unknown_fields=True)
    except (ParseError, AttributeError, TypeError, ValueError) as error:
        raise InvalidInput.field("body", BODY) from error
    codec = payload_codec()
    shown = Payloads(payloads=[await _show(codec, payload) for payload in given.payloads])
    found: dict[str, Any] = {"payloads": [], **MessageToDict(shown)}
    return found


async def _show(codec: EncryptingCodec, payload: Payload) -> Payload:
    if not is_encrypted(payload):
        return payload
    try:
        [opened] = await codec.decode([payload])
    except (PayloadKeyUnusable, ValueError):
        return payload
    encoding = opened.metadata.get("encoding")
    if encoding == EMPTY:
        return opened
    if encoding not in SHOWN:
        return payload
    try:
        opened.data = json.dumps(hide_claims(json.loads(opened.data)), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return payload
    return opened


def hide_claims(value: Any) -> Any:
    """Return a JSON value without the values of claims' parameters, also in JSON that stands in its texts."""
    if isinstance(value, dict):
        return {key: _hide_all(one) if _is_of_claims(key) else hide_claims(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hide_claims(one) for one in value]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(hide_claims(json.loads(value)), ensure_ascii=False)
        except ValueError:
            return value
    return value


def _hide_all(value: Any) -> Any:
    return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN


def _is_of_claims(key: str) -> bool:
    return "".join(letter for letter in key.casefold() if letter.isalpha()) in OF_CLAIMS
