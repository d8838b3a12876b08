"""A browser without a window, for what only a browser can make: PDF files and pictures of figures."""

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import replacing

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_FLAGS = (
    "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
_SECONDS = 180

# Figures are saved with twice as many points as they have on a page.
_FINER = 2


def find_chromium() -> str:
    """The program.

    Raises:
        ManifestError: There is none.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise ManifestError(
            f"PDF and PNG files are made by Chromium, and none of {', '.join(_NAMES)} is installed.",
            hint="Install Chromium (on Debian: apt-get install chromium), or ask for --figures svg and no --pdf.",
            code=ErrorCode.TOOL,
        )
    return found


def print_pdf(page: Path, out: Path) -> None:
    """Print a page as the style sheet lays it out for paper.

    Raises:
        ManifestError: There is no Chromium, or it failed.
    """
    with replacing(out) as partial:
        _run("--no-pdf-header-footer", f"--print-to-pdf={partial}", page=page, made=partial)


@dataclass(frozen=True, slots=True)
class Vector:
    """A figure as SVG, with its width and height on a page."""

    text: str
    size: tuple[int, int]


def draw_pngs(figures: Mapping[Path, Vector]) -> None:
    """Draw figures as PNG files, by the names of the files; all on one sheet, since to start a browser takes longest.

    Raises:
        ManifestError: There is no Chromium, or it failed.
    """
    wide, high = (max(figure.size[axis] for figure in figures.values()) for axis in (0, 1))
    across = math.ceil(math.sqrt(len(figures)))
    corners = {out: (place % across * wide, place // across * high) for place, out in enumerate(figures)}
    sheet_size = (across * wide, math.ceil(len(figures) / across) * high)
    with tempfile.TemporaryDirectory(prefix="cmnet-") as folder:
        sheet, picture = Path(folder) / "sheet.svg", Path(folder) / "sheet.png"
        placed = (_placed(figure.text, *corners[out]) for out, figure in figures.items())
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet_size[0]}" height="{sheet_size[1]}">'
        sheet.write_text(f"{head}{''.join(placed)}</svg>", encoding="utf-8")
        options = (f"--window-size={sheet_size[0]},{sheet_size[1]}", f"--force-device-scale-factor={_FINER}")
        _run(*options, f"--screenshot={picture}", page=sheet, made=picture)
        with Image.open(picture) as drawn:
            for out, figure in figures.items():
                _cut(drawn, corners[out], figure.size, out)


def _placed(figure: str, x: int, y: int) -> str:
    return figure.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1)


def _cut(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int], out: Path) -> None:
    left, top = (_FINER * side for side in corner)
    with replacing(out) as partial:
        cut = sheet.convert("RGB").crop((left, top, left + _FINER * size[0], top + _FINER * size[1]))
        cut.save(partial, format="PNG", optimize=True)


def _run(*options: str, page: Path, made: Path) -> None:
    program = find_chromium()
    # Chromium's sandbox does not start for root, who can do everything anyway.
    own = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="cmnet-") as profile:
        command = [program, *_FLAGS, *own, f"--user-data-dir={profile}", *options, page.absolute().as_uri()]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise _failed(program, str(error)) from error
    if not made.exists() or not made.stat().st_size:
        raise _failed(program, "it wrote nothing")


def _failed(program: str, why: str) -> ManifestError:
    return ManifestError(
        f"{program} could not make a file of the report: {why}.",
        hint="Print the page from a browser, or ask for --figures svg.",
        code=ErrorCode.TOOL,
    )
