"""Encrypts what our workers and clients send through Temporal, by AES-GCM with the keys in `PREBUILDS_PAYLOAD_KEY`.

The form is the one of Temporal's own samples, so that codec servers and codecs in other languages can read it. It is a
payload with the encoding `binary/encrypted`, whose data are a nonce of 12 bytes and the encrypted payload, as protobuf.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from prebuilds.api import PrebuildsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "PREBUILDS_PAYLOAD_KEY"
ENCODING, CIPHER = b"binary/encrypted", b"AES-GCM"
NONCE_BYTES = 12
KEY_BYTES = (16, 24, 32)
ID_CHARS = 16
MAKE = 'python -c "import base64, os; print(base64.b64encode(os.urandom(32)).decode())"'


class PayloadKeyUnusable(PrebuildsError):
    """A payload in Temporal is encrypted, and this process has no key that opens it."""

    default_remedy = f"set {VARIABLE} as the deployment's workers have it"


@dataclass(frozen=True)
class EncryptingCodec(PayloadCodec):
    """Encrypts with the first key, and decrypts with any of the keys.

    A payload that is not encrypted is accepted as it is, such as JSON from the `temporal` command or from a service
    without the key.
    """

    keys: tuple[tuple[str, AESGCM], ...] = ()
    """Pairs of id and key. Without keys, nothing is encrypted."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt payloads; without keys, return them unchanged."""
        if not self.keys:
            return list(payloads)
        return [_encrypt(payload, *self.keys[0]) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raises:
        PayloadKeyUnusable: One is encrypted, and by none of our keys.
        """
        return [self._decrypt(payload) if is_encrypted(payload) else payload for payload in payloads]

    def _decrypt(self, payload: Payload) -> Payload:
        from cryptography.exceptions import InvalidTag

        key_id = payload.metadata.get("encryption-key-id", b"").decode(errors="replace")
        key = dict(self.keys).get(key_id)
        if key is None:
            missing = f"key {key_id} is not in {VARIABLE}" if self.keys else f"{VARIABLE} is not set"
            raise PayloadKeyUnusable(f"what Temporal holds is encrypted, and {missing} of this process")
        try:
            opened = key.decrypt(payload.data[:NONCE_BYTES], payload.data[NONCE_BYTES:], None)
        except InvalidTag as error:
            message = f"an encrypted payload is damaged: key {key_id}, which it names, does not open it"
            raise PayloadKeyUnusable(message, remedy="start the workflow anew that has it") from error
        return Payload.FromString(opened)


def is_encrypted(payload: Payload) -> bool:
    return payload.metadata.get("encoding") == ENCODING


@lru_cache(maxsize=8)
def parse_payload_keys(text: str) -> EncryptingCodec:
    """Read base64 keys of 16, 24 or 32 bytes that are separated by commas.

    Raises:
        ValueError: A key cannot be read. The message says how to make one, and quotes no key.
    """
    keys = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            key = base64.b64decode(name, altchars=b"-_" if {"-", "_"} & set(name) else None, validate=True)
        except ValueError:
            key = b""
        if len(key) not in KEY_BYTES:
            raise ValueError(f"must be base64 keys of 32 bytes, separated by commas; make one with `{MAKE}`")
        keys.append((hashlib.sha256(b"prebuilds payload key " + key).hexdigest()[:ID_CHARS], AESGCM(key)))
    return EncryptingCodec(tuple(keys))


def payload_codec() -> EncryptingCodec:
    """Return the codec of this process's environment.

    Raises:
        ValueError: A key cannot be read.
    """
    return parse_payload_keys(os.environ.get(VARIABLE, ""))


def _encrypt(payload: Payload, key_id: str, key: AESGCM) -> Payload:
    nonce = os.urandom(NONCE_BYTES)
    return Payload(
        metadata={"encoding": ENCODING, "encryption-cipher": CIPHER, "encryption-key-id": key_id.encode()},
        data=nonce + key.encrypt(nonce, payload.SerializeToString(), None),
    )
