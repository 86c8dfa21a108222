"""The search for a claim's secret, for each driver, with and without keys: `python -m tests.secrets [DRIVER ...]`.

It ends with status 1 where a secret is in another place than `docs/security-secrets.md` says, or is missing
where it says so.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from tests.e2e.engines import container_engine
from tests.secrets.search import documented
from tests.secrets.story import SOURCES, apply, stack_with, tell, terraform_on_path

PAGE = Path(__file__).parents[2] / "docs" / "security-secrets.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="secrets", description=__doc__)
    parser.add_argument("drivers", nargs="*", default=[*SOURCES])
    drivers = parser.parse_args().drivers
    wrong = 0
    with contextlib.ExitStack() as all_of_it:
        podman = all_of_it.enter_context(container_engine()) if "container" in drivers else None
        for keys in (False, True):
            folder = Path(all_of_it.enter_context(tempfile.TemporaryDirectory(prefix="secrets-")))
            env = terraform_on_path(folder / "bin") | ({"DOCKER_HOST": podman.address} if podman is not None else {})
            with stack_with(folder, keys=keys, **env) as (stack, kept):
                for driver in drivers:
                    apply(stack, driver)
                    found = tell(stack, kept, driver, podman if driver == "container" else None)
                    for deleted, places in ((False, found.alive), (True, found.deleted)):
                        listed = documented(PAGE, driver, keys=keys, deleted=deleted)
                        how = f"{driver}, {'with' if keys else 'without'} keys, {'deleted' if deleted else 'alive'}"
                        print(f"{how}: {', '.join(sorted(places)) or 'nowhere'}", flush=True)
                        for place in sorted(places - listed):
                            print(f"  NOT DOCUMENTED: {place}", flush=True)
                        for place in sorted(listed - places):
                            print(f"  NOT FOUND: {place}", flush=True)
                        wrong += places != listed
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
