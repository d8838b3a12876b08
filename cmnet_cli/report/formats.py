"""What is written beside a page when it is asked for: its figures, the beating heart, the page as PDF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.layout import beside, figure_beside
from cmnet_cli.options import AnimationFormat, FigureFormat
from cmnet_cli.report.animation import find_ffmpeg, write_animation
from cmnet_cli.report.chromium import Vector, draw_pngs, find_chromium, print_pdf
from cmnet_cli.report.sights import Sight
from cmnet_cli.sidecar import write_text


@dataclass(frozen=True, slots=True)
class Formats:
    """What is wanted beside the pages.

    Attributes:
        figures: Each figure as a file; None for none.
        animation: The beating heart as a file; None for none.
        pdf: Each page as PDF.
    """

    figures: FigureFormat | None = None
    animation: AnimationFormat | None = None
    pdf: bool = False

    def require_tools(self) -> None:
        """Find out before anything is written whether the programs are there.

        Raises:
            ManifestError: One is not.
        """
        if self.pdf or self.figures is FigureFormat.PNG:
            find_chromium()
        if self.animation is AnimationFormat.MP4:
            find_ffmpeg()


def save_figures(pages: Environment, page: Path, drawings: Mapping[str, Markup], wanted: FigureFormat | None) -> None:
    """Write the figures of a page into files of their own.

    Args:
        pages: The templates, of which the style sheets are taken.
        page: The page.
        drawings: The figures by name.
        wanted: How; None for not at all.

    Raises:
        ManifestError: Chromium is missing or failed.
    """
    if not wanted or not drawings:
        return
    figures = {figure_beside(page, name, wanted): standalone(pages, drawing) for name, drawing in drawings.items()}
    if wanted is FigureFormat.PNG:
        draw_pngs(figures)
        return
    for path, figure in figures.items():
        write_text(path, figure.text)


def standalone(pages: Environment, drawing: Markup) -> Vector:
    """A figure of a page as a file that needs no page, in the light theme."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    width, height = (float(side) for side in found.groups()) if found else (300.0, 150.0)
    # Small pictures are voxels, and voxels are small.
    enlarged = max(1, round(360 / width))
    size = (round(width * enlarged), round(height * enlarged))
    style = pages.get_template("figure.css").render()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
    return Vector(str(drawing).replace("<svg ", head, 1).replace(">", f">{style}", 1), size)


def save_animation(sights: Sequence[Sight], page: Path, *, frame_ms: float | None, wanted: AnimationFormat) -> None:
    """Write the beating heart beside its page.

    Raises:
        ManifestError: ffmpeg is missing or failed.
    """
    write_animation(sights, frame_ms=frame_ms, out=beside(page, wanted))


def save_pdf(page: Path) -> None:
    """Print a page beside itself.

    Raises:
        ManifestError: Chromium is missing or failed.
    """
    print_pdf(page, beside(page, "pdf"))
