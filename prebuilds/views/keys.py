"""Results of `keys show` and `keys rotate`. A key is named by its id, a hash of it that reveals nothing."""

from __future__ import annotations

from typing import Literal

from prebuilds.payloads import Payload


class KeyUse(Payload):
    """What one key is still needed for in the database."""

    key: str | None
    """The key's id. None: the values are readable without a key; or, with `missing`, nothing says which key it was."""
    standing: Literal["current", "older", "missing", "clear"]
    """`current`: the first of PREBUILDS_STATE_KEY, which encrypts. `older`: another one of it. `missing`: none of it.
    `clear`: not encrypted."""
    claims: int
    """Secrets of claimed workspaces."""
    waiting: int
    """Secrets of claims that wait."""
    states: int
    """States that drivers have saved."""
    request_key: bool
    """Whether it seals the deployment's key of requests' hashes."""

    @property
    def needed(self) -> bool:
        """Whether anything needs it."""
        return bool(self.claims or self.waiting or self.states or self.request_key)


class KeysReport(Payload):
    """Which keys the database's values need."""

    current: str | None
    """The id of the key that encrypts in this process; None without PREBUILDS_STATE_KEY."""
    keys: list[KeyUse]
    """Every key of PREBUILDS_STATE_KEY, in its order; then what else is needed."""
    payload_keys: list[str]
    """The ids of the keys in PREBUILDS_PAYLOAD_KEY; the first encrypts. What is in Temporal is not counted."""


class KeysRotated(KeysReport):
    """What `keys rotate` has encrypted anew, and what the keys are needed for afterwards."""

    changed_claims: int
    changed_waiting: int
    changed_states: int
    unreadable: int
    """Values that no key of PREBUILDS_STATE_KEY opens. They stay as they are."""

    @property
    def complete(self) -> bool:
        """Whether everything is encrypted by the current key."""
        return not any(use.needed for use in self.keys if use.standing != "current")
