"""A status in pages: they join up and each fits into a payload, despite changes between them."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.api import InvalidInput
from prebuilds.views import LoopStatus, PresetRow, SystemStatus, status_page

LOOP = LoopStatus(state="running", cause=None, last_pass_at=None, passes=1, paused=False, paused_reason=None)
PLENTY = 1_000_000


def row(path: str, version: int = 1, number: int = 1, warning: str = "") -> PresetRow:
    organization, template, preset = path.split("/")
    counts = dict.fromkeys(
        ("desired", "actual", "eligible", "expired", "extraneous", "starting", "stopping", "deleting"), 0
    )
    return PresetRow(
        preset_id=UUID(int=number),
        organization=organization,
        template=template,
        version=version,
        preset=preset,
        active=True,
        **counts,
        held=None,
        held_until=None,
        waiting=0,
        pending_builds=0,
        failed=0,
        last_error=None,
        warnings=[warning],
    )


def collected(rows: list[PresetRow], limit: int, bytes_max: int = PLENTY) -> list[PresetRow]:
    found: list[PresetRow] = []
    after = None
    while True:
        page = status_page(SystemStatus(loop=LOOP, presets=rows), after, limit, bytes_max)
        found += page.presets
        assert 0 < len(page.presets) <= limit or not rows
        if page.next is None:
            return found
        after = page.next


PATHS = st.sampled_from(["a/b/c", "a/b/c-d", "a/b-c/d", "a-b/c/d", "a0/b/c", "a/b/c0"])
ROWS = st.lists(
    st.builds(row, PATHS, st.integers(1, 12), st.integers(1, 3)), unique_by=lambda r: (r.preset_id, r.version)
)


@given(ROWS, st.integers(1, 5))
def test_pages_join_up_to_every_row_once(rows: list[PresetRow], limit: int) -> None:
    found = collected(rows, limit)
    assert found == collected(rows[::-1], PLENTY), "in an order of their own"
    assert sorted(map(str, found)) == sorted(map(str, rows))


def test_a_preset_that_goes_between_pages_hides_no_other() -> None:
    rows = [row(f"a/b/c{n}", number=n) for n in range(6)]
    first = status_page(SystemStatus(loop=LOOP, presets=rows), None, 2, PLENTY)
    left = [row("a/a/new", number=9), *rows[2:]]
    second = status_page(SystemStatus(loop=LOOP, presets=left), first.next, 10, PLENTY)
    assert (second.presets, second.next) == (rows[2:], None)


def test_a_page_is_bounded_in_bytes_too() -> None:
    rows = [row(f"a/b/c{n}", number=n, warning="x" * 1000) for n in range(10)]
    page = status_page(SystemStatus(loop=LOOP, presets=rows), None, 10, 5000)
    assert 1 < len(page.presets) < 5
    assert len(page.model_dump_json()) < 6000
    assert collected(rows, 10, 5000) == rows
    assert collected(rows, 10, 1) == rows, "a row that is too long by itself comes alone"


@pytest.mark.parametrize("after", ["", "x", "a/b/c", "a/b/c/two/1", "a/b/c/1/2/3"])
def test_an_unknown_page_cursor_is_refused(after: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        status_page(SystemStatus(loop=LOOP, presets=[row("a/b/c")]), after, 1, PLENTY)
    assert list(refusal.value.details) == ["after"]
