"""Fixtures of the tests in a browser, which are skipped where there is none, unless a browser is required."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import CHROMIUM, FLAGS, OpenedPage, missing_tools


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium. ``CMNET_BROWSER=required`` makes its absence a failure."""
    reason = missing_tools()
    if reason and os.environ.get("CMNET_BROWSER") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., OpenedPage]]:
    """Open a page from disk, offline; an error in any opened page fails the test at its end."""
    opened: list[OpenedPage] = []

    def open_it(path: Path, *, width: int = 1440, scripts: bool = True, **context: Any) -> OpenedPage:
        view = {"width": width, "height": 900}
        browser_context = chromium.new_context(viewport=view, offline=True, java_script_enabled=scripts, **context)
        opened.append(OpenedPage(browser_context.new_page()))
        opened[-1].watch()
        opened[-1].page.goto(path.absolute().as_uri())
        return opened[-1]

    yield open_it
    for one in opened:
        one.page.context.close()
    assert [error for one in opened for error in one.errors] == []
