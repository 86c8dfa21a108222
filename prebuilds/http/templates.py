"""Templates over HTTP: apply template files; list, deprecate and delete templates."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from prebuilds.api import InvalidInput
from prebuilds.http import examples
from prebuilds.http.documents import DECODED, PageQuery, answers, in_path
from prebuilds.http.guard import Guarded
from prebuilds.http.json_body import read_json
from prebuilds.planning.policy import Action, Resource
from prebuilds.templates import ApplyResult, TemplateFile, parse_template_file
from prebuilds.views import TemplateChange, TemplatePage

router = APIRouter(prefix="/v1/templates", tags=["templates"])

Template = Annotated[str, in_path("`organization/template`, or an id", "acme/python"), DECODED]
YAML = "application/yaml"
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A template file, YAML or JSON, as `prebuilds apply` reads it (`prebuilds schema`)",
        "content": {
            YAML: {"schema": {"type": "string"}, "example": examples.TEMPLATE_FILE},
            "application/json": {"schema": {"type": "object"}, "example": examples.TEMPLATE_FILE_AS_JSON},
        },
    }
}


@router.get(
    "",
    summary="List templates",
    operation_id="list_templates",
    responses=answers({"templates": [examples.TEMPLATE], "next": None}),
)
async def list_templates(guard: Guarded, query: Annotated[PageQuery, Query()]) -> TemplatePage:
    """The live templates that the token may see, by path."""
    reach = guard.reach(Action.SEE_TEMPLATES)
    page = await guard.operations.templates.list(reach=reach, limit=query.limit, after=query.after)
    return TemplatePage(templates=page.rows, next=page.next)


@router.put(
    "",
    summary="Apply a template file",
    operation_id="apply_templates",
    responses=answers(examples.APPLIED, 409, 413),
    openapi_extra=FILE,
)
async def apply_templates(
    guard: Guarded,
    request: Request,
    dry_run: Annotated[bool, Query(description="Say what would change, and change nothing")] = False,
) -> ApplyResult:
    """One change, all or nothing. The same file again changes nothing. The token has to be an administrator's in each
    organization of the file. A source has its files in itself: folders of the server's host are not read."""
    guard.reach(Action.APPLY)  # before the body is read
    file = await _read_file(request)
    organizations = [Resource(entry.name) for entry in file.organizations]
    for resource in organizations or [Resource()]:
        guard.check(Action.APPLY, resource)
    return await guard.operations.templates.apply(guard.actor, file, dry_run=dry_run)


async def _read_file(request: Request) -> TemplateFile:
    """Read the body as a template file.

    Raises:
        InvalidInput: It is none. The details name what is wrong.
    """
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput.field("body", "must be text in UTF-8") from error
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json":
        text = _yaml_of(text)
    return await asyncio.to_thread(partial(parse_template_file, text, sent=True))  # a long file takes seconds


def _yaml_of(text: str) -> str:
    """JSON as YAML reads it: escapes as the characters that they stand for.

    Raises:
        InvalidInput: It is no JSON, or has a key twice.
    """
    return json.dumps(read_json(text), ensure_ascii=False)


@router.post(
    "/{template}:deprecate",
    summary="Take a template out of use",
    operation_id="deprecate_template",
    responses=answers(examples.TEMPLATE_CHANGE, 404),
)
async def deprecate_template(
    guard: Guarded, template: Template, undo: Annotated[bool, Query(description="Put it back into use")] = False
) -> TemplateChange:
    """Nobody can claim from it, and its pools are emptied. Claimed workspaces go on."""
    found = await guard.template(template, Action.DEPRECATE_TEMPLATE)
    return await guard.operations.templates.deprecate(guard.actor, found, undo=undo)


@router.delete(
    "/{template}",
    summary="Delete a template",
    operation_id="delete_template",
    responses=answers(examples.TEMPLATE_CHANGE | {"deprecated": False, "deleted": True}, 404),
)
async def delete_template(guard: Guarded, template: Template) -> TemplateChange:
    """Its pools are emptied; claimed workspaces stay with their owners."""
    found = await guard.template(template, Action.DELETE_TEMPLATE)
    return await guard.operations.templates.delete(guard.actor, found)
