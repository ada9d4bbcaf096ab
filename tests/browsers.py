"""A real browser for tests, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.waiting import PATIENCE_S

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="there is no browser here: install chromium (Debian: apt install chromium)",
)
PATIENCE_MS = PATIENCE_S * 1e3


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser of Debian's, driven by Playwright; it ends with the file that uses it."""
    with sync_playwright() as playwright:
        # a container's root has no sandbox
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            found.close()
