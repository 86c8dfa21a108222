"""Saving a workspace's Terraform state in the database while a call runs and when it ends."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import Progress, StaleBuild
from prebuilds.provisioners.kit.finishing import to_the_end

logger = logging.getLogger(__name__)

LAST_SAVE_S = 10.0
"""Bound on the last save of a call, for which even a cancelled call waits."""


class StateSaver:
    """Saves one workspace's state when it has changed."""

    def __init__(
        self,
        workspace_id: UUID,
        progress: Progress | None,
        read: Callable[[], str | None],
        pack: Callable[[str], dict[str, Any]],
    ) -> None:
        """Make the saver of one run's states.

        Args:
            progress: Where states are saved; None: nothing is saved.
            read: Returns the state file's text; None when there is no file.
            pack: Turns that text into what the database keeps.
        """
        self._id = workspace_id
        self._progress = progress
        self._read = read
        self._pack = pack
        self.saved: str | None = None
        """The text that was saved last; None: none, or not known yet."""

    async def save(self, *, always: bool = False) -> None:
        """Save the state if it has changed, or in any case. A state file that is half written is skipped.

        Raises:
            StaleBuild: The build has ended, or a later attempt of it is running.
        """
        text = self._read()
        if self._progress is None or text is None or (text == self.saved and not always) or not _is_whole(text):
            return
        await self._progress.save_state(self._pack(text))
        self.saved = text

    async def save_meanwhile(self) -> None:
        """Save the state while Terraform runs. Only `StaleBuild` is raised; other errors are logged."""
        try:
            await self.save()
        except StaleBuild:
            raise  # another attempt or a later build works elsewhere, so this one must end its Terraform
        except Exception as error:  # the next change, or the last save, tries again
            logger.warning(
                "A state could not be saved yet", extra={"workspace_id": str(self._id), "error": repr(error)}
            )

    async def save_last(self) -> None:
        """Save the state at a call's end, even if the call is cancelled. Only `StaleBuild` is raised."""

        async def bounded() -> None:
            try:
                await asyncio.wait_for(self.save(), LAST_SAVE_S)
            except StaleBuild:
                raise  # a call that was overtaken must not end the build either
            except Exception as error:
                logger.warning(
                    "A state was not saved; it is in this host's folder",
                    extra={"workspace_id": str(self._id), "error": repr(error)},
                )

        await to_the_end(bounded())


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
