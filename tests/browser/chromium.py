"""A Chromium that opens pages from disk with the network blocked, and axe-core, which checks their accessibility."""

import os
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CMNET_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
# `make test-browser` installs it here by npm.
AXE = Path(
    os.environ.get("CMNET_AXE") or Path(__file__).parents[2] / ".venv/axe/node_modules/axe-core/axe.min.js",
)

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def missing_tools() -> str:
    """Return a message on the tools that are missing; empty where all are installed."""
    missing = [
        name
        for name, installed in (
            ("Debian's chromium (apt-get install chromium)", Path(CHROMIUM).exists()),
            ("Playwright (pip install playwright)", find_spec("playwright") is not None),
            (f"npm's axe-core at {AXE} (make test-browser installs it)", AXE.exists()),
        )
        if not installed
    ]
    return f"no page was opened in a browser: {', '.join(missing)} is missing" if missing else ""


@dataclass(frozen=True, eq=False)
class OpenedPage:
    """A page in the browser.

    Attributes:
        page: Playwright's page.
        errors: Errors in its console, and its requests for other files.
    """

    page: Any
    errors: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Record all errors from now on."""
        self.page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("request", lambda request: self._note(request.url) if not _is_own(request.url) else None)

    def _note(self, text: str) -> None:
        self.errors.append(text)

    def findings(self) -> list[str]:
        """Return the serious and critical findings of axe-core: rule and elements."""
        # The page's policy blocks foreign scripts, so that this is evaluated by the debugger.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {one['help']}: {'; '.join(node['html'][:200] for node in one['nodes'][:5])}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


def _is_own(url: str) -> bool:
    return url.startswith(("file://", "data:", "blob:"))
