"""The grid of pictures on a subject's page: three levels of the heart, at ED and at ES."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup

from cmnet_cli.report import figures, overlay
from cmnet_cli.report.gather import Hearts

_MARGIN_MM = 15.0
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


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """What one column of the grid shows."""

    head: str
    voxels: UInt8[np.ndarray, "z y x"]
    belongs: Float[np.ndarray, "c z y x"]


def draw_pictures(hearts: Hearts, *, ed: int, es: int) -> Pictures:
    """Draw basal, mid and apical slices: ED, ES, and ES under the contours that the motion carried there from ED.

    Args:
        hearts: Images and label maps.
        ed: End-diastolic frame, from 0.
        es: End-systolic frame, from 0.
    """
    columns = _columns(hearts, ed=ed, es=es)
    voxel_mm = float(np.linalg.norm(hearts.affine[:3, 2]))
    everywhere = np.concatenate([column.belongs for column in columns])
    box = overlay.heart_box(everywhere, margin=round(_MARGIN_MM / voxel_mm))
    rows = [
        PictureRow(level.name, tuple(_draw(column, level, box) for column in columns))
        for level in overlay.choose_slices(columns[0].belongs)
    ]
    return Pictures(_HEADS, tuple(rows))


def _columns(hearts: Hearts, *, ed: int, es: int) -> tuple[_Column, ...]:
    view = overlay.usual_view(hearts.affine)
    grey = view.of(overlay.grey_levels(hearts.cine[[ed, es]]))
    shape = (hearts.cine.shape[1], hearts.cine.shape[2], hearts.cine.shape[3])
    columns = []
    maps = (hearts.segmented[ed], hearts.segmented[es], hearts.propagated[es])
    for head, voxels, labels in zip(_HEADS, grey[[0, 1, 1]], maps, strict=True):
        belongs = overlay.memberships(
            labels, labels_affine=hearts.labels_affine, picture_affine=hearts.affine, shape=shape
        )
        columns.append(_Column(head, voxels, view.of(belongs)))
    return tuple(columns)


def _draw(column: _Column, level: overlay.Slice, box: overlay.Box) -> Markup:
    outlines = overlay.contours(box.cut(column.belongs[:, level.index]))
    text = f"{level.name} slice, {column.head}"
    return figures.heart(box.cut(column.voxels[level.index]), outlines, text=text)
