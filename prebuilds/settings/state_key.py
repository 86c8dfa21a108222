"""The keys in `PREBUILDS_STATE_KEY`, which encrypt the states that drivers save in our database, as these hold secrets.

`prebuilds/settings/sealing.py` seals a claim's secrets by the same keys.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prebuilds.api import ProvisionFailed

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

VARIABLE = "PREBUILDS_STATE_KEY"


class StateKeyUnusable(ProvisionFailed):
    """A saved state or a claim's secret is encrypted, and this process has no key that opens it."""

    default_remedy = "set PREBUILDS_STATE_KEY as the deployment's workers have it"
    says_default = True


def parse_keys(text: str) -> MultiFernet | None:
    """Read Fernet keys that are separated by commas. The first key encrypts, and every key can decrypt.

    Returns:
        None when the text has no key.
    Raises:
        ValueError: A key cannot be read. The message says how to make one, and quotes no key.
    """
    keys = split_keys(text)
    if not keys:
        return None
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key) for key in keys])


def split_keys(text: str) -> list[str]:
    """Return the Fernet keys in *text*, which are separated by commas, after checking each.

    Raises:
        ValueError: A key cannot be read. The message says how to make one, and quotes no key.
    """
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        return []
    from cryptography.fernet import Fernet

    try:
        for key in keys:
            Fernet(key)
        return keys
    except ValueError:
        how = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
        raise ValueError(f"must be Fernet keys, separated by commas; make one with `{how}`") from None


def state_cipher() -> MultiFernet | None:
    """Return the cipher of this process's environment; None when it has no key, so that states are not encrypted.

    Raises:
        ValueError: A key cannot be read. A worker's settings refuse that when it starts.
    """
    return parse_keys(os.environ.get(VARIABLE, ""))


def decrypt(token: str) -> bytes:
    """Decrypt a state that one of our keys has encrypted.

    Raises:
        StateKeyUnusable: This process has no key, or none that opens the state. The stored state is not changed.
    """
    from cryptography.fernet import InvalidToken

    cipher = state_cipher()
    if cipher is None:
        raise StateKeyUnusable(
            "the saved Terraform state is encrypted", remedy=f"set {VARIABLE} on every provisioner worker"
        )
    try:
        return cipher.decrypt(token)
    except InvalidToken as error:
        raise StateKeyUnusable(
            f"no key in {VARIABLE} opens the saved Terraform state",
            remedy="add the key that it was encrypted with, after a comma, on every provisioner worker",
        ) from error
