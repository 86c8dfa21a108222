"""What the documentation says of requests and answers that many routes have in common."""

from __future__ import annotations

import json
from typing import Any, TypeAlias
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator, ConfigDict, Field

from prebuilds.http.problems import Problem
from prebuilds.payloads import Payload
from prebuilds.views.paging import LIMIT_DEFAULT, LIMIT_MAX

Responses: TypeAlias = dict[int | str, dict[str, Any]]

ALWAYS = (401, 403, 422, 429, 503)
"""What each route with a token may answer, beside its own statuses."""
AS_JSON = "$json"
DESCRIPTIONS = {
    401: "No good token",
    403: "The token does not allow it",
    404: "There is no such thing",
    409: "The request contradicts what is there",
    413: "The body is too long",
    408: "The body came too slowly",
    422: "A field is wrong; `errors` says which",
    429: "The token asks too often; `Retry-After` says when to ask again",
    500: "The server has failed",
    503: "The database or Temporal is away, or too much is asked at once; ask again",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds until asking again can help", "schema": {"type": "integer"}}}
LOCATION = {"Location": {"description": "Where the claim is found", "schema": {"type": "string"}}}
RATES = {
    "RateLimit": {
        "description": "How many requests the token has left (`r`), and the seconds until it has all again (`t`)",
        "schema": {"type": "string", "examples": ['"requests";r=499;t=1']},
    },
    "RateLimit-Policy": {
        "description": "How many requests a token may send at once (`q`), and the seconds until it may again (`w`)",
        "schema": {"type": "string", "examples": ['"requests";q=500;w=10']},
    },
}
"""In each answer to a token."""


def problem_responses(*statuses: int, **descriptions: str) -> Responses:
    """Problems for the documentation.

    Args:
        descriptions: What a status means for this route, as `on_409="..."`, where it is not what it means elsewhere.
    """
    return {
        status: {
            "description": descriptions.get(f"on_{status}", DESCRIPTIONS[status]),
            "model": Problem,
            "content": {"application/problem+json": {}},
        }
        for status in statuses
    }


def add_common(operation: dict[str, Any]) -> None:
    """Add what every route with a token answers: faults, slow bodies, and headers."""
    answers = operation["responses"]
    for status in (500, 408) if "requestBody" in operation else (500,):
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        answers[str(status)] = {
            "description": DESCRIPTIONS[status],
            "content": {"application/problem+json": problem},
        }
    for status, answer in answers.items():
        common = {} if status in {"401", "408", "413"} else RATES
        more = RETRY_AFTER if status in {"429", "503"} else {}
        answer["headers"] = {**answer.get("headers", {}), **common, **more}
    operation["responses"] = dict(sorted(answers.items()))


def whole(example: Any) -> dict[str, str]:
    """An example as it is until `unfold` puts it into the document. The framework would leave out what is null."""
    return {AS_JSON: json.dumps(example)}


def unfold(part: Any) -> Any:
    """Return a part of the document with its examples."""
    if isinstance(part, dict):
        return json.loads(part[AS_JSON]) if part.keys() == {AS_JSON} else {k: unfold(v) for k, v in part.items()}
    return [unfold(one) for one in part] if isinstance(part, list) else part


def answers(example: Any, *statuses: int, **descriptions: str) -> Responses:
    """The answers of a route: 200 with an example, the problems that all routes have, and *statuses* beside them."""
    return {
        200: {"content": {"application/json": {"example": whole(example)}}},
        **problem_responses(*sorted({*ALWAYS, *statuses}), **descriptions),
    }


def _decoded(value: str) -> str:
    """A part of the address. `Bounds` leaves it encoded, since it may have a slash in it."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("must be UTF-8, percent-encoded") from error


DECODED = AfterValidator(_decoded)


def in_path(description: str, example: str) -> Any:
    """A path parameter that names something by its path or id, for a type with `DECODED`."""
    return Path(description=f"{description}; a slash is written `%2F`", examples=[example])


class RequestFields(Payload):
    """A body, or the parameters of a query. Its validator is built at once, as the framework needs it."""

    model_config = ConfigDict(defer_build=False)


class PageQuery(RequestFields):
    """Which page of a list."""

    limit: int = Field(LIMIT_DEFAULT, ge=1, le=LIMIT_MAX, description="The most rows of the page")
    after: str | None = Field(
        None, description="The `next` of the previous page; without it the first page", max_length=2000
    )


class TemplateQuery(PageQuery):
    """Which page of a list, of one template or of all."""

    template: str | None = Field(None, description="Only those of this template, by `organization/template` or id")
