"""What is written beside a page when it is asked for: its figures, the beating heart, the page as PDF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.report.data.slice_views import Sight
from cmnet_cli.report.export.animation import find_ffmpeg, write_animation
from cmnet_cli.report.export.chromium import Vector, draw_pngs, find_chromium, print_pdf
from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
from cmnet_cli.report.plot import svg
from cmnet_cli.report.plot.cycle_charts import Entry
from cmnet_cli.runs.paths import export_path, figure_path
from cmnet_core.io.atomic import write_text

# Around a figure, above it for its title, and below it for each line of its key.
_MARGIN, _ABOVE, _LINE = 14.0, 32.0, 18.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a page, with what the page says of it.

    Attributes:
        drawing: The figure.
        title: Above it; empty for a picture that is to be saved as it is.
        key: What its lines are.
    """

    drawing: Markup
    title: str = ""
    key: tuple[Entry, ...] = ()


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


def save_figures(pages: Environment, page: Path, drawings: Mapping[str, Figure], wanted: FigureFormat | None) -> None:
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
    figures = {figure_path(page, name, wanted): standalone(pages, drawing) for name, drawing in drawings.items()}
    if wanted is FigureFormat.PNG:
        draw_pngs(figures)
        return
    for path, figure in figures.items():
        write_text(path, figure.text)


def standalone(pages: Environment, figure: Figure) -> Vector:
    """A figure of a page as a file that needs no page: in the light theme, with its title and its key."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure.drawing)
    width, height = (float(side) for side in found.groups()) if found else (300.0, 150.0)
    margin, above = (_MARGIN, _ABOVE) if figure.title else (0.0, 0.0)
    below = margin + _LINE * len(figure.key)
    box = (-margin, -above, width + 2 * margin, height + above + below)
    # Small pictures are voxels, and voxels are small.
    enlarged = max(1, round(360 / width))
    size = (round(box[2] * enlarged), round(box[3] * enlarged))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
    style = pages.get_template("figure.css").render()
    words = svg.join([svg.words(figure.title, (0.0, 16.0 - above), kind="marked"), _key(figure.key, height + 12.0)])
    text = str(figure.drawing).replace("<svg ", head, 1).replace(">", f">{style}", 1)
    text = re.sub(r'viewBox="[^"]*"', f'viewBox="{" ".join(f"{side:g}" for side in box)}"', text, count=1)
    return Vector(text.removesuffix("</svg>") + f"{words}</svg>", size)


def _key(entries: Sequence[Entry], top: float) -> Markup:
    rows = [(entry, top + _LINE * row) for row, entry in enumerate(entries)]
    return svg.join(
        mark
        for entry, y in rows
        for mark in (
            svg.path([[(4.0, y), (30.0, y)]], kind=f"curve {entry.kind}"),
            svg.words(entry.name, (38.0, y + 4.0), kind="name"),
        )
    )


def save_animation(sights: Sequence[Sight], page: Path, *, frame_ms: float | None, wanted: AnimationFormat) -> None:
    """Write the beating heart beside its page.

    Raises:
        ManifestError: ffmpeg is missing or failed.
    """
    write_animation(sights, frame_ms=frame_ms, out=export_path(page, wanted))


def save_pdf(page: Path) -> None:
    """Print a page beside itself.

    Raises:
        ManifestError: Chromium is missing or failed.
    """
    print_pdf(page, export_path(page, "pdf"))
