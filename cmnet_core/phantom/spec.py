"""The physical parameters of a phantom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeartSpec:
    """The two ventricles at end-diastole, in a coordinate system of the heart.

    The origin is the centre of the mitral valve plane; ``s`` is the position along the LV's axis from apex (negative)
    to base (zero), ``x`` points to the middle of the RV and ``y`` to the anterior wall.

    Attributes:
        cavity_radius_mm: Largest inner radius of the LV.
        cavity_length_mm: Distance from the valve plane to the apex of the LV cavity.
        bluntness: Shape of the cavity: 0 is a paraboloid, 1 a blunter bullet.
        base_narrowing: Relative decrease of the radius at the valve plane.
        wall_mm: Thickness of the LV's wall.
        apex_wall_mm: Thickness of the wall at the apex.
        ellipticity: Relative second-order variation of the squared radii around the axis.
        ellipse_deg: Angle at which they are largest.
        asymmetry: Relative first-order variation of the squared outer radius around the axis.
        asymmetry_deg: Angle at which the wall is thickest.
        rv_width_mm: Largest distance from the septum to the RV's free wall.
        rv_insertion_deg: Angle from the RV's middle to each insertion.
        rv_length_mm: Distance from the mitral valve plane to the RV's apex.
        rv_base_mm: Extent of the RV above the mitral valve plane.
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
        """Distance from the valve plane to the epicardial apex of the LV."""
        return self.cavity_length_mm + self.apex_wall_mm

    @property
    def outer_radius_mm(self) -> float:
        """Largest outer radius of the LV, before its variation around the axis."""
        return self.cavity_radius_mm + self.wall_mm


@dataclass(frozen=True, slots=True)
class Defect:
    """A hypokinetic segment of the wall.

    Attributes:
        segment: AHA segment, 1 to 16.
        severity: Relative reduction of the contraction in its middle, 0 to 1.
    """

    segment: int
    severity: float


@dataclass(frozen=True, slots=True)
class BeatSpec:
    """The motion of the heart over the cycle.

    Attributes:
        lvef_pct: Ejection fraction of the LV.
        rv_to_lv_stroke: Stroke volume of the RV over that of the LV.
        descent_mm: Displacement of the valve plane towards the apex.
        basal_rotation_deg: Peak rotation at the base, counter-clockwise seen from the apex (normally negative).
        apical_rotation_deg: Peak rotation at the apex, counter-clockwise seen from the apex (normally positive).
        heart_rate_bpm: Heart rate.
        systole_fraction: Fraction of the cycle from ED to ES.
        early_filling_fraction: Fraction of the stroke volume that returns in rapid filling, before atrial contraction.
        defect: A hypokinetic segment, or None.
    """

    lvef_pct: float
    rv_to_lv_stroke: float
    descent_mm: float
    basal_rotation_deg: float
    apical_rotation_deg: float
    heart_rate_bpm: float
    systole_fraction: float
    early_filling_fraction: float
    defect: Defect | None


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """The stack of slices in space and time.

    Attributes:
        frames: Number of frames of the cycle.
        ed: Frame of end-diastole, from 0.
        slices: Number of slices.
        rows: Voxels along y.
        columns: Voxels along x.
        thickness_mm: Thickness of a slice.
        gap_mm: Gap between two slices.
        pixel_mm: In-plane spacing.
        base_mm: Distance of the centre of the most basal slice above the valve plane.
        centre_y_mm: Position of the LV's axis below the image centre.
        centre_x_mm: Position of the LV's axis to the right of the image centre.
        rv_deg: Direction of the RV, clockwise on the display from pointing left.
        tilt_y_deg: Tilt of the LV's axis against the stack's normal, about x.
        tilt_x_deg: The same about y.
        apex_first: Whether slice 0 is the most apical one, which changes the handedness of the grid.
        yaw_deg: Rotation of the heart in the chest about the patient's long axis.
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
class ContrastSpec:
    """Image contrast and quality; intensities are relative to blood.

    Attributes:
        myocardium: Muscle.
        fat: Fat.
        liver: Liver.
        lung: Lung.
        gain: Factor of all intensities.
        noise: Standard deviation of the real and of the imaginary noise.
        bias_field: Decrease of the coil sensitivity away from the chest wall, 0 to 1.
        resolution: Fraction of k-space that is acquired along y and x.
        texture: Relative variation within one tissue.
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
    """The surroundings of the heart, which have no label.

    Attributes:
        epicardial_fat_mm: Typical thickness of epicardial fat.
        skin_fat_mm: Thickness of subcutaneous fat.
        muscle_mm: Thickness of the chest wall's muscle and ribs.
        wall_gap_mm: Distance from the RV's free wall to the chest wall.
        depth_mm: Half the extent of the chest along x.
        height_mm: Half the extent of the body along y.
        diaphragm_gap_mm: Distance from the LV's inferior wall to the diaphragm.
        liver_border_mm: Position of the liver's border beyond the LV's axis, away from the RV.
        stomach: Signal of the stomach's content.
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
    """All parameters of one phantom: heart, motion, chest, scan and image contrast."""

    heart: HeartSpec
    beat: BeatSpec
    chest: ChestSpec
    scan: ScanSpec
    contrast: ContrastSpec


def spec_from_values(values: Mapping[str, Any]) -> PhantomSpec:
    """Build a specification from its :func:`dataclasses.asdict`, as stored in a phantom's ground-truth file."""
    beat = dict(values["beat"])
    defect = beat.pop("defect")
    return PhantomSpec(
        heart=HeartSpec(**values["heart"]),
        beat=BeatSpec(**beat, defect=None if defect is None else Defect(**defect)),
        chest=ChestSpec(**values["chest"]),
        scan=ScanSpec(**values["scan"]),
        contrast=ContrastSpec(**values["contrast"]),
    )
