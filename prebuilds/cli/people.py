"""`prebuilds members`, `users` and `limits`: who may claim, how much, and the workspaces of people who left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, say
from prebuilds.cli.system import actor

if TYPE_CHECKING:
    from prebuilds.views import LeavingResult, LimitRow, MemberRow, UserRow

limits = typer.Typer(help="How much organizations may have; `prebuilds apply` sets it.", no_args_is_help=True)
members = typer.Typer(help="Who may claim in an organization.", no_args_is_help=True)
users = typer.Typer(help="People and services, in all organizations.", no_args_is_help=True)

Organization = Annotated[str, typer.Argument(metavar="ORG")]
Users = Annotated[list[str], typer.Argument(metavar="USER ...", help="Such as alice@example.com; case does not matter")]

LIMITS: ListTable[LimitRow] = ListTable(
    "limits",
    ("ORGANIZATION", "LIMIT", "MAX", "USED"),
    lambda row: (row.organization, row.limit, row.maximum, row.used),
    empty="no limits; `limits` of an organization in a template file sets them",
)
MEMBERS: ListTable[MemberRow] = ListTable(
    "members",
    ("USER", "DISABLED", "WORKSPACES"),
    lambda m: (m.user, m.disabled, m.workspaces),
    empty="no members",
)
USERS: ListTable[UserRow] = ListTable(
    "users",
    ("USER", "DISABLED", "ORGANIZATIONS", "WORKSPACES", "CREATED"),
    lambda u: (u.user, u.disabled, ", ".join(u.organizations) or None, u.workspaces, u.created_at),
    empty="no users",
)


@limits.command("list")
def list_limits(limit: Limit = 100, after: After = None, all_: All = False) -> None:
    """List the limits of organizations, with what is used of each."""
    run_list(LIMITS, lambda system: system.limits.list, limit, after, all_)


@members.command()
def add(organization: Organization, user: Users) -> None:
    """Make people members of an organization. Unknown people are created."""

    async def go() -> None:
        async with operations() as system:
            done = await system.people.add_members(actor(), organization, user)
        added = ", ".join(done.added)
        document(
            done, human=f"{added}: added to {organization}" if added else "nothing to do: they are members already"
        )

    run_command(go())


@members.command()
def remove(organization: Organization, user: Users) -> None:
    """End people's right to claim in an organization. Their workspaces stay and are listed."""

    async def go() -> None:
        async with operations() as system:
            done = await system.people.remove_members(actor(), organization, user)
        document(done)
        if not output.AS_JSON:
            _print_leaving(done, f"removed from {organization}", "is no member")

    run_command(go())


@members.command("list")
def list_members(organization: Organization, limit: Limit = 100, after: After = None, all_: All = False) -> None:
    """List an organization's members, who may claim in it."""
    run_list(MEMBERS, lambda system: partial(system.people.list_members, organization), limit, after, all_)


@users.command()
def disable(user: Users) -> None:
    """End people's right to claim in all organizations. Their workspaces stay and are listed."""

    async def go() -> None:
        async with operations() as system:
            done = await system.people.disable_users(actor(), user)
        document(done)
        if not output.AS_JSON:
            _print_leaving(done, "disabled", "is disabled already")

    run_command(go())


@users.command()
def enable(user: Users) -> None:
    """Let disabled people claim again."""

    async def go() -> None:
        async with operations() as system:
            done = await system.people.enable_users(actor(), user)
        enabled = ", ".join(u.user for u in done.users if u.changed)
        document(done, human=f"{enabled}: enabled" if enabled else "nothing to do: they are enabled already")

    run_command(go())


@users.command("list")
def list_users(
    disabled: Annotated[bool, typer.Option("--disabled", help="Only disabled users")] = False,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List all known users."""
    run_list(USERS, lambda system: partial(system.people.list_users, disabled=disabled), limit, after, all_)


def _print_leaving(done: LeavingResult, what: str, already: str) -> None:
    for user in done.users:
        say(f"{user.user}: {what}" if user.changed else f"{user.user}: nothing to do, {already}")
        for claim_id in user.waiting_claims:
            say(f"  waiting claim {claim_id} is refused")
        for w in user.workspaces:
            say(f"  {w.workspace} ({w.organization}) is {w.status}, workspace {w.workspace_id}")
    if any(user.workspaces for user in done.users):
        say("they keep these; `prebuilds workspaces transfer W --to USER` or `prebuilds release W` takes one away")
