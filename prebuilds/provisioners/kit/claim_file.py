"""The claim file: a JSON document from which a claimed workspace learns who owns it now."""

from __future__ import annotations

import json

from prebuilds.provisioners.base import Provision


def claim_file_text(wanted: Provision) -> str:
    """Return the claim file's text for the build *wanted*. It contains the claim's parameters, which are secret.

    `claim_id` and `build_id` let an agent in the workspace act once: a repeated attempt writes the same two ids.
    """
    content = {
        "workspace_id": str(wanted.workspace_id),
        "claim_id": wanted.claim_id,
        "build_id": str(wanted.build_id),
        "organization": wanted.organization,
        "owner": wanted.owner,
        "name": wanted.name,
        "parameters": wanted.parameters,
        "claim_parameters": wanted.claim_parameters,
    }
    return json.dumps(content, indent=2) + "\n"
