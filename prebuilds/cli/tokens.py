"""`prebuilds tokens`: who may use the HTTP server, and for what."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from prebuilds.api import InvalidInput
from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.lists import After, All, Limit, ListTable, run_list
from prebuilds.cli.output import document, note, say
from prebuilds.cli.system import actor, duration

if TYPE_CHECKING:
    from prebuilds.views import TokenRow

app = typer.Typer(help="Bearer tokens for the HTTP server.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        list[str],
        typer.Option(metavar="S[:ORG]", help="claim, claim:others, read, operate or admin; repeat it for more"),
    ],
    user: Annotated[str | None, typer.Option(help="Whose claims it makes; required with the scope claim")] = None,
    expires: Annotated[str | None, typer.Option(metavar="D", help="Such as 90d; never unless said")] = None,
) -> None:
    """Make a token. It is shown this once."""

    async def go() -> None:
        life = None if expires is None else duration(expires, "expires")
        async with operations() as system:
            made = await system.tokens.create(actor(), name, scope, user=user, expires=life)
        document(made)
        if output.AS_JSON:
            return
        say(made.token)
        until = "never expires" if made.expires_at is None else f"expires at {made.expires_at.isoformat()}"
        whose = "" if made.user is None else f" for {made.user}"
        note(f"token {name}{whose}: {', '.join(made.scopes)}; it {until}, and is not shown again")

    run_command(go())


@app.command("list")
def list_tokens(
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked")] = False,
    limit: Limit = 100,
    after: After = None,
    all_: All = False,
) -> None:
    """List the tokens, without their secrets."""
    run_list(TOKENS, lambda system: partial(system.tokens.list, revoked=revoked), limit, after, all_)


def _row(t: TokenRow) -> tuple[object, ...]:
    expires = None if t.expires_at is None else t.expires_at.date()
    return (t.name, t.state, " ".join(t.scopes), t.user, expires, t.last_used_at, t.created_at, t.created_by)


TOKENS = ListTable(
    "tokens",
    ("TOKEN", "STATE", "SCOPES", "USER", "EXPIRES", "LAST USED", "CREATED", "BY"),
    _row,
    empty="no tokens",
    drop=("BY", "CREATED", "LAST USED"),
)


@app.command()
def revoke(name: Name) -> None:
    """Refuse a token for good; servers follow within 5 seconds."""

    async def go() -> None:
        async with operations() as system:
            done = await system.tokens.revoke(actor(), name)
        document(done, human=f"revoked {name}" if done.changed else f"nothing to do: {name} is revoked already")

    run_command(go())


@app.command()
def confirm(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME ...")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every token that is not revoked")] = False,
) -> None:
    """After a restore of the database: say which tokens are still to be trusted."""

    async def go() -> None:
        if all_ == bool(names):
            raise InvalidInput.field("names", "must be the names of tokens, or else --all", "name one of the two")
        async with operations() as system:
            done = await system.tokens.confirm(actor(), names or None)
        confirmed = ", ".join(done.confirmed)
        document(done, human=f"confirmed {confirmed}" if confirmed else "nothing to do: they are confirmed already")

    run_command(go())
