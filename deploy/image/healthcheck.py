"""Tells a container engine whether the process answers: exit code 0 for an answer of 200, else 1 with one line.

Usage: healthcheck [URL]. Without a URL it asks the metrics server, which every role of a worker has here. It imports
little, since it runs every few seconds.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 4.0


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else f"http://127.0.0.1:{os.environ['PREBUILDS_METRICS_PORT']}/healthz"
    address, _, path = url.removeprefix("http://").partition("/")
    connection = HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        said = answer.read(200).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        sys.exit(f"{url}: {error}")
    if answer.status != 200:
        sys.exit(f"{url}: {answer.status} {said}")


main()
