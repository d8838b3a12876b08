"""A real Chromium that opens pages from disk, with the network blocked, and axe-core to judge them."""

import os
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CMNET_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
# Where `make test-browser` has npm put it.
AXE = Path(
    os.environ.get("CMNET_AXE") or Path(__file__).parents[2] / ".venv/axe/node_modules/axe-core/axe.min.js",
)

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def why_not() -> str:
    """Why pages cannot be opened here; empty if they can."""
    missing = [
        name
        for name, there in (
            ("Debian's chromium (apt-get install chromium)", Path(CHROMIUM).exists()),
            ("Playwright (pip install playwright)", find_spec("playwright") is not None),
            (f"npm's axe-core at {AXE} (make test-browser installs it)", AXE.exists()),
        )
        if not there
    ]
    return f"no page was opened in a browser: {', '.join(missing)} is missing" if missing else ""


@dataclass(frozen=True, eq=False)
class Opened:
    """A page in the browser.

    Attributes:
        page: Playwright's page.
        trouble: Errors in its console, and whatever it asked for beyond its own file.
    """

    page: Any
    trouble: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note all trouble from now on."""
        self.page.on("console", lambda said: self._note(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("request", lambda asked: self._note(asked.url) if not _is_own(asked.url) else None)

    def _note(self, text: str) -> None:
        self.trouble.append(text)

    def findings(self) -> list[str]:
        """What axe-core finds serious or critical: its rule and the elements."""
        # As an expression of the debugger, since the page's policy lets no foreign script in.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            f"{one['id']}: {one['help']}: {'; '.join(node['html'][:200] for node in one['nodes'][:5])}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


def _is_own(url: str) -> bool:
    return url.startswith(("file://", "data:", "blob:"))
