"""Masking of a claim's parameters in the log lines and errors of an effect.

Values of placeholders appear in image names, and in the engine's messages about a mount or a command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar, cast

from prebuilds.api import PrebuildsError
from prebuilds.provisioners.base import Progress, Provision
from prebuilds.provisioners.kit.masking import masker

Effect = TypeVar("Effect", bound=Callable[..., Awaitable[Any]])


def masked(effect: Effect) -> Effect:
    """Decorate a driver's method that takes a `Provision` and, if it logs, a `Progress`."""

    @wraps(effect)
    async def with_mask(driver: Any, wanted: Provision, *progress: Progress) -> Any:
        mask = masker(wanted.claim_parameters.values())
        try:
            return await effect(driver, wanted, *[_Masked(one, mask) for one in progress])
        except PrebuildsError as error:
            if not wanted.claim_parameters:
                raise
            error.hide(mask)
            raise error from None  # its cause has the same words and would be logged with it

    return cast("Effect", with_mask)


class _Masked:
    """A `Progress` that masks values in each line."""

    def __init__(self, progress: Progress, mask: Callable[[str], str]) -> None:
        self._progress = progress
        self._mask = mask

    def __call__(self, line: str) -> None:
        self._progress(self._mask(line))

    async def save_state(self, state: dict[str, Any]) -> None:
        """Save *state* unmasked: the database keeps it, and people do not see it."""
        await self._progress.save_state(state)
