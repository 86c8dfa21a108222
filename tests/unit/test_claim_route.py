"""The routes that decide claims read a request themselves; the document says what they declare."""

from __future__ import annotations

import inspect

from prebuilds.http import claims
from prebuilds.http.claim_route import ClaimRoute

READ = {"request", "service", "actor", "body", "prefer"}


def test_a_claim_route_declares_exactly_the_parameters_it_reads() -> None:
    """The framework would read an additional parameter; this route would silently use its default."""
    declared = {}
    for route in claims.deciding.routes:
        assert isinstance(route, ClaimRoute)
        declared[route.path] = set(inspect.signature(route.endpoint).parameters) - READ
    assert declared == {"/v1/claims": {"idempotency_key"}, "/v1/claims/{claim_id}": {"claim_id"}}


def test_claims_are_looked_up_before_all_other_routes() -> None:
    from prebuilds.http.app import create_app

    nothing: object = type("Nothing", (), {})()
    first = create_app(nothing, nothing).routes[:2]  # type: ignore[arg-type]
    assert first == claims.deciding.routes
