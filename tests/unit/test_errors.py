"""Every error says what happened and what to do, apart from each other, and both come through Temporal and records."""

from __future__ import annotations

import ast
import errno
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

import prebuilds
from prebuilds.api import (
    ERRORS,
    ClaimTimedOut,
    InvalidInput,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    PresetNotFound,
    ProvisionFailed,
    StoreUnavailable,
)
from prebuilds.failures import as_typed
from prebuilds.failures.crossing import application_error, error_of, from_record, record_of
from prebuilds.temporal.converter import data_converter

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "prebuilds").rglob("*.py"), *(ROOT / "workflows").glob("*.py"), *(ROOT / "activities").glob("*.py")]
ADVICE = re.compile(
    r"(?:[;:.,] |\bor )(?:add|apply|ask|call|choose|claim|correct|create|end|free|give|have|install|keep|make|mend|name"
    r"|put|read|remove|restore|run|say|see|set|start|stop|try|unset|use|wait|write) ",
    re.IGNORECASE,
)
"""How a message begins to say what to do."""


def _kinds(of: type[PrebuildsError] = PrebuildsError) -> Iterator[type[PrebuildsError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)


def test_every_error_has_a_remedy() -> None:
    for module in pkgutil.walk_packages(prebuilds.__path__, "prebuilds."):
        if ".migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    kinds = {kind for kind in _kinds() if kind.__module__.startswith("prebuilds.")}
    assert {"InvalidInput", "StateFolderInUse", "IsolationUnavailable"} <= {kind.__name__ for kind in kinds}
    assert [kind.__name__ for kind in kinds if not kind("what happened").remedy] == []


def _messages(path: Path) -> Iterator[tuple[int, str]]:
    """The literal words of each message that an error is made with, by line."""
    kinds = {kind.__name__ for kind in _kinds()}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        match node.func:
            case ast.Name(id=name) if name in kinds:
                message = node.args[0]
            case ast.Attribute(value=ast.Name(id=name), attr="field") if name in kinds and len(node.args) > 1:
                message = node.args[1]
            case _:
                continue
        words = [part.value for part in ast.walk(message) if isinstance(part, ast.Constant)]
        yield node.lineno, "".join(str(word) for word in words)


def test_no_message_says_what_to_do_since_the_remedy_does() -> None:
    found = [(path.name, line, message) for path in SOURCES for line, message in _messages(path)]
    assert len(found) > 150, "else nothing was looked at"
    assert [place for place in found if ADVICE.search(place[2])] == []


@pytest.mark.parametrize(
    ("error", "text", "remedy"),
    [
        (NameTaken("taken", remedy="choose"), "taken; choose", "choose"),
        (NameTaken("taken"), f"taken; {NameTaken.default_remedy}", NameTaken.default_remedy),
        (StoreUnavailable("its log says:\nx", remedy="wait"), "its log says:\nx\nwait", "wait"),
        (InvalidInput.field("ttl", "must be 1"), "ttl: must be 1", "correct ttl"),
        (InvalidInput.fields({"a": "no", "b": "no"}, "claim"), "claim is not valid: a: no; b: no", "correct a and b"),
        (InvalidInput.field("at", "has no zone", "add one"), "at: has no zone; add one", "add one"),
        (ProvisionFailed("the end of a log"), "the end of a log", ProvisionFailed.default_remedy),
        (
            ClaimTimedOut("late", remedy="create one", inputs={"on_timeout": "create"}),
            "late; create one (on_timeout create)",
            "create one (on_timeout create)",
        ),
        (PresetNotFound("no \x1b", remedy="see \x1b"), r"no \x1b; see \x1b", r"see \x1b"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.type,
)
def test_the_text_has_both_and_each_is_there_by_itself(error: PrebuildsError, text: str, remedy: str) -> None:
    assert (str(error), error.remedy) == (text, remedy)


CROSSING = [
    NameTaken("taken", {"name": "is taken"}, remedy="choose another"),
    NameTaken("taken"),
    InvalidInput.field("ttl", "must be 1"),
    InvalidInput.field("at", "has no zone", "add one"),
    NoClaimablePrebuiltWorkspaces("none", {"miss_reason": "no_pool"}, remedy="create", inputs={"on_empty": "create"}),
]


@pytest.mark.parametrize("error", CROSSING, ids=str)
async def test_message_and_remedy_come_through_temporal(error: PrebuildsError) -> None:
    failure = Failure()
    await data_converter.encode_failure(application_error(error), failure)
    assert failure.message == str(error), "all that other languages need"
    came = error_of(await data_converter.decode_failure(failure))
    assert type(came) is type(error)
    assert (came.message, came.remedy, came.details, str(came)) == (
        error.message,
        error.remedy,
        error.details,
        str(error),
    )
    assert (came.inputs, came.retryable) == (error.inputs, error.retryable)


@pytest.mark.parametrize("error", CROSSING, ids=str)
def test_message_and_remedy_come_through_a_record(error: PrebuildsError) -> None:
    came = from_record(json.loads(json.dumps(record_of(error))))
    assert came is not None
    assert (type(came), str(came), came.remedy, came.details) == (
        type(error),
        str(error),
        error.remedy,
        error.details,
    )


def test_errors_written_by_an_earlier_release_are_read() -> None:
    cause = ApplicationError("taken; choose another", {"name": "is taken"}, type="NameTaken", non_retryable=True)
    came = error_of(cause)
    assert (type(came), str(came), came.details) == (NameTaken, "taken; choose another", {"name": "is taken"})
    assert came.remedy == NameTaken.default_remedy
    assert str(error_of(ApplicationError("taken", type="NameTaken"))) == "taken", "no details at all"
    recorded = from_record({"error": "NameTaken", "message": "taken; choose", "details": {}})
    assert str(recorded) == "taken; choose"
    assert from_record({"error": "OfAnotherRelease", "message": "x", "details": {}}) is None


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (ApplicationError("boom", type="KeyError"), "RequestFailed"),
        (CancelledError("cancelled"), "RequestCanceled"),
        (None, "StackUnreachable"),
    ],
)
def test_a_workflow_s_end_is_typed(cause: BaseException | None, kind: str) -> None:
    assert error_of(cause).type == kind


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (OSError(errno.ENOSPC, "full"), "DiskFull", "free some space"),
        (OSError(errno.EMFILE, "many"), "SystemFault", "ulimit"),
        (FileNotFoundError(errno.ENOENT, "none", "/x"), "InvalidInput", "name a path"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "StackUnreachable", "prebuilds doctor"),
        (RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""), "StackUnreachable", "TEMPORAL_API_KEY"),
        (RPCError("Namespace x is not found.", RPCStatusCode.NOT_FOUND, b""), "StackUnreachable", "TEMPORAL_NAMESPACE"),
        (RuntimeError('Failed client connect: { message: "dns error" }'), "StackUnreachable", "start `prebuilds dev`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_foreign_exceptions_become_typed_errors_with_a_remedy(error: Exception, kind: str, remedy: str) -> None:
    found = as_typed(error)
    assert found is not None
    assert found.type == kind
    assert remedy in found.remedy


def test_a_bug_is_left_alone() -> None:
    assert as_typed(KeyError("x")) is None
    assert as_typed(RuntimeError("x")) is None
    assert set(ERRORS) <= {kind.__name__ for kind in _kinds()}
