"""The one policy: who may do what, and where. Pure, so that a table can test every action against every scope."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from prebuilds.api import Forbidden
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.owners import is_system, same_owner
from prebuilds.vocabulary.scopes import Right, Scope

INCLUDES: dict[Right, frozenset[Right]] = {
    Right.CLAIM: frozenset({Right.CLAIM}),
    Right.CLAIM_OTHERS: frozenset({Right.CLAIM_OTHERS, Right.CLAIM}),
    Right.READ: frozenset({Right.READ}),
    Right.OPERATE: frozenset({Right.OPERATE, Right.READ}),
    Right.ADMIN: frozenset(Right),
}
"""The rights that come with each right."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is done to."""

    organization: str | None = None
    """None: the whole deployment, or what belongs to no organization."""
    people: tuple[str, ...] = ()
    """The people to whom the resource belongs: the owner of a workspace or claim, and for a new claim also its
    initiator. Empty if it belongs to nobody, such as a prebuild: the prebuilds user counts as nobody."""


DEPLOYMENT = Resource()
"""The whole deployment."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an action needs."""

    rights: tuple[Right, ...]
    """Each of them is enough; a refusal names the first one."""
    of_people: bool = False
    """Whether it is a matter of the people whose resource it is: they may do it with `claim`, and others for them with
    `claim:others`."""
    everywhere: bool = False
    """Whether it always concerns the whole deployment, whatever resource is named."""


def _people(*rights: Right) -> _Rule:
    return _Rule(rights, of_people=True)


def _everywhere(right: Right) -> _Rule:
    return _Rule((right,), everywhere=True)


_READ, _OPERATE, _ADMIN = _Rule((Right.READ,)), _Rule((Right.OPERATE,)), _Rule((Right.ADMIN,))


class Action(Enum):
    """Everything that can be asked of a deployment, and what it needs."""

    CLAIM = "claim", _people(Right.CLAIM_OTHERS)
    SEE_CLAIM = "see_claim", _people(Right.READ)
    LEAVE_QUEUE = "leave_queue", _people(Right.OPERATE)

    SEE_WORKSPACE = "see_workspace", _people(Right.READ)
    START_WORKSPACE = "start_workspace", _people(Right.OPERATE)
    STOP_WORKSPACE = "stop_workspace", _people(Right.OPERATE)
    RETRY_WORKSPACE = "retry_workspace", _people(Right.OPERATE)
    SET_WORKSPACE = "set_workspace", _people(Right.OPERATE)
    RENEW_LEASE = "renew_lease", _people(Right.OPERATE)
    RELEASE_WORKSPACE = "release_workspace", _people(Right.OPERATE)
    ABANDON_WORKSPACE = "abandon_workspace", _OPERATE  # the operators pay for what is left, not the owner
    SEE_LOG = "see_log", _people(Right.READ)
    TRANSFER_WORKSPACE = "transfer_workspace", _OPERATE
    KEEP_WORKSPACE = "keep_workspace", _OPERATE
    PRUNE_WORKSPACES = "prune_workspaces", _OPERATE
    SEE_JOBS = "see_jobs", _READ
    CANCEL_JOBS = "cancel_jobs", _OPERATE

    SEE_AVAILABILITY = "see_availability", _Rule((Right.READ, Right.CLAIM))
    SEE_PRESETS = "see_presets", _READ
    RECONCILE = "reconcile", _OPERATE
    INVALIDATE_PRESET = "invalidate_preset", _OPERATE
    LIFT_HOLDS = "lift_holds", _OPERATE
    LINT_PRESET = "lint_preset", _OPERATE
    CONTROL_ROLLOUT = "control_rollout", _OPERATE  # a way back leads to a version that was applied
    RUN_DRILL = "run_drill", _OPERATE
    SEE_TEMPLATES = "see_templates", _READ
    APPLY = "apply", _ADMIN  # a template's code runs on the hosts
    DEPRECATE_TEMPLATE = "deprecate_template", _ADMIN
    DELETE_TEMPLATE = "delete_template", _ADMIN

    SEE_STATUS = "see_status", _READ
    SEE_EVENTS = "see_events", _READ
    SEE_SNAPSHOT = "see_snapshot", _everywhere(Right.READ)
    SEE_DOCTOR = "see_doctor", _everywhere(Right.READ)
    SEE_METRICS = "see_metrics", _everywhere(Right.READ)
    SEE_INVENTORY = "see_inventory", _everywhere(Right.READ)
    FIX_INVENTORY = "fix_inventory", _everywhere(Right.OPERATE)
    START_LOOP = "start_loop", _everywhere(Right.OPERATE)
    STOP_LOOP = "stop_loop", _everywhere(Right.OPERATE)
    DECODE_PAYLOADS = "decode_payloads", _everywhere(Right.OPERATE)  # a refused input may have a secret anywhere
    PAUSE = "pause", _everywhere(Right.OPERATE)
    RESUME = "resume", _everywhere(Right.OPERATE)

    SEE_LIMITS = "see_limits", _READ
    SEE_MEMBERS = "see_members", _READ
    CHANGE_MEMBERS = "change_members", _ADMIN
    SEE_USERS = "see_users", _everywhere(Right.READ)
    SWITCH_USERS = "switch_users", _everywhere(Right.ADMIN)
    SEE_TOKENS = "see_tokens", _everywhere(Right.ADMIN)
    CHANGE_TOKENS = "change_tokens", _everywhere(Right.ADMIN)
    SAY_RESTORED = "say_restored", _everywhere(Right.ADMIN)

    def __init__(self, word: str, rule: _Rule) -> None:
        self.word = word
        """Its name in events and messages."""
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Reach:
    """Which resources of a list an actor gets to see. Each field names organizations; None: all of them."""

    all: frozenset[str] | None
    """Where the actor gets everything."""
    people: frozenset[str] | None = frozenset()
    """Where the actor gets what belongs to people."""
    own: frozenset[str] | None = frozenset()
    """Where the actor gets what belongs to *user*."""
    user: str | None = None

    def has_all_of(self, organization: str) -> bool:
        """Whether everything in an organization is within reach."""
        return self.all is None or organization in self.all

    def has_any_of(self, organization: str) -> bool:
        """Whether anything in an organization can be within reach."""
        return any(where is None or organization in where for where in (self.all, self.people, self.own))

    @property
    def has_all_people(self) -> bool:
        """Whether what belongs to people is within reach in every organization."""
        return self.all is None or self.people is None

    @property
    def nothing(self) -> bool:
        """Whether no resource at all is within reach."""
        return self.all is not None and not (
            self.all or self.people is None or self.people or self.own is None or self.own
        )


EVERYWHERE = Reach(None)
"""The reach of who may see everything."""


def may(actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> bool:
    """Whether *actor* may do *action* to *resource*."""
    return _missing_scope(actor, action, resource) is None


def check(actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> None:
    """Refuse what `may` denies.

    Raises:
        Forbidden: Names the scope that would be enough.
    """
    missing = _missing_scope(actor, action, resource)
    if missing is None:
        return
    raise Forbidden(
        f"{action.word} needs the scope {missing}, which {actor.name} does not have",
        {"action": action.word, "scope": str(missing)},
        remedy=f"use a token that has it, such as of `prebuilds tokens create NAME --scope {missing}`",
    )


def reach_of(actor: Actor, action: Action) -> Reach:
    """Return the resources on which *actor* may do *action*, for a list or for a change of many at once.

    A list that is limited to it has exactly the resources for which `may` says yes.
    """
    everything = _organizations_with(actor, set(action.rule.rights))
    if action.rule.everywhere:
        return Reach(None if everything is None else frozenset())
    if not action.rule.of_people:
        return Reach(everything)
    people = _organizations_with(actor, {Right.CLAIM_OTHERS})
    own = frozenset() if actor.user is None else _organizations_with(actor, {Right.CLAIM})
    return Reach(everything, people, own, actor.user)


def _organizations_with(actor: Actor, enough: set[Right]) -> frozenset[str] | None:
    granted = [scope.organization for scope in actor.scopes if INCLUDES[scope.right] & enough]
    return None if None in granted else frozenset(name for name in granted if name is not None)


def _missing_scope(actor: Actor, action: Action, resource: Resource) -> Scope | None:
    """The least scope that would be enough; None when the actor's are."""
    rule = action.rule
    organization = None if rule.everywhere else resource.organization
    enough = rule.rights
    people = [name for name in resource.people if not is_system(name)]
    if rule.of_people and people and len(people) == len(resource.people):
        user = actor.user
        own = user is not None and all(same_owner(user, name) for name in people)
        enough = (Right.CLAIM if own else Right.CLAIM_OTHERS, *enough)
    if any(_covers(scope, right, organization) for scope in actor.scopes for right in enough):
        return None
    return Scope(enough[0], organization)


def _covers(scope: Scope, right: Right, organization: str | None) -> bool:
    return right in INCLUDES[scope.right] and scope.organization in (None, organization)
