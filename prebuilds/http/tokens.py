"""Tokens over HTTP: make, list, revoke and confirm them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse
from pydantic import Field

from prebuilds.http import upkeep_examples
from prebuilds.http.documents import DECODED, PageQuery, RequestFields, answers, in_path
from prebuilds.http.guard import Guarded
from prebuilds.planning.policy import Action
from prebuilds.views import TokenCreated, TokenPage, TokenRevoked, TokensConfirmed
from prebuilds.vocabulary import Text

router = APIRouter(prefix="/v1", tags=["tokens"])

LIFE_MAX_S = 100 * 365 * 86_400.0


class TokenQuery(PageQuery):
    """Which tokens."""

    revoked: bool = Field(False, description="Also those that were revoked")


class TokenBody(RequestFields):
    """A new token."""

    name: Text
    scopes: list[Text] = Field(description="Each `RIGHT` or `RIGHT:ORGANIZATION`; 1 to 100 of them")
    user: Text | None = Field(None, description="Whose claims it makes; required with the scope `claim`")
    expires_seconds: float | None = Field(
        None, gt=0, le=LIFE_MAX_S, description="From now until it is refused; null for never"
    )


class ConfirmBody(RequestFields):
    """Which tokens are still to be trusted."""

    names: list[Text] | None = Field(None, max_length=10_000, description="null for all that are not revoked")


@router.get(
    "/tokens",
    summary="List tokens",
    operation_id="list_tokens",
    responses=answers({"tokens": [upkeep_examples.TOKEN], "next": None}),
)
async def list_tokens(guard: Guarded, query: Annotated[TokenQuery, Query()]) -> TokenPage:
    """Without their secrets, by name."""
    guard.check(Action.SEE_TOKENS)
    page = await guard.operations.tokens.list(revoked=query.revoked, limit=query.limit, after=query.after)
    return TokenPage(tokens=page.rows, next=page.next)


@router.post(
    "/tokens",
    summary="Make a token",
    operation_id="create_token",
    response_model=TokenCreated,
    responses=answers(upkeep_examples.TOKEN_CREATED, 409, 413),
)
async def create_token(
    guard: Guarded,
    body: Annotated[TokenBody, Body(examples=[{"name": "ci", "scopes": ["claim:others:acme"]}])],
) -> JSONResponse:
    """It is in this answer alone, and stored nowhere."""
    guard.check(Action.CHANGE_TOKENS)
    life = None if body.expires_seconds is None else timedelta(seconds=body.expires_seconds)
    made = await guard.operations.tokens.create(guard.actor, body.name, body.scopes, user=body.user, expires=life)
    return JSONResponse(made.model_dump(mode="json"), headers={"Cache-Control": "no-store"})


@router.delete(
    "/tokens/{name}",
    summary="Revoke a token",
    operation_id="revoke_token",
    responses=answers({"name": "ci", "changed": True}, 404),
)
async def revoke_token(guard: Guarded, name: Annotated[str, in_path("Its name", "ci"), DECODED]) -> TokenRevoked:
    """For good. Servers refuse it within 5 seconds."""
    guard.check(Action.CHANGE_TOKENS)
    return await guard.operations.tokens.revoke(guard.actor, name)


@router.post(
    "/tokens:confirm",
    summary="Trust tokens from before a restore of the database",
    operation_id="confirm_tokens",
    responses=answers({"confirmed": ["ci"]}, 404, 413),
)
async def confirm_tokens(
    guard: Guarded, body: Annotated[ConfirmBody, Body(examples=[{"names": ["ci"]}])]
) -> TokensConfirmed:
    """Nothing is confirmed if one of them does not exist or is revoked."""
    guard.check(Action.CHANGE_TOKENS)
    return await guard.operations.tokens.confirm(guard.actor, body.names)
