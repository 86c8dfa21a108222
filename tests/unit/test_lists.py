"""Lists of the command line in parts: a table is printed as it is read, JSON is one document."""

from __future__ import annotations

import json

import pytest

from prebuilds.cli import lists, output
from prebuilds.cli.lists import ListTable, print_list
from prebuilds.views import Page

NUMBERS = [1000, 2, 30, 4, 5]


class Source:
    """A list of numbers, which records the lines printed before each part was read."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.printed: list[list[str]] = []

    async def read(self, *, limit: int, after: str | None) -> Page[int]:
        self.printed.append(self._capsys.readouterr().out.splitlines())
        begin = int(after or 0)
        end = begin + limit
        return Page(NUMBERS[begin:end], str(end) if end < len(NUMBERS) else None)


@pytest.fixture
def source(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(output, "AS_JSON", False)
    monkeypatch.setattr(output, "FORMAT", None)
    monkeypatch.setattr(lists, "PART", 2)
    return Source(capsys)


async def show(source: Source, *, all_: bool, after: str | None = None) -> None:
    shown: ListTable[int] = ListTable("numbers", ("NUMBER", "TWICE"), lambda n: (n, 2 * n), empty="none")
    await print_list(shown, source.read, 2, after, all_)


async def test_every_row_is_printed_before_more_is_read(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    await show(source, all_=True)
    shown = [*source.printed, capsys.readouterr().out.splitlines()]
    assert [[line.split() for line in lines] for lines in shown] == [
        [],
        [["NUMBER", "TWICE"], ["1000", "2000"], ["2", "4"]],
        [["30", "60"], ["4", "8"]],
        [["5", "10"]],
    ]


async def test_a_part_says_how_to_go_on(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    await show(source, all_=False, after="1")
    output = capsys.readouterr()
    assert [line.split()[0] for line in output.out.splitlines()] == ["NUMBER", "2", "30"]
    assert "--after 3 goes on" in output.err


async def test_json_of_every_row_is_one_document(
    source: Source, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "AS_JSON", True)
    await show(source, all_=True)
    assert source.printed == [[], [], []]
    assert json.loads(capsys.readouterr().out) == {"numbers": NUMBERS, "next": None}
