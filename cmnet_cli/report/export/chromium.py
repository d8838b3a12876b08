"""Headless Chromium, which makes PDF files of pages and PNG files of figures."""

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
_TIMEOUT_S = 180

# Figures have twice as many pixels in each direction as on a page.
_PIXEL_RATIO = 2


def find_chromium() -> str:
    """Return the path of Chromium.

    Raises:
        ManifestError: Chromium is not installed.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise ManifestError(
            f"PDF and PNG files are made by Chromium, and none of {', '.join(_NAMES)} is installed.",
            hint="Install Chromium (on Debian: apt-get install chromium), or use --figures svg and omit --pdf.",
            code=ErrorCode.TOOL,
        )
    return found


def print_pdf(page: Path, out: Path) -> None:
    """Print a page to PDF with the style sheet's layout for paper.

    Raises:
        ManifestError: Chromium is not installed or failed.
    """
    with replacing(out) as partial:
        _run("--no-pdf-header-footer", f"--print-to-pdf={partial}", page=page, output=partial)


@dataclass(frozen=True, slots=True)
class VectorFigure:
    """A figure as SVG text, with its width and height on a page in pixels."""

    text: str
    size: tuple[int, int]


def draw_pngs(figures: Mapping[Path, VectorFigure]) -> None:
    """Draw figures to PNG files; all figures share one sheet, because starting a browser takes longest.

    Args:
        figures: The figures by the path of their file.

    Raises:
        ManifestError: Chromium is not installed or failed.
    """
    width, height = (max(figure.size[axis] for figure in figures.values()) for axis in (0, 1))
    columns = math.ceil(math.sqrt(len(figures)))
    corners = {out: (number % columns * width, number // columns * height) for number, out in enumerate(figures)}
    sheet_size = (columns * width, math.ceil(len(figures) / columns) * height)
    with tempfile.TemporaryDirectory(prefix="cmnet-") as folder:
        sheet, screenshot = Path(folder) / "sheet.svg", Path(folder) / "sheet.png"
        parts = []
        for out, figure in figures.items():
            x, y = corners[out]
            parts.append(figure.text.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet_size[0]}" height="{sheet_size[1]}">'
        sheet.write_text(f"{head}{''.join(parts)}</svg>", encoding="utf-8")
        options = (f"--window-size={sheet_size[0]},{sheet_size[1]}", f"--force-device-scale-factor={_PIXEL_RATIO}")
        _run(*options, f"--screenshot={screenshot}", page=sheet, output=screenshot)
        with Image.open(screenshot) as drawn:
            for out, figure in figures.items():
                _save_part(drawn, corners[out], figure.size, out)


def _save_part(sheet: Image.Image, corner: tuple[int, int], size: tuple[int, int], out: Path) -> None:
    left, top = (_PIXEL_RATIO * side for side in corner)
    with replacing(out) as partial:
        part = sheet.convert("RGB").crop((left, top, left + _PIXEL_RATIO * size[0], top + _PIXEL_RATIO * size[1]))
        part.save(partial, format="PNG", optimize=True)


def _run(*options: str, page: Path, output: Path) -> None:
    program = find_chromium()
    # Chromium's sandbox does not start for root.
    sandbox = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="cmnet-") as profile:
        command = [program, *_FLAGS, *sandbox, f"--user-data-dir={profile}", *options, page.absolute().as_uri()]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise _failure(program, str(error)) from error
    if not output.exists() or not output.stat().st_size:
        raise _failure(program, "it wrote nothing")


def _failure(program: str, reason: str) -> ManifestError:
    return ManifestError(
        f"{program} could not make a file of the report: {reason}.",
        hint="Print the page from a browser, or use --figures svg.",
        code=ErrorCode.TOOL,
    )
