"""Temporal's own errors are translated into ours."""

from __future__ import annotations

import pytest
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import InvalidInput, PrebuildsError, StackUnreachable
from prebuilds.failures.temporal import unanswered
from prebuilds.temporal.connecting import SearchAttributes

INVALID = RPCStatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("status", "message", "missing"),
    [
        (INVALID, "Namespace default has no mapping defined for search attribute PrebuildsPreset", True),
        (INVALID, "search attribute PrebuildsPreset is not defined", True),
        (INVALID, "search attribute PrebuildsOwner value size 3002 exceeds size limit 2048", False),
        (INVALID, "WorkflowId exceeds maximum allowed length (1001/1000)", False),
        (RPCStatusCode.UNAVAILABLE, "search attribute PrebuildsPreset is not defined", False),
    ],
)
def test_a_cluster_lacks_search_attributes_when_it_says_so(status: RPCStatusCode, message: str, missing: bool) -> None:
    assert SearchAttributes.are_missing(RPCError(message, status, b"")) is missing


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (INVALID, "Blob data size exceeds limit.", InvalidInput),
        (RPCStatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5 vs. 4)", InvalidInput),
        (RPCStatusCode.RESOURCE_EXHAUSTED, "namespace rate limit exceeded", StackUnreachable),
        (RPCStatusCode.UNAVAILABLE, "connection refused", StackUnreachable),
    ],
)
def test_only_a_permanent_refusal_is_the_callers_error(
    status: RPCStatusCode, message: str, kind: type[PrebuildsError]
) -> None:
    assert type(unanswered(RPCError(message, status, b""))) is kind
