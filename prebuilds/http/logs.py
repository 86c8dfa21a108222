"""Builds' logs over HTTP: as text, as JSON, or as a stream while the build goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from prebuilds.api import InvalidInput
from prebuilds.http import examples
from prebuilds.http.documents import ALWAYS, DECODED, RequestFields, in_path, problem_responses, whole
from prebuilds.http.guard import Guard, Guarded
from prebuilds.http.streams import frame, open_stream
from prebuilds.operations.logs import LogPart, Position
from prebuilds.payloads.not_found import no_log
from prebuilds.planning.policy import Action
from prebuilds.views import BuildLog, LoggedBuild

router = APIRouter(prefix="/v1", tags=["logs"])

Reference = Annotated[str, in_path("A build's id, a workspace's id, or `owner/name`", "alice/alice-dev"), DECODED]
END = "end"
STREAM = "text/event-stream"


class LogQuery(RequestFields):
    """In which way."""

    follow: bool = Field(False, description="A stream, as with `Accept: text/event-stream`")


@router.get(
    "/logs/{reference}",
    summary="The log of a build",
    operation_id="logs",
    response_model=None,
    responses={
        200: {
            "description": "By `Accept`: text, JSON, or a stream of events `lines` with a list of lines each; the last "
            "one is `end`, with the build",
            "model": BuildLog,
            "content": {
                "application/json": {"example": whole({"released_at": None, "lines": [examples.LINE]})},
                "text/plain": {"example": "2026-03-02T09:14:00Z listening at port 40123\n"},
                STREAM: {"example": frame("1.17", "lines", "[{...}]")},
            },
        },
        204: {"description": "The reader of the stream has its end"},
        **problem_responses(*ALWAYS, 404),
    },
)
async def logs(
    guard: Guarded,
    reference: Reference,
    query: Annotated[LogQuery, Query()],
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    last_event_id: Annotated[str | None, Header(description="The id of the last event that was read")] = None,
) -> Response:
    """Read the log of a build, or of a workspace's latest build. A failed build's error is the last line. For
    a released workspace it is the latest build that has lines."""
    build = await _find(guard, reference)
    wanted = (accept or "").lower()
    if query.follow or STREAM in wanted:
        if last_event_id == END:
            return Response(status_code=204)
        return await open_stream(guard, _frames(guard, build, _position(last_event_id)))
    if "application/json" in wanted:
        lines = [line async for line in guard.operations.logs.lines(build)]
        document = BuildLog(released_at=build.released_at, lines=lines)
        return Response(document.model_dump_json(), media_type="application/json")
    return StreamingResponse(_text(guard, build), media_type="text/plain")


async def _find(guard: Guard, reference: str) -> LoggedBuild:
    """The build whose log the caller may read.

    Raises:
        Forbidden, InvalidInput, WorkspaceNotFound: As `Guard.workspace`.
    """
    guard.reach(Action.SEE_LOG)
    build = await guard.operations.logs.latest(reference)
    await guard.workspace(str(build.workspace_id), Action.SEE_LOG, no_log(reference))
    return build


async def _text(guard: Guard, build: LoggedBuild) -> AsyncIterator[str]:
    async for part in guard.operations.logs.parts(build):
        yield "".join(f"{line.at.isoformat().replace('+00:00', 'Z')} {line.line}\n" for line in part.lines)


async def _frames(guard: Guard, build: LoggedBuild, after: Position) -> AsyncGenerator[str, None]:
    """A part of the log is one event: a break of the connection neither loses nor repeats half of it."""
    yield frame(_id(after))  # a build that waits for its worker has no lines for long
    async for part in guard.operations.logs.parts(build, after, follow=True):
        if part.lines:
            yield frame(_id(part.position), "lines", _json(part))
        if part.ended is not None:
            yield frame(END, END, part.ended.model_dump_json())


def _id(position: Position) -> str:
    return f"{position.attempt}.{position.number}"


def _json(part: LogPart) -> str:
    return f"[{','.join(line.model_dump_json() for line in part.lines)}]"


def _position(last_event_id: str | None) -> Position:
    if not last_event_id:
        return Position()
    attempt, _, number = last_event_id.partition(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (attempt, number)):
        raise InvalidInput.field("Last-Event-ID", "is no id of this stream", "leave it out to read from the beginning")
    return Position(int(attempt), int(number))
