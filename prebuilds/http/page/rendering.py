"""Rendering: templates, the words and times in them, and the headers that every answer of the page has.

Everything that a template prints is escaped unless it is one of our own charts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prebuilds.http.page import charts
from prebuilds.vocabulary import PREBUILDS_USER
from prebuilds.vocabulary.words import in_words

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from elsewhere, and no script or style stands in the page, so that a text that is shown can never
act."""
SECURITY = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
ASSETS = {
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
    "htmx.min.js": "text/javascript",
    "htmx-ext-sse.min.js": "text/javascript",
}
NOTHING = "\N{EN DASH}"
HOLDS = {
    "paused": "paused by an operator",
    "backoff": "waits after failures",
    "hard_limited": "stopped after repeated failures",
    "validation_failed": "stopped: its input can never work",
    "capacity": "waits for a build slot",
    "max_concurrent": "as many builds are under way as the preset allows",
    "pool_members": "its organization's pools may have no more members",
}
"""Why creation is withheld, in words."""


def environment() -> Environment:
    """Return the templates with their filters."""
    made = Environment(
        loader=PackageLoader("prebuilds.http.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": duration,
        "time": time_element,
        "clock": clock,
        "when": when,
        "age": age,
        "words": lambda event: in_words(event, UTC),
        "held": lambda reason: HOLDS.get(reason, reason.replace("_", " ")),
        "warning": warning,
        "part": lambda text: quote(str(text), safe=""),
        "link": link,
    }
    made.globals |= {"charts": charts, "asset": asset, "PREBUILDS_USER": PREBUILDS_USER}
    return made


@cache
def _templates() -> Environment:
    return environment()


def render(template: str, values: Mapping[str, Any]) -> str:
    """Render one template of the package."""
    return _templates().get_template(template).render(values)


def page(template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """Render a whole page. It is stored nowhere: it shows what its viewer may see."""
    return HTMLResponse(render(template, values), status, headers={**SECURITY, "Cache-Control": "no-store"})


def asset_response(name: str) -> Response:
    """The answer with one of `ASSETS`, which a browser keeps: its address changes with its content."""
    lasting = {**SECURITY, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(read_asset(name), media_type=ASSETS[name], headers=lasting)


@cache
def read_asset(name: str) -> bytes:
    """A file that the package carries."""
    return resources.files("prebuilds.http.page").joinpath("assets", name).read_bytes()


@cache
def asset(name: str) -> str:
    """The address of a file that the package carries."""
    return f"/assets/{name}?v={hashlib.sha256(read_asset(name)).hexdigest()[:12]}"


def duration(seconds: float | None) -> str:
    """A measured duration in the unit that suits it; a dash when there is none."""
    if seconds is None:
        return NOTHING
    if seconds < 0.01:
        return "< 10 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def age(moment: datetime, now: datetime) -> str:
    """The time between two moments in one unit, whichever comes first."""
    seconds = abs(int((now - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def clock(moment: datetime, now: datetime) -> str:
    """A time of day in UTC, with its date unless that is today's."""
    utc = moment.astimezone(UTC)
    return f"{utc:%H:%M:%S}" if utc.date() == now.astimezone(UTC).date() else f"{utc:%a} {utc.day} {utc:%b %H:%M}"


def when(moment: datetime, now: datetime) -> str:
    """A coming time in UTC, to the minute, with its weekday unless that is today's."""
    utc = moment.astimezone(UTC)
    return f"at {utc:%H:%M}" if utc.date() == now.astimezone(UTC).date() else f"{utc:%a} {utc:%H:%M}"


def time_element(moment: datetime, now: datetime) -> Markup:
    """A time of day, with the whole time for machines and for whoever points at it."""
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M:%S} UTC", clock(moment, now)
    )


def warning(text: str) -> str:
    """A warning of a preset's row, in words."""
    kind, _, what = text.partition(":")
    if kind == "no_pollers":
        return f"no worker serves the queue {what}"
    if kind == "schedule_unreadable":
        return f"its schedule cannot be read, so the base count applies: {what}"
    if kind == "rollout_lacks_room":
        return f"its rollout stands still: {what}"
    return text.replace("_", " ")


def link(address: str | None) -> str | None:
    """An address that may be a link. A driver says it, so anything but a web address stays text."""
    return address if address is not None and address.startswith(("http://", "https://")) else None
