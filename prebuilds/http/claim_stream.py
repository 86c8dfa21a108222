"""The stream of what becomes of a claim."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from prebuilds.http.service import Service
from prebuilds.http.streams import frame
from prebuilds.http.waiting import state_of
from prebuilds.operations.direct_claims import ClaimFound

LOOK_S = 60.0


def event_id_of(found: ClaimFound) -> str:
    """Return what a reader sends as `Last-Event-ID` when it comes back. A claim that is asked for again has new ids."""
    if found.won is not None:
        return f"claimed.{found.run}"
    if found.ended:
        return f"failed.{found.run}"
    return f"deciding.{found.run}" if found.position is None else f"waiting.{found.position}.{found.run}"


async def follow_claim(service: Service, found: ClaimFound, last_event_id: str | None) -> AsyncGenerator[str, None]:
    """Yield a claim's states as server-sent events, until it has its answer or another request has its id.

    Args:
        found: What is recorded now.
        last_event_id: What the reader has heard last; it does not hear it again.
    """
    request_hash = found.request_hash
    while found.request_hash == request_hash:
        if event_id_of(found) != last_event_id:
            last_event_id = event_id_of(found)
            yield frame(last_event_id, "claim", (await state_of(service, found)).model_dump_json())
        if found.ended:
            return
        found = await service.waiting.next_change(found.claim_id, found, LOOK_S) or found
