"""Every physical parameter of a phantom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeartSpec:
    """The two ventricles at end-diastole, in the heart's own frame.

    The frame's origin is the centre of the mitral valve plane, ``s`` runs along the LV's axis from apex (negative) to
    base (zero), ``x`` points to the middle of the RV and ``y`` to the anterior wall.

    Attributes:
        cavity_radius_mm: Inner radius of the LV at its widest.
        cavity_length_mm: From the valve plane to the tip of the LV's blood.
        bluntness: 0 a paraboloid, 1 a rounder bullet.
        base_narrowing: By how much the radius falls at the valve plane, as a share.
        wall_mm: Thickness of the LV's wall.
        apex_wall_mm: Thickness of the wall at the apex.
        ellipticity: Share by which the squared radii vary twice around the axis.
        ellipse_deg: Where they are largest.
        asymmetry: Share by which the squared outer radius varies once around the axis.
        asymmetry_deg: Where the wall is thickest.
        rv_width_mm: Widest distance from the septum to the RV's free wall.
        rv_insertion_deg: Angle from the RV's middle to each insertion.
        rv_length_mm: From the mitral valve plane to the RV's apex.
        rv_base_mm: How far the RV reaches beyond the mitral valve plane.
        rv_wall_mm: Thickness of the RV's free wall.
        papillary_mm: Radius of the two papillary muscles.
        trabeculation_mm: Height of the trabeculae of the LV; those of the RV are twice as high.
    """

    cavity_radius_mm: float
    cavity_length_mm: float
    bluntness: float
    base_narrowing: float
    wall_mm: float
    apex_wall_mm: float
    ellipticity: float
    ellipse_deg: float
    asymmetry: float
    asymmetry_deg: float
    rv_width_mm: float
    rv_insertion_deg: float
    rv_length_mm: float
    rv_base_mm: float
    rv_wall_mm: float
    papillary_mm: float
    trabeculation_mm: float

    @property
    def length_mm(self) -> float:
        """From the valve plane to the outer tip of the LV."""
        return self.cavity_length_mm + self.apex_wall_mm

    @property
    def outer_radius_mm(self) -> float:
        """Outer radius of the LV at its widest, before it varies around the axis."""
        return self.cavity_radius_mm + self.wall_mm


@dataclass(frozen=True, slots=True)
class Defect:
    """A segment of the wall that contracts less.

    Attributes:
        segment: AHA segment, 1 to 16.
        severity: Share of the contraction that is lost in its middle, 0 to 1.
    """

    segment: int
    severity: float


@dataclass(frozen=True, slots=True)
class BeatSpec:
    """How the heart beats.

    Attributes:
        lvef_pct: Ejection fraction of the LV.
        rv_to_lv_stroke: Stroke volume of the RV over that of the LV.
        descent_mm: How far the valve plane comes towards the apex.
        basal_rotation_deg: Peak rotation at the base, counter-clockwise seen from the apex (normally negative).
        apical_rotation_deg: Peak rotation at the apex, counter-clockwise seen from the apex (normally positive).
        heart_rate_bpm: Heart rate.
        systole_share: Share of the cycle from ED to ES.
        early_filling_share: Share of the stroke volume that returns in rapid filling, before the atrial kick.
        defect: One segment that moves less, or None.
    """

    lvef_pct: float
    rv_to_lv_stroke: float
    descent_mm: float
    basal_rotation_deg: float
    apical_rotation_deg: float
    heart_rate_bpm: float
    systole_share: float
    early_filling_share: float
    defect: Defect | None


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """How the stack of slices lies, in space and in the cycle.

    Attributes:
        frames: Frames in the cycle.
        ed: Frame of end-diastole, from 0.
        slices: Number of slices.
        rows: Voxels along y.
        columns: Voxels along x.
        thickness_mm: Thickness of a slice.
        gap_mm: Gap between two slices.
        pixel_mm: In-plane spacing.
        base_mm: How far the centre of the most basal slice lies beyond the valve plane.
        centre_y_mm: The LV's axis below the image's middle.
        centre_x_mm: The LV's axis to the right of the image's middle.
        rv_deg: Direction of the RV, clockwise on the display from pointing left.
        tilt_y_deg: Turn of the LV's axis out of the stack's normal, about x.
        tilt_x_deg: The same about y.
        apex_first: Whether slice 0 is the most apical one, which turns the grid's handedness round.
        yaw_deg: Turn of the heart in the chest, about the patient's long axis.
        pitch_deg: The same about the patient's left-right axis.
    """

    frames: int
    ed: int
    slices: int
    rows: int
    columns: int
    thickness_mm: float
    gap_mm: float
    pixel_mm: float
    base_mm: float
    centre_y_mm: float
    centre_x_mm: float
    rv_deg: float
    tilt_y_deg: float
    tilt_x_deg: float
    apex_first: bool
    yaw_deg: float
    pitch_deg: float

    @property
    def slice_mm(self) -> float:
        """Distance between the centres of two slices."""
        return self.thickness_mm + self.gap_mm


@dataclass(frozen=True, slots=True)
class LookSpec:
    """What the scanner makes of it; intensities relative to blood.

    Attributes:
        myocardium: Muscle.
        fat: Fat.
        liver: Liver.
        lung: Lung.
        gain: What the scanner multiplies with.
        noise: Standard deviation of either part of the complex noise.
        bias_field: How strongly the coils' sensitivity falls away from the chest wall, 0 to 1.
        resolution: Share of k-space that was measured along y and x.
        texture: Relative variation inside one tissue.
    """

    myocardium: float
    fat: float
    liver: float
    lung: float
    gain: float
    noise: float
    bias_field: float
    resolution: float
    texture: float


@dataclass(frozen=True, slots=True)
class ChestSpec:
    """What lies around the heart; none of it is labelled.

    Attributes:
        epicardial_fat_mm: Typical thickness of the fat round the heart.
        skin_fat_mm: Thickness of the fat under the skin.
        muscle_mm: Thickness of the chest wall's muscle and ribs.
        wall_gap_mm: From the RV's free wall to the chest wall.
        depth_mm: Half the chest's extent from the RV's side to the far one.
        height_mm: Half the body's extent across that.
        diaphragm_gap_mm: From the LV's inferior wall to the diaphragm.
        liver_border_mm: Where the liver ends, beyond the LV's axis and away from the RV.
        stomach: Signal of what is in the stomach, relative to blood.
    """

    epicardial_fat_mm: float
    skin_fat_mm: float
    muscle_mm: float
    wall_gap_mm: float
    depth_mm: float
    height_mm: float
    diaphragm_gap_mm: float
    liver_border_mm: float
    stomach: float


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """One synthetic subject: its heart, its beat, its chest, the scan and the scanner's look."""

    heart: HeartSpec
    beat: BeatSpec
    chest: ChestSpec
    scan: ScanSpec
    look: LookSpec


def spec_from_values(values: Mapping[str, Any]) -> PhantomSpec:
    """A spec from what :func:`dataclasses.asdict` makes of it, as a phantom's truth file holds it."""
    beat = dict(values["beat"])
    defect = beat.pop("defect")
    return PhantomSpec(
        heart=HeartSpec(**values["heart"]),
        beat=BeatSpec(**beat, defect=None if defect is None else Defect(**defect)),
        chest=ChestSpec(**values["chest"]),
        scan=ScanSpec(**values["scan"]),
        look=LookSpec(**values["look"]),
    )
