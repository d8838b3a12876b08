"""The still images on a subject's page: up to three levels of the heart, at ED and at ES."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.data.slice_geometry import contours
from cmnet_cli.report.data.slice_views import SliceView
from cmnet_cli.report.plot.figures import slice_figure

_COLUMNS = ("end-diastole, segmented", "end-systole, segmented", "end-systole, propagated from ED")


@dataclass(frozen=True, slots=True)
class StillRow:
    """One level of the heart, with one image per column."""

    name: str
    drawings: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class StillImages:
    """The still images of a subject, by column and row."""

    columns: tuple[str, ...]
    rows: tuple[StillRow, ...]


def draw_stills(views: Sequence[SliceView], *, ed: int, es: int) -> StillImages:
    """Draw ED and ES with segmented contours, and ES with the contours propagated from ED by the motion.

    Args:
        views: The slices.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
    """
    return StillImages(_COLUMNS, tuple(StillRow(view.name, _draw(view, ed, es)) for view in views))


def _draw(view: SliceView, ed: int, es: int) -> tuple[Markup, ...]:
    columns = ((ed, view.segmented), (es, view.segmented), (es, view.propagated))
    return tuple(
        slice_figure(view.grey[frame], contours(membership[frame]), text=f"{view.name} slice, {column}")
        for column, (frame, membership) in zip(_COLUMNS, columns, strict=True)
    )
