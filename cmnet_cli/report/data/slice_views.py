"""The views of a subject's heart: a basal, a mid and an apical slice, every frame, in the standard orientation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from cmnet_cli.report.data import slice_geometry
from cmnet_cli.report.data.displacement_view import DisplacementView
from cmnet_cli.report.data.load_results import SubjectImages
from cmnet_core.labels import Label

_MARGIN_MM = 15.0


@dataclass(frozen=True, slots=True, eq=False)
class ViewGeometry:
    """The part of the network's window that is shown, and its orientation on the page.

    Attributes:
        orientation: Orientation of a slice on the page.
        levels: The slices, from base to apex.
        box: The part of an oriented slice that is shown.
        voxel_mm: In-plane voxel size in mm.
        heart: Mask of the heart at ED, on the window's grid.
    """

    orientation: slice_geometry.Orientation
    levels: tuple[slice_geometry.SliceLevel, ...]
    box: slice_geometry.CropBox
    voxel_mm: float
    heart: Bool[np.ndarray, "z y x"]

    def crop(self, array: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n h w"]:
        """Orient an array on the window's grid and crop it."""
        return self.box.crop(self.orientation.apply(array))


@dataclass(frozen=True, slots=True, eq=False)
class SliceView:
    """One slice of the heart, all frames.

    Attributes:
        name: basal, mid or apical.
        grey: The images as 8-bit grey.
        propagated: Memberships of LV, myocardium and RV, warped from ED by the motion.
        segmented: Memberships by SegNet in each frame.
        to_ed_mm: Displacement back to ED in mm: down and across the image, then through-plane; None where it is
            not stored.
        entropy: Entropy of the motion's posterior in nats; None where it is not stored.
    """

    name: str
    grey: UInt8[np.ndarray, "t h w"]
    propagated: Float[np.ndarray, "t c h w"]
    segmented: Float[np.ndarray, "t c h w"]
    to_ed_mm: Float[np.ndarray, "t 3 h w"] | None
    entropy: Float[np.ndarray, "t h w"] | None

    @property
    def wall(self) -> Bool[np.ndarray, "t h w"]:
        """Mask of the myocardium."""
        return np.asarray(self.propagated[:, slice_geometry.HEART.index(Label.MYO)] > 0.5)

    @property
    def heart(self) -> Bool[np.ndarray, "t h w"]:
        """Mask of the three structures together."""
        return np.asarray(self.propagated.sum(axis=1) > 0.5)


def choose_view_geometry(images: SubjectImages, *, ed: int) -> ViewGeometry | None:
    """Choose slices, orientation and crop; None where there is no left ventricle at ED.

    Args:
        images: Cine and label maps.
        ed: End-diastolic frame, from 0.
    """
    shape = (images.cine.shape[1], images.cine.shape[2], images.cine.shape[3])
    at_ed = slice_geometry.memberships(
        images.segmented[ed], labels_affine=images.labels_affine, image_affine=images.affine, shape=shape
    )
    levels = slice_geometry.choose_slices(at_ed)
    if not levels:
        return None
    orientation = slice_geometry.standard_orientation(images.affine)
    voxel_mm = float(np.linalg.norm(images.affine[:3, 2]))
    box = slice_geometry.heart_box(orientation.apply(at_ed), margin=round(_MARGIN_MM / voxel_mm))
    return ViewGeometry(orientation, levels, box, voxel_mm, np.asarray((at_ed > 0.5).any(axis=0)))


def build_slice_views(
    images: SubjectImages, displacement: DisplacementView | None, geometry: ViewGeometry
) -> tuple[SliceView, ...]:
    """Resample label maps, displacement and entropy to the slices of the cine.

    Args:
        images: Cine and label maps.
        displacement: Displacement and entropy; None where they cannot be read.
        geometry: Slices, orientation and crop.
    """
    grey = slice_geometry.grey_levels(images.cine[:, [level.index for level in geometry.levels]])
    return tuple(
        _slice_view(images, displacement, geometry, level, grey[:, number])
        for number, level in enumerate(geometry.levels)
    )


def _slice_view(
    images: SubjectImages,
    displacement: DisplacementView | None,
    geometry: ViewGeometry,
    level: slice_geometry.SliceLevel,
    grey: UInt8[np.ndarray, "t y x"],
) -> SliceView:
    grid = slice_geometry.SliceGrid(images.affine, level.index, (grey.shape[1], grey.shape[2]))
    to_ed_mm = displacement.to_ed_mm[level.index] if displacement and displacement.to_ed_mm is not None else None
    entropy, affine = (displacement.entropy, displacement.entropy_affine) if displacement else (None, None)
    return SliceView(
        name=level.name,
        grey=geometry.crop(grey),
        propagated=geometry.crop(grid.memberships(images.propagated, images.labels_affine)),
        segmented=geometry.crop(grid.memberships(images.segmented, images.labels_affine)),
        to_ed_mm=None if to_ed_mm is None else geometry.crop(geometry.orientation.vectors(to_ed_mm)),
        entropy=None if entropy is None or affine is None else geometry.crop(grid.values(entropy, affine)),
    )
