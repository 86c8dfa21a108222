"""Registers our search attributes, so that `temporal workflow list --query` can tell pools' builds from people's."""

from __future__ import annotations

import asyncio
import logging
import time

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

logger = logging.getLogger(__name__)

KEYWORDS = (
    "PrebuildsPreset",
    "PrebuildsTemplate",
    "PrebuildsInitiator",
    "PrebuildsOwner",
    "PrebuildsTransition",
)
KNOWN_WITHIN_S = 20.0
"""How long to wait until new attributes can be used, in seconds. A server reads them every 2 to 10 s, and refuses a
start that has them until then."""


async def register(client: Client) -> bool:
    """Register the missing attributes in the client's namespace, and wait until they can be used. It is safe to repeat.

    Returns:
        Whether all attributes are registered now; False when the cluster does not permit it. Everything else works
        without them.
    """
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = {
            name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
            for name in KEYWORDS
            if name not in known.custom_attributes
        }
        if missing:
            await _add(client, missing)
            await _wait_until_known(client)
    except RPCError as error:
        logger.warning("Search attributes cannot be registered here", extra={"error": error.message})
        return False
    return True


async def _add(client: Client, missing: dict[str, IndexedValueType.ValueType]) -> None:
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:  # already exists: another process was faster
            raise


async def _wait_until_known(client: Client) -> None:
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while time.monotonic() < deadline:
        try:
            await client.count_workflows(" AND ".join(f"{name} IS NULL" for name in KEYWORDS))
        except RPCError as error:
            if error.status is not RPCStatusCode.INVALID_ARGUMENT:
                raise
            await asyncio.sleep(0.1)
        else:
            return
