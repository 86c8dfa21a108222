"""Parts of the page that need no server: shared readings, charts, words, events."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prebuilds.api import PresetNotFound, StoreUnavailable
from prebuilds.http.examples import SIZED
from prebuilds.http.page import charts, watching
from prebuilds.http.page.forms import own_path
from prebuilds.http.page.rendering import HOLDS, age, duration, environment, link
from prebuilds.http.page.size_chart import draw_sizes, stand_alone
from prebuilds.http.page.streaming import GONE, event, stream
from prebuilds.http.page.watching import Watched, WatchedStates
from prebuilds.planning.holds import Hold
from prebuilds.views.pools import HourSlot, SpanRow
from prebuilds.views.sizes import SizePart, SizeReport

NOW = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def test_each_hold_has_its_words() -> None:
    assert HOLDS.keys() == set(Hold)
    reference, architecture = ((ROOT / "docs" / name).read_text() for name in ("reference.md", "architecture.md"))
    [row] = [line for line in reference.splitlines() if line.startswith("| `held`") and "`paused`" in line]
    for hold in Hold:
        assert f"`{hold}`" in row
        assert f"| `{hold}` |" in architecture


class Source:
    """A state that is counted up, and may be away."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self) -> int:
        self.reads += 1
        number = self.reads
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "INTERVAL_S", 0.02)


async def test_all_who_look_share_a_reading_and_nobody_looking_reads_nothing() -> None:
    source = Source()
    watched = Watched(source.read)
    assert source.reads == 0
    first = await asyncio.gather(*[watched.now() for _ in range(50)])
    assert {reading.state for reading in first} == {1}
    later = await asyncio.gather(*[watched.after(1) for _ in range(50)])
    assert {reading.state for reading in later} == {2}
    await asyncio.sleep(0.05)
    assert source.reads == 2


async def test_a_viewer_who_leaves_ends_nobody_elses_reading() -> None:
    source = Source()
    source.go_on.clear()
    watched = Watched(source.read)
    leaving, staying = asyncio.create_task(watched.now()), asyncio.create_task(watched.now())
    while not source.reads:
        await asyncio.sleep(0)
    leaving.cancel()
    source.go_on.set()
    assert (await staying).state == 1


async def test_a_change_is_shown_although_an_older_reading_is_under_way() -> None:
    source = Source()
    source.go_on.clear()
    watched = Watched(source.read)
    asyncio.get_running_loop().call_later(0.02, source.go_on.set)
    older = asyncio.create_task(watched.now())
    while not source.reads:
        await asyncio.sleep(0)
    watched.expire()
    assert (await watched.now()).state == 2
    assert (await older).state in (1, 2)


async def test_the_last_state_stays_while_the_database_is_away() -> None:
    source = Source()
    watched = Watched(source.read)
    await watched.now()
    source.error = StoreUnavailable("the database is away")
    away = await watched.after(1)
    assert (away.state, away.away) == (1, "the database is away")
    source.error = None
    assert (await watched.after(away.number)).away is None
    source.error = PresetNotFound("gone")
    with pytest.raises(PresetNotFound):
        await watched.after(3)


async def test_states_that_nobody_asks_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "STATES_MAX", 2)
    states, source = WatchedStates(), Source()
    first = states.get("a", source.read)
    assert states.get("a", source.read) is first
    states.get("b", source.read)
    states.get("c", source.read)
    assert states.get("a", source.read) is not first


async def test_a_stream_sends_what_has_changed_and_ends_with_its_token() -> None:
    source, draining = Source(), asyncio.Event()
    good = True

    async def may_go_on() -> bool:
        return good

    parts = stream(
        Watched(source.read), lambda r: {"same": "x", "count": str(r.state)}, may_go_on, draining, check_every_s=0
    )
    heard = [await anext(parts) for _ in range(3)]
    assert heard[1:] == [event("same", "x") + event("count", "1"), event("count", "2")]
    good = False
    assert [part async for part in parts] == [GONE]


def test_no_text_ends_its_event() -> None:
    assert (
        event("log", "a\r\nevent: gone\rid: 1\nb") == "event: log\ndata: a\ndata: event: gone\ndata: id: 1\ndata: b\n\n"
    )


@pytest.mark.parametrize("path", ["//evil", "https://evil", "/\\evil", "evil", "", "/a\nb", "/\t/evil"])
def test_signing_in_leads_to_no_other_server(path: str) -> None:
    assert own_path(path) == "/"
    assert own_path("/presets/a/b/c?done=x") == "/presets/a/b/c?done=x"


def parsed(svg: str) -> list[tuple[str, dict[str, str | None]]]:
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(svg)
    return found


def test_a_pool_is_drawn_as_cells_or_as_a_bar() -> None:
    cells = parsed(charts.level(2, 1, 4))
    assert [attrs["class"] for tag, attrs in cells if tag == "rect"] == ["ready", "ready", "starting", "missing"]
    assert cells[0][1]["aria-label"] == "2 of 4 ready, 1 starting"
    assert [attrs["class"] for _, attrs in parsed(charts.level(300, 10, 400))[1:]] == ["missing", "ready", "starting"]
    assert len(parsed(charts.level(0, 0, 0))) == 2


def test_charts_have_no_styles_and_nothing_where_nothing_was() -> None:
    slots = [HourSlot(claims=2, hits=1, claim_p95_seconds=0.2), *[HourSlot()] * 11]
    week = charts.week([SpanRow(begins_at=NOW, ends_at=NOW + timedelta(days=7), instances=3)], NOW)
    drawn = [charts.hits(slots), charts.durations([0.2, None], 'x"><script>'), week, charts.phases([("waits", 0.0)])]
    assert all("style" not in attrs for svg in drawn for _, attrs in parsed(svg))
    assert all("<script>" not in svg for svg in drawn)
    assert (charts.hits([HourSlot()] * 12), charts.durations([None], "claims")) == ("", "")


def test_durations_and_ages_have_the_unit_that_suits_them() -> None:
    assert [duration(s) for s in (None, 0.0, 0.12, 3.21, 90, 7200)] == [
        *("\N{EN DASH}", "< 10 ms", "120 ms", "3.2 s", "1.5 min", "2.0 h")
    ]
    assert [age(NOW - timedelta(seconds=s), NOW) for s in (5, 119, 120, 7200, 200_000)] == [
        *("5 s", "119 s", "2 min", "2 h", "2 d")
    ]


def test_only_web_addresses_are_links() -> None:
    assert link("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert [link(address) for address in ("javascript:alert(1)", "ssh://host", None)] == [None] * 3


def test_every_template_escapes() -> None:
    made = environment()
    assert made.autoescape is True
    assert not [name for name in made.list_templates() if "|safe" in made.loader.get_source(made, name)[0]]  # type: ignore[union-attr]


def sized(*parts: tuple[int, int, int, int, int]) -> SizeReport:
    """A report of parts: claims, size, misses, and today's size and misses."""
    shown = [
        SizePart(
            begins_at=NOW + n * timedelta(hours=1),
            claims=claims,
            size=size,
            missed=missed,
            today_size=today_size,
            today_missed=today_missed,
        )
        for n, (claims, size, missed, today_size, today_missed) in enumerate(parts)
    ]
    return SizeReport.model_validate(
        SIZED | {"preset": "acme/<b>/small", "parts": shown, "ends_at": NOW + len(parts) * timedelta(hours=1)}
    )


def test_a_what_if_is_drawn() -> None:
    report = sized((10, 4, 0, 2, 6), (0, 2, 0, 2, 0), (5, 8, 1, 2, 3))
    drawn = str(draw_sizes(report))
    shapes = ElementTree.fromstring(stand_alone(draw_sizes(report)))  # noqa: S314 - our own
    assert [shape.get("class") for shape in shapes.iter() if shape.get("class") in ("chosen", "today", "missed")] == [
        *("today", "chosen", "missed", "missed", "missed")
    ]
    assert len([shape for shape in shapes.iter() if shape.get("class") == "claims"]) == 2
    assert "&lt;b&gt;" in drawn
    assert "<b>" not in drawn
    assert "style" not in drawn, "the page allows none"
    assert "10 claims from Mon 09:14 UTC; size 4, missed 0; today&#39;s size 2, missed 6" in drawn
    assert draw_sizes(sized()) == ""
    ElementTree.fromstring(stand_alone(draw_sizes(sized())))  # noqa: S314 - our own
    ElementTree.fromstring(stand_alone(draw_sizes(sized((0, 0, 0, 0, 0)))))  # noqa: S314 - our own
