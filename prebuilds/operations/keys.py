"""Keys: which ones the database's values need, and encrypting these anew by the current one.

They are for the command line beside the database alone. A rotation needs the keys themselves, old and new, and the
right to read every secret; a server that offered it over HTTP would need both for as long as it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

from prebuilds.api import InvalidInput
from prebuilds.operations.opening import open_database
from prebuilds.settings import load_settings
from prebuilds.settings.sealing import KeyRing
from prebuilds.settings.state_key import VARIABLE
from prebuilds.store import resealing
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.resealing import CLAIMS, REQUEST_KEY, STATES, WAITING, KeyUses
from prebuilds.temporal.payload_key import payload_codec
from prebuilds.views import KeysReport, KeysRotated, KeyUse
from prebuilds.vocabulary.actors import Actor

KINDS: Mapping[str, str] = {
    WAITING: "secrets of claims that wait",
    CLAIMS: "secrets of claimed workspaces",
    STATES: "saved states",
}


def _tell_nobody(_: str) -> None:
    pass


async def show_keys() -> KeysReport:
    """Count what each key is needed for. Changes nothing.

    Raises:
        StackUnreachable, WrongDeployment: As for `open_database`.
    """
    ring = load_settings().ring
    async with open_database() as engine:
        uses = await resealing.count_uses(engine, ring)
    return KeysReport(**_reported(ring, uses))


async def rotate_keys(actor: Actor, *, tell: Callable[[str], None] = _tell_nobody) -> KeysRotated:
    """Encrypt by the first key of PREBUILDS_STATE_KEY whatever is readable or encrypted by another key.

    It works value by value beside workers. It may be repeated, run twice at once, and go on after it was killed.

    Args:
        tell: Called with a line for each batch.
    Raises:
        InvalidInput: PREBUILDS_STATE_KEY is not set.
        StateKeyUnusable: The deployment encrypts by a key that is not in it.
        StackUnreachable, WrongDeployment: As for `open_database`.
    """
    ring = load_settings().ring
    if ring.current is None:
        raise InvalidInput.field(VARIABLE, "is not set", "set it to the new key and, after a comma, the old one")
    async with open_database() as engine:
        await load_request_key(engine, ring)

        def report_progress(kind: str, changed: int) -> None:
            tell(f"{KINDS[kind]}: {changed} encrypted anew")

        claims = await resealing.reseal_claims(engine, ring, report_progress)
        states = await resealing.reseal_states(engine, ring, report_progress)
        changed = claims.changed + states.changed
        if changed:
            await resealing.record_rotation(engine, actor.name, ring.current, changed)
        uses = await resealing.count_uses(engine, ring)
    return KeysRotated(
        **_reported(ring, uses),
        changed_claims=changed[CLAIMS],
        changed_waiting=changed[WAITING],
        changed_states=changed[STATES],
        unreadable=(claims.unreadable + states.unreadable).total(),
    )


def _reported(ring: KeyRing, uses: KeyUses) -> dict[str, Any]:
    known: list[str | None] = [key_id for key_id, _ in ring.keys]
    others = sorted((key for key in uses.uses if key not in known), key=lambda key: key or "")
    keys = [_use(key, _standing(ring, key), uses.uses.get(key, Counter())) for key in [*known, *others]]
    if uses.unknown:
        keys.append(_use(None, "missing", Counter({STATES: uses.unknown})))
    return {"current": ring.current, "keys": keys, "payload_keys": [key_id for key_id, _ in payload_codec().keys]}


def _standing(ring: KeyRing, key: str | None) -> Literal["current", "older", "missing", "clear"]:
    if key is None:
        return "clear"
    if key == ring.current:
        return "current"
    return "older" if key in dict(ring.keys) else "missing"


def _use(key: str | None, standing: Literal["current", "older", "missing", "clear"], of: Counter[str]) -> KeyUse:
    return KeyUse(
        key=key,
        standing=standing,
        claims=of[CLAIMS],
        waiting=of[WAITING],
        states=of[STATES],
        request_key=bool(of[REQUEST_KEY]),
    )
