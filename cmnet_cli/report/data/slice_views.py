"""What is seen of a subject's heart: a basal, a mid and an apical slice, every frame, laid as readers know them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from cmnet_cli.report.data.displacement_view import Moving
from cmnet_cli.report.data.load_results import Hearts
from cmnet_cli.report.plot import overlay
from cmnet_core.labels import Label

_MARGIN_MM = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class Framing:
    """Which part of the network's window is looked at, and how.

    Attributes:
        view: How a slice is laid on the page.
        levels: The slices, from base to apex.
        box: The part of a slice, as it is laid.
        voxel_mm: Size of a picture's voxel.
        heart: Where the heart is at ED, on the window's grid.
    """

    view: overlay.View
    levels: tuple[overlay.Slice, ...]
    box: overlay.Box
    voxel_mm: float
    heart: Bool[np.ndarray, "z y x"]

    def seen(self, array: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n h w"]:
        """That part of an array on the window's grid."""
        return self.box.cut(self.view.of(array))


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One slice of the heart, all frames.

    Attributes:
        name: basal, mid or apical.
        grey: The pictures.
        carried: Memberships of LV, myocardium and RV, carried from ED by the motion.
        segmented: Those that SegNet found in each frame.
        to_ed_mm: Displacement back to ED: down and across the picture, then out of it; None where it is not known.
        entropy: In nats; None where it is not known.
    """

    name: str
    grey: UInt8[np.ndarray, "t h w"]
    carried: Float[np.ndarray, "t c h w"]
    segmented: Float[np.ndarray, "t c h w"]
    to_ed_mm: Float[np.ndarray, "t 3 h w"] | None
    entropy: Float[np.ndarray, "t h w"] | None

    @property
    def wall(self) -> Bool[np.ndarray, "t h w"]:
        """Where the myocardium is."""
        return np.asarray(self.carried[:, overlay.HEART.index(Label.MYO)] > 0.5)

    @property
    def heart(self) -> Bool[np.ndarray, "t h w"]:
        """Where any of the three structures is."""
        return np.asarray(self.carried.sum(axis=1) > 0.5)


def frame_heart(hearts: Hearts, *, ed: int) -> Framing | None:
    """Choose what is looked at; None where there is no left ventricle at ED.

    Args:
        hearts: Images and label maps.
        ed: End-diastolic frame, from 0.
    """
    shape = (hearts.cine.shape[1], hearts.cine.shape[2], hearts.cine.shape[3])
    at_ed = overlay.memberships(
        hearts.segmented[ed], labels_affine=hearts.labels_affine, picture_affine=hearts.affine, shape=shape
    )
    levels = overlay.choose_slices(at_ed)
    if not levels:
        return None
    view = overlay.usual_view(hearts.affine)
    voxel_mm = float(np.linalg.norm(hearts.affine[:3, 2]))
    box = overlay.heart_box(view.of(at_ed), margin=round(_MARGIN_MM / voxel_mm))
    return Framing(view, levels, box, voxel_mm, np.asarray((at_ed > 0.5).any(axis=0)))


def look(hearts: Hearts, moving: Moving | None, framing: Framing) -> tuple[Sight, ...]:
    """Bring everything onto the pictures' grid.

    Args:
        hearts: Images and label maps.
        moving: Displacement and entropy, where they were stored.
        framing: What is looked at.
    """
    grey = overlay.grey_levels(hearts.cine[:, [level.index for level in framing.levels]])
    return tuple(_sight(hearts, moving, framing, level, grey[:, number]) for number, level in enumerate(framing.levels))


def _sight(
    hearts: Hearts, moving: Moving | None, framing: Framing, level: overlay.Slice, grey: UInt8[np.ndarray, "t y x"]
) -> Sight:
    plane = overlay.Plane(hearts.affine, level.index, (grey.shape[1], grey.shape[2]))
    to_ed_mm = moving.to_ed_mm[level.index] if moving and moving.to_ed_mm is not None else None
    return Sight(
        name=level.name,
        grey=framing.seen(grey),
        carried=framing.seen(plane.memberships(hearts.propagated, hearts.labels_affine)),
        segmented=framing.seen(plane.memberships(hearts.segmented, hearts.labels_affine)),
        to_ed_mm=None if to_ed_mm is None else framing.seen(framing.view.vectors(to_ed_mm)),
        entropy=framing.seen(plane.values(moving.entropy, moving.entropy_affine)) if moving else None,
    )
