"""`prebuilds dev` whose Temporal soon suggests to continue as new, so that a loop's whole life is a short history."""

from __future__ import annotations

from prebuilds.cli import main
from prebuilds.stack import temporal_server

if __name__ == "__main__":
    suggested = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=300")
    vars(temporal_server)["SETTINGS"] = (*temporal_server.SETTINGS, *suggested)
    main()
