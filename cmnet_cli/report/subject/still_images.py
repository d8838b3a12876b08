"""The grid of still pictures on a subject's page: three levels of the heart, at ED and at ES."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cmnet_cli.report.data.slice_views import Sight
from cmnet_cli.report.plot import figures, overlay

_HEADS = ("end-diastole, segmented", "end-systole, segmented", "end-systole, contours of end-diastole moved here")


@dataclass(frozen=True, slots=True)
class PictureRow:
    """One level of the heart, once for each column of pictures."""

    name: str
    drawings: tuple[Markup, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The grid of pictures of a subject."""

    heads: tuple[str, ...]
    rows: tuple[PictureRow, ...]


def draw_pictures(sights: Sequence[Sight], *, ed: int, es: int) -> Pictures:
    """Draw ED, ES, and ES under the contours that the motion carried there from ED.

    Args:
        sights: The slices.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
    """
    return Pictures(_HEADS, tuple(PictureRow(sight.name, _draw(sight, ed, es)) for sight in sights))


def _draw(sight: Sight, ed: int, es: int) -> tuple[Markup, ...]:
    columns = ((ed, sight.segmented), (es, sight.segmented), (es, sight.carried))
    return tuple(
        figures.heart(sight.grey[frame], overlay.contours(belongs[frame]), text=f"{sight.name} slice, {head}")
        for head, (frame, belongs) in zip(_HEADS, columns, strict=True)
    )
