"""Signs webhooks by the secrets in `PREBUILDS_WEBHOOK_SECRET`, in the form of Standard Webhooks.

A signature is HMAC-SHA256 over `ID.TIMESTAMP.BODY`, so a receiver can tell that a body is ours, unchanged and recent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from functools import lru_cache

PREFIX = "whsec_"
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
MAKE = "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""


@dataclass(frozen=True, slots=True)
class Signer:
    """The secrets of one process. Each one signs, so that a receiver may have the older or the newer one."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    def headers(self, webhook_id: str, at: int, body: bytes) -> dict[str, str]:
        """Return the headers of one attempt to deliver a webhook.

        Args:
            webhook_id: The same in each attempt, so that a receiver recognises what it has had before.
            at: When this attempt is sent, in whole seconds since 1970.
            body: The exact bytes that are sent.
        Returns:
            `webhook-id` and `webhook-timestamp`; and `webhook-signature` where there is a secret.
        """
        found = {"webhook-id": webhook_id, "webhook-timestamp": str(at)}
        signed = f"{webhook_id}.{at}.".encode() + body
        digests = [hmac.digest(secret, signed, hashlib.sha256) for secret in self.secrets]
        if digests:
            found["webhook-signature"] = " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
        return found


@lru_cache(maxsize=8)
def parse_webhook_secrets(text: str) -> Signer:
    """Read secrets that are separated by commas, each `whsec_` and base64. An empty text gives a signer without any.

    Raises:
        ValueError: A secret cannot be read. The message says how to make one, and quotes no secret.
    """
    secrets = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            secret = base64.b64decode(part.removeprefix(PREFIX), validate=True) if part.startswith(PREFIX) else b""
        except ValueError:
            secret = b""
        if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
            raise ValueError(
                f"must be secrets of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes, each {PREFIX} and base64, "
                f"separated by commas; make one with `{MAKE}`"
            )
        secrets.append(secret)
    return Signer(tuple(secrets))
