"""What the tests in a real browser share. Where there is none they are skipped, unless it was asked for."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import CHROMIUM, FLAGS, Opened, why_not


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running Chromium. ``CMNET_BROWSER=required`` makes its absence a failure."""
    reason = why_not()
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
def open_page(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Open a page from disk, offline; whatever went wrong in any of them fails the test at its end."""
    opened: list[Opened] = []

    def open_it(path: Path, *, width: int = 1440, scripts: bool = True, **context: Any) -> Opened:
        view = {"width": width, "height": 900}
        made = chromium.new_context(viewport=view, offline=True, java_script_enabled=scripts, **context)
        opened.append(Opened(made.new_page()))
        opened[-1].watch()
        opened[-1].page.goto(path.absolute().as_uri())
        return opened[-1]

    yield open_it
    for one in opened:
        one.page.context.close()
    assert [trouble for one in opened for trouble in one.trouble] == []
