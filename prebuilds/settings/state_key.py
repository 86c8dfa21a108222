"""The key of saved states, from `PREBUILDS_STATE_KEY`: what a driver saves in our database may hold secrets.

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
    """A saved state, or a claim's secret, is encrypted, and this process has no key that opens it."""


def parse_keys(text: str) -> MultiFernet | None:
    """Keys separated by commas: the first encrypts, each may decrypt. None for no key at all.

    Raises:
        ValueError: Not such keys; says how to make one, and repeats nothing of them.
    """
    keys = split_keys(text)
    if not keys:
        return None
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key) for key in keys])


def split_keys(text: str) -> list[str]:
    """The keys of a text, checked.

    Raises:
        ValueError: Not such keys; says how to make one, and repeats nothing of them.
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
    """This process's keys; None when states are not to be encrypted.

    Raises:
        ValueError: They cannot be read, which the settings refuse at a worker's start.
    """
    return parse_keys(os.environ.get(VARIABLE, ""))


def decrypt(token: str) -> bytes:
    """What was encrypted by one of our keys.

    Raises:
        StateKeyUnusable: There is no key, or none of them opens it; the state itself stays as it is.
    """
    from cryptography.fernet import InvalidToken

    cipher = state_cipher()
    if cipher is None:
        raise StateKeyUnusable(f"the saved Terraform state is encrypted; set {VARIABLE} on every provisioner worker")
    try:
        return cipher.decrypt(token)
    except InvalidToken as error:
        raise StateKeyUnusable(
            f"no key in {VARIABLE} opens the saved Terraform state; add the key that it was encrypted with, "
            "after a comma, on every provisioner worker"
        ) from error
