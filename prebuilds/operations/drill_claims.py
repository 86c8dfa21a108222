"""Claims of drills. The same code decides them as people's claims, but they never take the last ready prebuild and are
not counted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from uuid import UUID

from prebuilds.api import PrebuildsError
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import ClaimRequest, ClaimResult, ClaimRun
from prebuilds.planning.drills import read_parameters
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.store.drill_parameters import read_wanted
from prebuilds.vocabulary import DRILL_USER
from prebuilds.vocabulary.drills import drill_claim_id, drill_workspace_name

WITHIN = timedelta(seconds=10)
"""Time limit of an attempt."""


class DrillClaims:
    """Takes prebuilds for drills. Safe to call again for the same drill, and several times at once."""

    def __init__(
        self, store: ClaimStore, dispatcher: Dispatcher, environ: Mapping[str, str] = MappingProxyType(os.environ)
    ) -> None:
        """Make the claims of drills.

        Args:
            environ: The environment, which has the claim parameters of drills.
        """
        self._store = store
        self._dispatcher = dispatcher
        self._environ = environ

    async def take(self, drill_id: UUID, preset_id: UUID, run: ClaimRun) -> ClaimResult:
        """Take the oldest ready prebuild of a preset, unless it is the last one.

        Args:
            run: The run of the drill's workflow to which this attempt belongs.
        Returns:
            The prebuild that the drill has taken, now or by an earlier attempt.
        Raises:
            InvalidInput: This worker does not have the claim parameters that the template's drills need.
            NoClaimablePrebuiltWorkspaces: No prebuild can be spared. This is final for *run*: no later attempt takes
                one.
            PrebuildsError: Another refusal of a claim, which is final as well.
            StoreUnavailable: The database is away. The next attempt finds out whether a prebuild was taken.
        """
        claim_id, target = drill_claim_id(drill_id), ClaimTarget(str(preset_id), preset_id=preset_id)
        request = ClaimRequest(
            preset=str(preset_id), owner=DRILL_USER, name=drill_workspace_name(drill_id), ttl_seconds=0
        )
        request_hash, run = self._store.hash_request(request), self._store.ending(run, WITHIN)
        try:
            # The hash leaves the claim parameters out, since the variable may change between two attempts.
            brings = {"claim_parameters": await self._claim_parameters(drill_id, preset_id)}
            wanted = request.model_copy(update=brings)
            claimed = await self._store.claim_spare(claim_id, wanted, target, request_hash, run)
        except PrebuildsError as error:
            if error.repeated:
                raise
            answer = await self._store.answer_run(claim_id, request_hash, run, error, request)
            if isinstance(answer, PrebuildsError):
                raise answer from error
            return answer
        assert claimed.result is not None  # noqa: S101 - two were ready, and locked for this claim
        if claimed.decided_now:
            if claimed.build_open:
                self._dispatcher.start_builds([claimed.result.build_id])
            self._dispatcher.nudge([claimed.preset_id])
        return claimed.result

    async def _claim_parameters(self, drill_id: UUID, preset_id: UUID) -> dict[str, str]:
        wanted = await read_wanted(self._store.pool, drill_id, preset_id)
        if wanted is None:
            return {}
        return read_parameters(wanted.variable, self._environ.get(wanted.variable), wanted.names)
