"""A real Chromium, and checks of a page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SERIOUS = ("serious", "critical")


def chromium_path() -> str:
    """The installed Chromium; skips the test without one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium is installed; `apt-get install chromium`, or name one with CHROMIUM")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that makes no background requests of its own."""
    path = chromium_path()
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """Records the page's requests to other servers and the browser's errors."""

    def __init__(self, page: Page, address: str) -> None:
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self._note(request.url, address))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, message.text))

    def _note(self, url: str, address: str) -> None:
        if not url.startswith(f"{address}/"):
            self.elsewhere.append(url)

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)


def faults(page: Page) -> list[str]:
    """The faults that axe-core calls serious or critical."""
    results: dict[str, Any] = Axe().run(page).response
    return [
        f"{found['id']}: {found['help']}: {[node['html'][:200] for node in found['nodes'][:3]]}"
        for found in results["violations"]
        if found["impact"] in SERIOUS
    ]


def is_wider_than_window(page: Page) -> bool:
    """Whether the page scrolls sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))
