"""`prebuilds dev` whose Temporal notes each second how far it has come, not each half minute or minute.

It deletes a history only when it has noted that everything about its end is done.
"""

from __future__ import annotations

from prebuilds.cli import main
from prebuilds.stack import temporal_server

if __name__ == "__main__":
    for queue in ("transfer", "visibility"):
        noted = f'history.{queue}ProcessorUpdateAckInterval="1s"'
        temporal_server.SETTINGS += ("--dynamic-config-value", noted)
    main()
