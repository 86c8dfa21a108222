"""`make demo`: runs the commands that a person would type, on real servers, and shows their output.

`make demo PROVISIONER=terraform` (or `container`) uses that provisioner's template.

Everything is kept in a temporary folder and on free ports. Nothing is left running, whatever happens.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo_container
import psutil

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
START_S, STEP_S, END_S = 60.0, 60.0, 40.0


@dataclass(frozen=True)
class Story:
    """The parts of the demo that differ between provisioners."""

    file: str
    preset: str
    serves: bool = True
    """True if the workspace's address answers HTTP."""
    missing: Callable[[], str | None] = lambda: None
    """Returns what this machine lacks for the demo; None if nothing."""
    passed_on: tuple[str, ...] = ()
    """Environment variables that the provisioner needs from this process."""
    rewrite: Callable[[str], str] = lambda text: text
    """Adapts the template file to this machine."""
    clean: Callable[[Path], None] = lambda state_dir: None
    """Removes what `prebuilds dev` leaves behind when it ends."""


def find_missing_terraform() -> str | None:
    """Return what to do if no Terraform or OpenTofu is installed; None if one is."""
    named = os.environ.get("PREBUILDS_TERRAFORM")
    if any(shutil.which(name) for name in ([named] if named else ["tofu", "terraform"])):
        return None
    return "neither tofu nor terraform is on the PATH; install OpenTofu, or set PREBUILDS_TERRAFORM to the program"


STORIES = {
    "process": Story("prebuilds.yaml", "acme/python/small"),
    "terraform": Story("terraform.yaml", "acme/desk/small", False, find_missing_terraform, ("PREBUILDS_TERRAFORM",)),
    "container": Story(
        "container.yaml",
        "acme/python/small",
        missing=demo_container.missing,
        rewrite=demo_container.with_image,
        clean=demo_container.clean,
    ),
}


class Demo:
    """One run of the demo, with its state in *folder*."""

    def __init__(self, folder: Path, story: Story) -> None:
        self.story = story
        self.log = folder / "dev.log"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PREBUILDS_", "TEMPORAL_"))}
        self.env |= {name: os.environ[name] for name in story.passed_on if name in os.environ}
        self.env |= {"PREBUILDS_STATE_DIR": str(folder / "state"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.dev: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> str:
        """Run a command and print it with its output. Ends the demo if the command fails."""
        print(f"\n$ {command}", flush=True)
        done = subprocess.run(shlex.split(command), env=self.env, capture_output=True, text=True, check=False)
        print(done.stdout.rstrip(), flush=True)
        if done.returncode != 0:
            raise SystemExit(f"{command} failed with {done.returncode}:\n{done.stderr}\n{self.tail()}")
        return done.stdout

    def read_json(self, command: str) -> Any:
        """Run a command with --json without printing anything, and return its document."""
        words = [*shlex.split(command), "--json"]
        return json.loads(subprocess.run(words, env=self.env, capture_output=True, text=True, check=True).stdout)

    def until(self, what: str, is_so: Callable[[], bool], timeout_s: float) -> float:
        """Wait until *is_so* returns true; return the seconds that it took. Ends the demo after *timeout_s*."""
        begun = time.monotonic()
        while not is_so():
            if time.monotonic() - begun > timeout_s:
                raise SystemExit(f"{what} took more than {timeout_s:g} s\n{self.tail()}")
            if self.dev is not None and self.dev.poll() is not None:
                raise SystemExit(f"prebuilds dev ended with {self.dev.returncode}\n{self.tail()}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def pools_are_whole(self) -> bool:
        """True if every pool has as many ready prebuilds as desired."""
        return all(p["eligible"] == p["desired"] for p in self.read_json("prebuilds status")["presets"])

    def template_file(self) -> Path:
        """Return the example's path, or that of a copy adapted to this machine."""
        example = HERE / self.story.file
        text = self.story.rewrite(example.read_text())
        if text == example.read_text():
            return example
        adapted = self.log.with_name(self.story.file)
        adapted.write_text(text)
        return adapted

    def tail(self) -> str:
        """Return the last 20 lines of the log of `prebuilds dev`."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:]) if self.log.exists() else ""

    def play(self) -> None:
        """Run the demo from the start of the stack to the stop of the loop."""
        say("One command starts everything: PostgreSQL, Temporal with its UI, the workers and the loop.")
        print("\n$ prebuilds dev &", flush=True)
        with self.log.open("wb") as log:
            self.dev = subprocess.Popen(
                ["prebuilds", "dev"],
                cwd=HERE.parent,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        took = self.until("starting", lambda: "\nready" in self.log.read_text(), START_S)
        facts = ("database ", "temporal ", "ui ", "ready")
        print("\n".join(line for line in self.log.read_text().splitlines() if line.startswith(facts)))
        print(f"(up after {took:.1f} s)")

        say("A template file says how many workspaces of each preset are kept ready.")
        self.run(f"prebuilds apply -f {shlex.quote(os.path.relpath(self.template_file()))}")
        took = self.until("filling the pools", self.pools_are_whole, STEP_S)
        print(f"(all ready after {took:.1f} s)")
        self.run("prebuilds status")

        say("Alice claims one. It was ready before she asked.")
        claimed = self.run(f"prebuilds claim --preset {self.story.preset} --owner alice --name alice-dev --json")
        if self.story.serves:
            address = json.loads(claimed)["address"]
            print(f"\nGET {address}")
            with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - our own address
                print(f"HTTP {answer.status} {answer.reason}")
        self.run("prebuilds workspaces show alice/alice-dev")

        say("The claim has triggered the pool's refill.")
        took = self.until("the refill", self.pools_are_whole, STEP_S)
        self.run("prebuilds workspaces list")

        say("Alice is the initiator of her claim, so the pools' own jobs do not contain it.")
        self.run("prebuilds jobs list --initiator prebuilds")
        self.run("prebuilds jobs list --initiator alice")

        say("A signal stops the loop and carries the cause, which `prebuilds status` shows.")
        self.run("prebuilds stop --wait --cause 'end of the demo'")
        self.run("prebuilds status")

    def end(self) -> None:
        """End the stack as Ctrl-C does, and make sure that none of its processes is left."""
        if self.dev is None:
            return
        if self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            try:
                self.dev.wait(END_S)
            except subprocess.TimeoutExpired:
                self.dev.kill()
                self.dev.wait()
        self.story.clean(Path(self.env["PREBUILDS_STATE_DIR"]))
        left = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in left:
            process.kill()
        if left:
            raise SystemExit(f"left running, and ended by force: {[process.pid for process in left]}")
        print("\nEnded; nothing is left running.")

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            # Workers and workspaces have the folder in their environment, servers in their command line.
            state_dir = self.env["PREBUILDS_STATE_DIR"]
            return any(state_dir in text for text in (*process.environ().values(), *process.cmdline()))
        except (psutil.Error, OSError):
            return False


def say(text: str) -> None:
    """Print a comment between commands."""
    print(f"\n# {text}", flush=True)


def main() -> None:
    """Run the demo of the provisioner that the first argument names; `process` without one."""
    name = sys.argv[1] if len(sys.argv) > 1 else "process"
    story = STORIES.get(name)
    if story is None:
        sys.exit(f"no demo for {name}; known are {', '.join(STORIES)}")
    if (missing := story.missing()) is not None:
        sys.exit(f"the {name} demo cannot run here: {missing}")
    # SIGTERM, which CI sends at the end of a job, must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="prebuilds-demo-") as folder:
        demo = Demo(Path(folder), story)
        try:
            demo.play()
        finally:
            demo.end()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
