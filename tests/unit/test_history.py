"""The evidence that a database has lost history, as a table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from prebuilds.payloads import SeenEvent
from prebuilds.planning.history import EVENT_LIFE_BEFORE, History, lost_history

EPOCH, EARLIER, LATER = UUID(int=2), UUID(int=1), UUID(int=3)
AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
SEEN = SeenEvent(epoch=EPOCH, event=100, at=AT)
WHOLE = History(EPOCH, [EARLIER], newest=120, seen_at=AT, now=AT + timedelta(hours=1))


@pytest.mark.parametrize(
    ("seen", "history", "lost"),
    [
        pytest.param(SEEN, WHOLE, None, id="everything that was seen is there"),
        pytest.param(SEEN, replace(WHOLE, newest=100), None, id="nothing has happened since"),
        pytest.param(SEEN, replace(WHOLE, newest=99, seen_at=None), "newest event in the database is 99", id="older"),
        pytest.param(SEEN, replace(WHOLE, newest=None, seen_at=None), "in the database is none", id="empty"),
        pytest.param(SEEN, replace(WHOLE, seen_at=AT + timedelta(seconds=1)), "another one", id="went on elsewhere"),
        pytest.param(SEEN, replace(WHOLE, seen_at=None), "is not in the database", id="a gap where it was"),
        pytest.param(SEEN, replace(WHOLE, seen_at=None, removed=100), None, id="removed for its age"),
        pytest.param(SEEN, replace(WHOLE, seen_at=None, removed=99), "is not in the database", id="not removed"),
        pytest.param(
            SEEN, replace(WHOLE, seen_at=None, now=AT + EVENT_LIFE_BEFORE), None, id="removed by the first release"
        ),
        pytest.param(SEEN.model_copy(update={"epoch": EARLIER}), WHOLE, None, id="answered before"),
        pytest.param(
            SEEN.model_copy(update={"epoch": LATER}), WHOLE, "later life", id="a backup from before `restored`"
        ),
    ],
)
def test_a_loss_is_proved_by_what_is_missing(seen: SeenEvent, history: History, lost: str | None) -> None:
    finding = lost_history(seen, history)
    assert (finding is None) if lost is None else (finding is not None and lost in finding)
