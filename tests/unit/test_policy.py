"""The policy: every action against every scope, in its own organization, in another one and everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from prebuilds.api import Forbidden
from prebuilds.operations.requests import POLICY, carry_out
from prebuilds.payloads import OperatorRequest
from prebuilds.planning.policy import DEPLOYMENT, Action, Reach, Resource, check, may, reach_of
from prebuilds.vocabulary.actors import OPERATOR, Actor
from prebuilds.vocabulary.scopes import EVERYTHING, Right, Scope, parse_scope

if TYPE_CHECKING:
    from prebuilds.operations.facade import Operations

OWN, ANOTHERS, NOBODYS = (
    Resource("acme", ("Alice@example.com",)),
    Resource("acme", ("bob",)),
    Resource("acme"),
)
LETTERS = {"c": Right.CLAIM, "o": Right.CLAIM_OTHERS, "r": Right.READ, "p": Right.OPERATE, "a": Right.ADMIN}

IN_AN_ORGANIZATION: dict[Action, tuple[str, str, str]] = {
    # The rights that suffice for one's own objects, for another person's, and for objects without an owner.
    Action.CLAIM: ("coa", "oa", "oa"),
    Action.SEE_CLAIM: ("corpa", "orpa", "rpa"),
    Action.LEAVE_QUEUE: ("copa", "opa", "pa"),
    Action.SEE_WORKSPACE: ("corpa", "orpa", "rpa"),
    Action.START_WORKSPACE: ("copa", "opa", "pa"),
    Action.STOP_WORKSPACE: ("copa", "opa", "pa"),
    Action.RETRY_WORKSPACE: ("copa", "opa", "pa"),
    Action.SET_WORKSPACE: ("copa", "opa", "pa"),
    Action.RENEW_LEASE: ("copa", "opa", "pa"),
    Action.RELEASE_WORKSPACE: ("copa", "opa", "pa"),
    Action.ABANDON_WORKSPACE: ("pa", "pa", "pa"),
    Action.SEE_LOG: ("corpa", "orpa", "rpa"),
    Action.TRANSFER_WORKSPACE: ("pa", "pa", "pa"),
    Action.KEEP_WORKSPACE: ("pa", "pa", "pa"),
    Action.PRUNE_WORKSPACES: ("pa", "pa", "pa"),
    Action.SEE_JOBS: ("rpa", "rpa", "rpa"),
    Action.CANCEL_JOBS: ("pa", "pa", "pa"),
    Action.SEE_AVAILABILITY: ("corpa", "corpa", "corpa"),
    Action.SEE_PRESETS: ("rpa", "rpa", "rpa"),
    Action.RECONCILE: ("pa", "pa", "pa"),
    Action.INVALIDATE_PRESET: ("pa", "pa", "pa"),
    Action.LIFT_HOLDS: ("pa", "pa", "pa"),
    Action.LINT_PRESET: ("pa", "pa", "pa"),
    Action.RUN_DRILL: ("pa", "pa", "pa"),
    Action.CONTROL_ROLLOUT: ("pa", "pa", "pa"),
    Action.SEE_TEMPLATES: ("rpa", "rpa", "rpa"),
    Action.APPLY: ("a", "a", "a"),
    Action.DEPRECATE_TEMPLATE: ("a", "a", "a"),
    Action.DELETE_TEMPLATE: ("a", "a", "a"),
    Action.SEE_STATUS: ("rpa", "rpa", "rpa"),
    Action.SEE_EVENTS: ("rpa", "rpa", "rpa"),
    Action.SEE_LIMITS: ("rpa", "rpa", "rpa"),
    Action.SEE_MEMBERS: ("rpa", "rpa", "rpa"),
    Action.CHANGE_MEMBERS: ("a", "a", "a"),
}
EVERYWHERE: dict[Action, str] = {
    # The rights that suffice, each only with a scope for all organizations.
    Action.SEE_SNAPSHOT: "rpa",
    Action.SEE_DOCTOR: "rpa",
    Action.SEE_METRICS: "rpa",
    Action.SEE_INVENTORY: "rpa",
    Action.FIX_INVENTORY: "pa",
    Action.START_LOOP: "pa",
    Action.STOP_LOOP: "pa",
    Action.DECODE_PAYLOADS: "pa",
    Action.PAUSE: "pa",
    Action.RESUME: "pa",
    Action.SEE_USERS: "rpa",
    Action.SWITCH_USERS: "a",
    Action.SEE_TOKENS: "a",
    Action.CHANGE_TOKENS: "a",
    Action.SAY_RESTORED: "a",
}


def alice(*scopes: str) -> Actor:
    return Actor("alice@example.com", frozenset(map(parse_scope, scopes)), user="alice@example.com")


def test_the_tables_have_every_action() -> None:
    assert IN_AN_ORGANIZATION.keys() | EVERYWHERE.keys() == set(Action)
    assert set(LETTERS.values()) == set(Right)


@pytest.mark.parametrize("action", IN_AN_ORGANIZATION, ids=lambda action: action.word)
def test_an_action_in_an_organization_needs_its_scope_there_or_everywhere(action: Action) -> None:
    for letter, right in LETTERS.items():
        here, elsewhere, everywhere = (alice(str(Scope(right, where))) for where in ("acme", "beta", None))
        for resource, letters in zip((OWN, ANOTHERS, NOBODYS), IN_AN_ORGANIZATION[action], strict=True):
            assert may(here, action, resource) is may(everywhere, action, resource) is (letter in letters), resource
            assert not may(elsewhere, action, resource)
        assert not may(here, action, DEPLOYMENT)
        assert may(everywhere, action, DEPLOYMENT) is (letter in IN_AN_ORGANIZATION[action][2])


@pytest.mark.parametrize("action", EVERYWHERE, ids=lambda action: action.word)
def test_an_action_on_the_deployment_needs_its_scope_everywhere(action: Action) -> None:
    for letter, right in LETTERS.items():
        for resource in (DEPLOYMENT, OWN, NOBODYS):
            assert not may(alice(f"{right}:acme"), action, resource), "whatever resource the caller names"
            assert may(alice(right), action, resource) is (letter in EVERYWHERE[action])


@pytest.mark.parametrize("action", Action, ids=lambda action: action.word)
def test_no_scope_allows_nothing_and_every_scope_allows_all(action: Action) -> None:
    for resource in (DEPLOYMENT, OWN, ANOTHERS, NOBODYS):
        assert not may(alice(), action, resource)
        assert may(Actor("ops", EVERYTHING), action, resource)
        assert may(OPERATOR, action, resource)


def test_a_claim_in_another_persons_name_is_a_claim_for_others() -> None:
    assert not may(alice("claim"), Action.CLAIM, Resource("acme", ("alice@example.com", "bob"))), "bob is its initiator"
    assert not may(alice("claim"), Action.CLAIM, Resource("acme", ("bob", "alice@example.com")))
    assert may(alice("claim"), Action.CLAIM, Resource("acme", ("ALICE@example.com", "alice@example.com")))


def test_a_pool_member_belongs_to_nobody() -> None:
    pool = Resource("acme", ("prebuilds",))
    assert not may(alice("claim:others"), Action.RELEASE_WORKSPACE, pool)
    system = Actor("prebuilds", frozenset({Scope(Right.CLAIM)}), user="prebuilds")
    assert not may(system, Action.RELEASE_WORKSPACE, pool)


def test_a_token_without_a_user_owns_nothing() -> None:
    portal = Actor("alice@example.com", frozenset({Scope(Right.CLAIM)}))
    assert not may(portal, Action.CLAIM, OWN), "its name is not its user"


@pytest.mark.parametrize(
    ("action", "resource", "scope"),
    [
        (Action.CLAIM, OWN, "claim:acme"),
        (Action.CLAIM, ANOTHERS, "claim:others:acme"),
        (Action.SEE_WORKSPACE, OWN, "claim:acme"),
        (Action.STOP_WORKSPACE, NOBODYS, "operate:acme"),
        (Action.STOP_LOOP, NOBODYS, "operate"),
        (Action.SEE_AVAILABILITY, NOBODYS, "read:acme"),
    ],
)
def test_a_refusal_names_the_scope_that_is_enough(action: Action, resource: Resource, scope: str) -> None:
    with pytest.raises(Forbidden, match=f"--scope {scope}`$") as refused:
        check(alice(), action, resource)
    assert refused.value.details == {"action": action.word, "scope": scope}
    check(alice(scope), action, resource)


def test_lists_are_limited_to_what_the_scopes_reach() -> None:
    see = Action.SEE_WORKSPACE
    found = reach_of(alice("read:acme", "operate:beta", "claim:gamma", "claim:others:delta"), see)
    assert found == Reach(
        frozenset({"acme", "beta"}), frozenset({"delta"}), frozenset({"gamma", "delta"}), "alice@example.com"
    )
    assert reach_of(alice("read:acme", "admin"), see).all is None
    assert reach_of(alice("claim"), see) == Reach(frozenset(), frozenset(), None, "alice@example.com")
    assert reach_of(alice("claim"), Action.SEE_JOBS).nothing, "jobs are nobody's"
    assert reach_of(Actor("token/ci", frozenset({Scope(Right.CLAIM)})), see).nothing, "it has no user"
    assert reach_of(alice("admin:acme"), Action.SEE_TOKENS).nothing, "which concerns all organizations"
    assert reach_of(alice("admin"), Action.SEE_TOKENS).all is None


@pytest.mark.parametrize("action", POLICY)
async def test_a_request_through_temporal_is_held_to_the_policy_before_anything_is_done(action: str) -> None:
    request = OperatorRequest.model_validate({"action": action, "organization": "acme", "users": ["bob"]})
    nothing = cast("Operations", None)
    enough = () if action in ("add_members", "remove_members") else ("admin:acme",)
    for scopes in ((), ("read:acme", "claim:others"), enough):
        with pytest.raises(Forbidden):
            await carry_out(nothing, request, actor=alice(*scopes))
    with pytest.raises(AttributeError, match="NoneType"):  # with all rights, as without an actor, it goes on
        await carry_out(nothing, request)


def test_every_request_through_temporal_is_an_action_of_the_policy() -> None:
    schema = OperatorRequest.model_json_schema()
    assert set(schema["properties"]["action"]["enum"]) == set(POLICY)


@pytest.mark.parametrize("text", [str(Scope(right, where)) for right in Right for where in (None, "acme", "others")])
def test_a_scope_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_scope(text)) == text


def test_claim_others_is_the_right_and_never_an_organization() -> None:
    assert parse_scope("claim:others") == Scope(Right.CLAIM_OTHERS)
    assert parse_scope("claim:others:others") == Scope(Right.CLAIM_OTHERS, "others")


@pytest.mark.parametrize("text", ["", "write", "read:", "read:A", "read:a/b", "claim:other:acme", "READ", "read: acme"])
def test_an_unknown_scope_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be one of claim, claim:others, read, operate, admin"):
        parse_scope(text)
