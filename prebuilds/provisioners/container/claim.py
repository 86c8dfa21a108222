"""The hand-over of a running container: files with the new owner, and a command of the template."""

from __future__ import annotations

from collections.abc import Mapping

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.container.bounds import files_outside
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.parts import OF_THE_OWNER, OnClaim
from prebuilds.provisioners.container.source import ContainerSource
from prebuilds.provisioners.container.spec import values_of
from prebuilds.provisioners.container.state import Container
from prebuilds.provisioners.container.users import owner_in
from prebuilds.provisioners.kit.claim_file import claim_file_text
from prebuilds.provisioners.kit.masking import masker
from prebuilds.provisioners.kit.placeholders import PARAMETER, fill, placeholders_of

TAIL_LINES = 15
TAIL_CHARS_MAX = 1000


async def check_hand_over(engine: Engine, source: ContainerSource, container: Container, wanted: Provision) -> None:
    """Check in an unclaimed container what a claim will need there, so that no claim fails after it was won.

    Raises:
        InvalidSource: The container's user or the claim's program does not exist.
    """
    claim = source.claim
    if claim is None:
        return
    await owner_in(engine, container)
    if claim.exec is None or _changes_at_claim(claim.exec[0]):
        return
    field = "source.claim.exec.0"
    program = fill(claim.exec[0], values_of(wanted), field)
    folders = container.path.split(":") if "/" not in program else [""]
    for folder in folders:
        path = f"{folder}/{program}" if folder else program
        if not path.startswith("/") or await engine.exists(container.name, path):
            return  # a relative path depends on the working directory
    message = f"the image has no program {program}"
    raise InvalidSource.field(field, message, "name one that it has, or leave exec out and watch the claim file")


def _changes_at_claim(text: str) -> bool:
    return any(name in OF_THE_OWNER or name.startswith(PARAMETER) for name in placeholders_of(text))


async def hand_over(engine: Engine, source: ContainerSource, container: Container, wanted: Provision) -> None:
    """Write the claim file and the template's files, then run the template's command. May be repeated.

    Does nothing where the template's `claim` is false.

    The files belong to the container's user, whom the template or the image names.

    Raises:
        ProvisionFailed: The command failed, or did not end in time. Quotes the end of its output.
        InvalidSource: A placeholder has no value, or the container's user does not exist.
    """
    claim, name, values = source.claim, container.name, values_of(wanted)
    if claim is None:
        return
    files = {path: fill(text, values, f"source.claim.files.{path}") for path, text in claim.files.items()}
    owner = await owner_in(engine, container)
    for below, some in _by_mount({claim.file: claim_file_text(wanted), **files}, source).items():
        await engine.put(name, some, below=below, mode=int(claim.mode, 8), owner=owner)
    if claim.exec is None:
        return
    words = [fill(word, values, f"source.claim.exec.{n}") for n, word in enumerate(claim.exec)]
    timeout_s = claim.timeout.total_seconds()
    code, output = await engine.run(name, words, env=_hook_env(claim, wanted), timeout_s=timeout_s)
    if code != 0:
        how = f"ended with status {code}" if code is not None else f"did not end within {timeout_s:g} s"
        raise ProvisionFailed(f"the claim's command {how}{tail_of(output, wanted)}")


def _by_mount(files: Mapping[str, str], source: ContainerSource) -> dict[str, dict[str, str]]:
    """Return the files by the innermost mount that has them, `/` where none has."""
    grouped: dict[str, dict[str, str]] = {}
    for path, text in files.items():
        targets = [m.target for m in source.mounts if not files_outside([path], [m.target])]
        grouped.setdefault(max(targets, key=len, default="/"), {})[path] = text
    return grouped


def _hook_env(claim: OnClaim, wanted: Provision) -> dict[str, str]:
    parameters = {**wanted.parameters, **wanted.claim_parameters}
    return {
        "PREBUILDS_WORKSPACE_ID": str(wanted.workspace_id),
        "PREBUILDS_CLAIM_ID": wanted.claim_id or "",
        "PREBUILDS_BUILD_ID": str(wanted.build_id),
        "PREBUILDS_OWNER": wanted.owner,
        "PREBUILDS_OWNER_SLUG": wanted.owner_slug,
        "PREBUILDS_NAME": wanted.name,
        "PREBUILDS_CLAIM_FILE": claim.file,
        **{f"PREBUILDS_PARAM_{name.upper().replace('-', '_')}": value for name, value in parameters.items()},
    }


def tail_of(text: str, wanted: Provision) -> str:
    """Return the end of a workspace's output for an error message; empty when there is none.

    The claim's parameters are masked: the workspace may have printed them, and operators see errors.
    """
    lines = masker(wanted.claim_parameters.values())(text).strip().splitlines()[-TAIL_LINES:]
    return "; it wrote:\n" + "\n".join(lines)[-TAIL_CHARS_MAX:] if lines else ""
