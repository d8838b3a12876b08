"""Files that are exported beside a page on request: its figures, the animated cine, and the page as PDF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from cmnet_cli.report.data.slice_views import SliceView
from cmnet_cli.report.export.animation import find_ffmpeg, write_animation
from cmnet_cli.report.export.chromium import VectorFigure, draw_pngs, find_chromium, print_pdf
from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
from cmnet_cli.report.plot import svg
from cmnet_cli.runs.paths import export_path, figure_path
from cmnet_core.io.atomic import write_text

# Space around a figure, above it for its title, and below it for each line of its legend.
_MARGIN, _ABOVE, _LINE = 14.0, 32.0, 18.0


@dataclass(frozen=True, slots=True)
class ExportFigure:
    """A figure of a page with its title and legend.

    Attributes:
        drawing: The figure.
        title: Title above it; empty for an image that is exported as it is.
        key: The legend.
    """

    drawing: Markup
    title: str = ""
    key: tuple[svg.KeyEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Formats:
    """The files that are written beside the pages.

    Attributes:
        figures: Format of each figure; None for no figures.
        animation: Format of the animated cine; None for no animation.
        pdf: Whether each page is written as PDF.
    """

    figures: FigureFormat | None = None
    animation: AnimationFormat | None = None
    pdf: bool = False

    def require_tools(self) -> None:
        """Check that the required programs are installed, before anything is written.

        Raises:
            ManifestError: A program is not installed.
        """
        if self.pdf or self.figures is FigureFormat.PNG:
            find_chromium()
        if self.animation is AnimationFormat.MP4:
            find_ffmpeg()


def save_figures(
    pages: Environment, page: Path, figures: Mapping[str, ExportFigure], file_format: FigureFormat | None
) -> None:
    """Write the figures of a page to files of their own.

    Args:
        pages: The templates, from which the style sheets are taken.
        page: The page.
        figures: The figures by name.
        file_format: Format of the files; None for no files.

    Raises:
        ManifestError: Chromium is missing or failed.
    """
    if not file_format or not figures:
        return
    files = {figure_path(page, name, file_format): standalone(pages, figure) for name, figure in figures.items()}
    if file_format is FigureFormat.PNG:
        draw_pngs(files)
        return
    for path, figure in files.items():
        write_text(path, figure.text)


def standalone(pages: Environment, figure: ExportFigure) -> VectorFigure:
    """Return a figure of a page as a self-contained SVG file: in the light theme, with its title and its legend."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure.drawing)
    width, height = (float(side) for side in found.groups()) if found else (300.0, 150.0)
    margin, above = (_MARGIN, _ABOVE) if figure.title else (0.0, 0.0)
    below = margin + _LINE * len(figure.key)
    box = (-margin, -above, width + 2 * margin, height + above + below)
    # Images of the heart have one unit per voxel and would be displayed very small.
    enlarged = max(1, round(360 / width))
    size = (round(box[2] * enlarged), round(box[3] * enlarged))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
    style = pages.get_template("figure.css").render()
    texts = svg.join([svg.text(figure.title, (0.0, 16.0 - above), kind="marked"), _legend(figure.key, height + 12.0)])
    text = str(figure.drawing).replace("<svg ", head, 1).replace(">", f">{style}", 1)
    text = re.sub(r'viewBox="[^"]*"', f'viewBox="{" ".join(f"{side:g}" for side in box)}"', text, count=1)
    return VectorFigure(text.removesuffix("</svg>") + f"{texts}</svg>", size)


def _legend(entries: Sequence[svg.KeyEntry], top: float) -> Markup:
    rows = [(entry, top + _LINE * row) for row, entry in enumerate(entries)]
    return svg.join(
        mark
        for entry, y in rows
        for mark in (
            svg.path([[(4.0, y), (30.0, y)]], kind=f"curve {entry.kind}"),
            svg.text(entry.name, (38.0, y + 4.0), kind="name"),
        )
    )


def save_animation(
    views: Sequence[SliceView], page: Path, *, frame_ms: float | None, file_format: AnimationFormat
) -> None:
    """Write the animated cine beside its page.

    Raises:
        ManifestError: ffmpeg is missing or failed.
    """
    write_animation(views, frame_ms=frame_ms, out=export_path(page, file_format))


def save_pdf(page: Path) -> None:
    """Print a page to a PDF file beside it.

    Raises:
        ManifestError: Chromium is missing or failed.
    """
    print_pdf(page, export_path(page, "pdf"))
