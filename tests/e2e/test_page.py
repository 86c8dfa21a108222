"""Operators watch and steer the pools in a real Chromium. SCREENSHOTS=docs/images keeps the pictures of the README."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import Watch, chromium, chromium_path, faults, is_wider_than_window
from tests.e2e.dev_stack import DevStack, frozen, until

TEMPLATE = """
organizations:
  - name: acme
    members: [alice, bob]
    templates:
      - name: python
        provisioner: process
        source: {{command: [sleep, infinity], ready: null}}
        presets:
          - {{name: small, parameters: {{size: small}}, instances: 6, expire_after: 24h}}
          - name: large
            parameters: {{size: large}}
            instances: 2
            timezone: Europe/Berlin
            schedule: [{{cron: "* 8-18 * * 1-5", instances: 3}}, {{cron: "* 10-15 * * 6", instances: 1}}]
      - name: agents
        provisioner: process
        source: {{command: [sh, -c, {command}], ready: {{file: cloned}}}}
        presets:
          - {{name: sandbox, parameters: {{size: small}}, instances: 3}}
"""
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack for this file alone: its loop is stopped, and its page should show only these pools."""
    chromium_path()
    folder = tmp_path_factory.mktemp("page")
    stack = DevStack(folder)
    stack.start()
    try:
        repaired = f"if test -e {folder}/repaired; then touch cloned; exec sleep infinity; fi"
        command = json.dumps(f"{repaired}; echo 'fatal: repository not found' >&2; exit 128")
        (folder / "pools.yaml").write_text(TEMPLATE.format(command=command))
        output = stack.cli("apply", "-f", str(folder / "pools.yaml"))
        assert output.code == 0, output
        yield stack
    finally:
        assert stack.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def link_of(stack: DevStack) -> str:
    """Return a fresh link, as `prebuilds page` prints it."""
    link: str = stack.ask("page")["page"]
    return link


def claim(stack: DevStack, name: str) -> None:
    token = Path(stack.facts["token_file"]).read_text().strip()
    answer = httpx.put(
        f"{stack.facts['http']}/v1/claims/order-{name}",
        json={"preset": "acme/python/small", "owner": "alice", "name": name},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert answer.status_code == 201, answer.text


def is_whole(stack: DevStack) -> bool:
    """Whether all prebuilds of acme/python/small are ready."""
    return any(row["preset"] == "small" and row["eligible"] == 6 for row in stack.status()["presets"])


def until_row(page: Page, preset: str, words: str) -> None:
    """Wait until a pool's row has this text, without loading the page again."""
    expect(page.locator("#pools tr", has_text=preset)).to_contain_text(re.compile(words, re.DOTALL), timeout=WAIT_MS)


def says(page: Page, part: str, words: str) -> None:
    """Wait until a part of the page has these words."""
    expect(page.locator(part)).to_contain_text(words, timeout=WAIT_MS)


def picture(page: Page, name: str, wait: Callable[[], None] = lambda: None) -> None:
    """Take a screenshot for the README when SCREENSHOTS is set; *wait* first waits for the figures on the page."""
    if folder := os.environ.get("SCREENSHOTS"):
        wait()
        page.screenshot(path=Path(folder) / f"{name}.png")


def do(page: Page, act: str, cause: str | None = None) -> None:
    """Follow an action's link and confirm it, with the keyboard alone."""
    page.locator(f"#act-{act}").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/acts/{act}*")
    assert faults(page) == []
    if cause is not None:
        page.keyboard.type(cause)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/*?done=*")


def test_operators_watch_and_steer_the_pools(stack: DevStack, browser: Browser) -> None:
    address = stack.facts["http"]
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    watch = Watch(page, address)
    page.set_default_timeout(WAIT_MS)
    [printed] = re.findall(r"page +(\S+)", stack.log.read_text())
    page.goto(printed)
    assert page.url == f"{address}/", "the link is spent, and no code stands in the address"
    page.evaluate("window.loaded = true")

    until_row(page, "python/small", r"6\s+of 6.*full")
    says(page, "#alarms", "acme/agents/sandbox")
    for n in range(3):
        claim(stack, f"n{n}")
    until(lambda: is_whole(stack), "the pool to be whole again", 60, stack.log)
    with frozen(stack, "provisioner"):
        for n in range(3, 5):
            claim(stack, f"n{n}")
        until_row(page, "python/small", r"4\s+of 6.*\+2 starting")
        says(page, "#builds", "pending")
        picture(page, "pools", lambda: until_row(page, "python/small", "100 % of 5"))
        assert faults(page) == []
    until_row(page, "python/small", r"6\s+of 6.*full")
    assert page.evaluate("window.loaded"), "all of it without that the page was loaded again"

    do(page, "pause", "the image registry moves")
    says(page, "#loop", "Paused by token/local: the image registry moves")
    claim(stack, "n5")
    until_row(page, "python/small", r"5\s+of 6.*held\s+paused by an operator")
    do(page, "resume")
    until_row(page, "python/small", r"6\s+of 6.*full")

    page.locator("#alarms a", has_text="acme/agents/sandbox").click()
    says(page, "#failures", "fatal: repository not found")
    says(page, "#decisions", "creation held: hard_limited")
    assert faults(page) == []
    (stack.files / "repaired").touch()
    do(page, "resume-creation")
    says(page, "#head", "3 of 3 ready")

    page.goto(f"{address}/")
    do(page, "stop", "a drill")
    says(page, "#loop", "Stopped: a drill")
    do(page, "start")
    expect(page.locator("#loop .chip", has_text="running")).to_be_visible()

    page.get_by_role("searchbox").fill("alice/n0")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("alice/n0")
    assert page.locator("#builds tbody tr").count() == 2
    workflow = page.locator("#builds tbody a").first.get_attribute("href")
    assert workflow is not None
    assert workflow.startswith(stack.facts["temporal_ui"])
    assert faults(page) == []
    page.goto(f"{address}/claims/order-n0")
    says(page, "#head", "prebuilt")
    assert faults(page) == []
    assert watch.elsewhere == [], "no request leaves the machine"
    assert watch.complaints == []


def test_pages_fit_a_phone_and_the_dark(stack: DevStack, browser: Browser) -> None:
    address = stack.facts["http"]
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.goto(link_of(stack))
    addresses = ("/", "/presets/acme/python/large", "/acts/stop", "/find?what=alice/n0", "/claims/order-n0")
    for path in addresses:
        page.goto(f"{address}{path}")
        assert faults(page) == [], path
        if "large" in path:
            picture(page, "preset")
    page.set_viewport_size({"width": 360, "height": 740})
    for path in addresses:
        page.goto(f"{address}{path}")
        assert not is_wider_than_window(page), path


def test_the_page_needs_no_scripts(stack: DevStack, browser: Browser) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{stack.facts['http']}/")
    token = Path(stack.facts["token_file"]).read_text().strip()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    assert page.locator("#pools tbody tr").count() == 3
    page.locator("#act-pause").click()
    page.get_by_label("Why").fill("without scripts")
    page.get_by_role("button", name="Pause").click()
    says(page, "#loop", "without scripts")
    page.locator("#act-resume").click()
    page.get_by_role("button", name="Resume").click()
    until(lambda: not stack.status()["loop"]["paused"], "the pools to be resumed", 30, stack.log)
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("h1")).to_have_text("Sign in")
