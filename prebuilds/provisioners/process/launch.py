"""How a workspace's command is started: the template's source with this workspace's values filled in."""

from __future__ import annotations

from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.placeholders import fill
from prebuilds.provisioners.process import host
from prebuilds.provisioners.process.folder import Launch, ProcessFolders
from prebuilds.provisioners.process.ids import find_program_for_others, own_environment
from prebuilds.provisioners.process.source import find_program, parse_source


def plan_launch(
    wanted: Provision, *, last_port: int | None, folders: ProcessFolders, host_tag: str, isolated: bool
) -> Launch:
    """Fill the template's placeholders for this workspace, and reserve its port.

    Args:
        last_port: The port that the workspace had before; None: none, or it was never started.
        host_tag: Tag of this deployment's processes on this host.
        isolated: The workspace runs as a user of its own, so its program must be one that this user can reach.
    Raises:
        InvalidSource: A placeholder has no value, or the program is not on this host.
    """
    source = parse_source(wanted.source)
    port = host.take_port(folders.ports, wanted.workspace_id, last_port) if source.has_port else None
    home = folders.home(wanted.workspace_id)
    values = {
        "workspace_id": str(wanted.workspace_id),
        "name": wanted.name,
        "owner": wanted.owner,
        "owner_slug": wanted.owner_slug,
        "organization": wanted.organization,
        "template": wanted.template,
        "preset": wanted.preset or "",
        "folder": str(home),
        **({"port": str(port)} if port is not None else {}),
        **{f"param.{name}": value for name, value in wanted.parameters.items()},
    }
    argv = [fill(word, values, f"source.command.{n}") for n, word in enumerate(source.command)]
    env = {name: fill(value, values, f"source.env.{name}") for name, value in source.env.items()}
    ready = source.readiness
    if ready is not None and ready.command is not None:
        ready = ready.model_copy(update={"command": [fill(w, values, "source.ready.command") for w in ready.command]})
    return Launch(
        argv=[(find_program_for_others if isolated else find_program)(argv[0]), *argv[1:]],
        env={
            **processes.base_environment(),
            **(own_environment(home) if isolated else {}),
            "HOME": str(home),
            **env,
            host.WORKSPACE_TAG: str(wanted.workspace_id),
            host.HOST_TAG: host_tag,
            "PREBUILDS_CLAIM_FILE": str(folders.claim_file(wanted.workspace_id)),
        },
        port=port,
        ready=ready,
        ready_timeout_s=wanted.ready_timeout_s,
        address=fill(source.shown_address, values, "source.address") if source.shown_address else None,
        stop_signal=source.stop_signal,
        stop_timeout_s=source.stop_timeout.total_seconds(),
        log_max=source.log_max,
    )
