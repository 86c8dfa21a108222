"""The recorded events over HTTP, as a stream that is read on after a break."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from prebuilds.http import examples
from prebuilds.http.documents import ALWAYS, RequestFields, problem_responses
from prebuilds.http.guard import Guarded
from prebuilds.http.streams import EventStream, frame, open_stream
from prebuilds.planning.policy import Action

router = APIRouter(prefix="/v1", tags=["events"])


class EventQuery(RequestFields):
    """From where on."""

    after: str | None = Field(
        None,
        max_length=100,
        description="As `Last-Event-ID`, for callers that cannot send it first; `0` for all events that are recorded",
    )


LastEventId = Annotated[str | None, Header(description="The id of the last event that was read")]


@router.get(
    "/events",
    summary="What happens, as server-sent events",
    operation_id="stream_events",
    response_class=StreamingResponse,
    response_model=None,
    responses={
        200: {
            "description": "Events `event` with an `EventRecord` each; `gap` where older ones are removed",
            "content": {
                "text/event-stream": {"example": frame("5e3f1a9a.1204", "event", json.dumps(examples.EVENT_RECORD))}
            },
        },
        **problem_responses(*ALWAYS),
    },
)
async def stream_events(
    guard: Guarded, query: Annotated[EventQuery, Query()], last_event_id: LastEventId = None
) -> EventStream:
    """The events from now on, or after the one that was read last: each comes exactly once, in the order of their
    numbers. A token of one organization gets the events of its presets and workspaces. Events are kept for a while
    (`PREBUILDS_RETENTION_EVENTS`): who comes back later than that is told by an event `gap` that some are missing."""
    reach = guard.reach(Action.SEE_EVENTS)

    async def frames() -> AsyncGenerator[str, None]:
        async for part in guard.service.events.follow(last_event_id or query.after, reach):
            if part.missing_after is not None:
                yield frame(part.missing_after, "gap", json.dumps({"after": part.missing_after}))
            for event in part.events:
                yield frame(part.cursor_of(event), "event", event.model_dump_json())
            if not part.events or part.cursor != part.cursor_of(part.events[-1]):
                yield frame(part.cursor)

    return await open_stream(guard, frames())
