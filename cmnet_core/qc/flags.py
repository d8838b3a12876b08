"""The registry of quality flags: when each is raised, with its threshold, what it means and what the user can do."""

from dataclasses import dataclass
from enum import StrEnum

from cmnet_core.flags import QCFlag
from cmnet_core.qc.thresholds import (
    APEX_FRACTION,
    BAND_FRACTION,
    BASE_FRACTION,
    CONFIDENT_PROBABILITY,
    CURVE_FROM_FRAMES,
    CYCLE_CONSISTENCY_MM,
    EF_PCT,
    ENTROPY_NATS,
    FEWEST_SLICES,
    FRAGMENT_FRACTION,
    FULL_LENGTH_SLICES,
    INVERTED_FRACTION,
    LOW_CONFIDENCE_FRACTION,
    MINIMUM_PROMINENCE,
    MYOCARDIAL_VOLUME_CHANGE_PCT,
    NOISE_FRACTION,
    PHASE_FRACTION,
    SLICE_DISTANCE_MM,
    STRAIN_PCT,
    STROKE_DIFFERENCE_PCT,
    WIDE_STROKE_DIFFERENCE_PCT,
)


class Severity(StrEnum):
    """How severe a quality flag is for the values that it concerns; the most severe first."""

    DO_NOT_USE = "do not use"
    CHECK = "check"
    INFORMATION = "information"


SEVERITIES = {
    Severity.DO_NOT_USE: "the values that the flag concerns are wrong, or null because they would be",
    Severity.CHECK: "values may be wrong: inspect the subject before using them",
    Severity.INFORMATION: "no sign of an error: how the values were obtained, or why one is null",
}
"""What each severity means."""


_DO_NOT_USE, _INFORMATION = Severity.DO_NOT_USE, Severity.INFORMATION


@dataclass(frozen=True, slots=True)
class Flag:
    """The documentation of a quality flag.

    Attributes:
        name: Its name in ``qc_flags``.
        raised: The condition under which it is raised, with its threshold.
        advice: What it means for the results, and what to do.
        severity: How severe it is.
        missing: The metadata whose absence raises it; empty for another reason.
    """

    name: QCFlag
    raised: str
    advice: str
    severity: Severity = Severity.CHECK
    missing: str = ""


_READING = (
    Flag(
        QCFlag.SPACING_FROM_ZOOMS,
        "the scale of the header's affine and its voxel sizes differ by more than 0.1 %",
        "Directions were taken from the affine, distances from the voxel sizes. Check that the volumes are plausible.",
    ),
    Flag(
        QCFlag.SPACING_FROM_AFFINE,
        "the header's voxel sizes are missing (all 0, or all 1), and its affine has a scale",
        "The scale of the affine was used. Check that the volumes are plausible.",
    ),
    Flag(
        QCFlag.SPACING_UNUSUAL,
        "the in-plane voxel size is not 0.4 to 4 mm, or the slice distance not 2 to 20 mm",
        "No short-axis cine has such voxels: volumes, mass and lengths are as wrong as the header.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.UNIT_GUESSED,
        "the header names no unit of length, and its voxel sizes are plausible in metres or micrometres only",
        "That unit was assumed. Check that the volumes are plausible.",
    ),
    Flag(
        QCFlag.SFORM_QFORM_DIFFER,
        "the header's sform and qform place a corner of the image more than 0.5 mm apart, or the sform is unusable",
        "The sform was used, or the qform where the sform is unusable. Volumes are not affected.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.AXES_REORDERED,
        "the file does not store columns, rows and slices in this order, or stores time before them",
        "The axes were identified by their voxel sizes. Outputs are in the usual order, with a matching affine.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.ORIENTATION_MISSING,
        "the header has neither sform nor qform, or its affine is the identity",
        "The image was analysed as it is stored. If it is not stored as usually displayed, from base to apex and with "
        "the right ventricle on the left, volumes can change by some per cent: convert the DICOMs again.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.TIME_STEP_IMPLAUSIBLE,
        "the header has a time step that is not 5 to 500 ms a frame and 250 to 3,000 ms a cycle",
        "It was not used. Give frame_ms or heart_rate_bpm in the manifest.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.ORIENTATION_UNUSUAL,
        "the slice normal is more than 45 degrees from left, anterior and inferior, and there is no better stack",
        "The stack may not be short-axis, or the header's orientation is wrong. Inspect the images.",
    ),
    Flag(
        QCFlag.TRIGGER_TIMES_DIFFER,
        "slices were acquired at different heart rates",
        "Volumes add slices at the same fraction of the cycle; times in ms are those of an average cycle.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.PHASES_INTERPOLATED,
        "some slices have another number of frames than most",
        "Their frames were interpolated in time, at the same fraction of the cycle.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.PHASES_DROPPED,
        "some slices have frames beyond the end of the cycle",
        "The frames of the next heartbeat were left out.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.SLICES_DROPPED,
        "the series has slices without a whole cycle, or outside the stack",
        "They were left out. Check that base and apex are still in the stack.",
    ),
    Flag(
        QCFlag.SLICE_GAP_UNEVEN,
        "a distance between slices differs from the mean distance by more than 10 %",
        "Volumes use the mean distance. Check for missing slices.",
    ),
    Flag(
        QCFlag.SLICES_SHIFTED,
        "by their headers, slices are shifted in-plane against each other by more than 1 mm",
        "They were resampled to one grid. The patient may have moved: motion between slices may be affected.",
    ),
    Flag(
        QCFlag.SLICES_RESAMPLED,
        "some slices have another number of rows or columns, or another pixel size, than most",
        "They were resampled to the grid of the others: cropped, padded with 0 or interpolated in-plane.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.REPEATED_SLICES,
        "a slice was acquired more than once",
        "The last complete acquisition was used.",
        severity=_INFORMATION,
    ),
    Flag(QCFlag.DUPLICATE_IMAGES, "an image occurs twice", "Each was used once.", severity=_INFORMATION),
    Flag(
        QCFlag.FILES_UNREADABLE,
        "files of the series cannot be read",
        "They were skipped. Copy the series again.",
    ),
)

_IMAGE = (
    Flag(
        QCFlag.SLICES_EMPTY,
        "a slice has one constant value in at least one frame",
        "Volumes of these frames lack the slice, or its contours are extrapolated. Convert the image again.",
    ),
    Flag(
        QCFlag.INTENSITIES_INVERTED,
        f"the median intensity is above {100 * INVERTED_FRACTION:.0f} % of the range of intensities",
        "The image is probably a negative, in which blood is dark: no value is reliable. Convert the image again, with "
        "MONOCHROME1 inverted.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.SLICES_COPIED,
        "a slice equals the slice before, apart from rounding",
        "Volumes count it twice. Remove the copies and convert the image again.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.SLICES_FAR_APART,
        f"the distance between slices is {SLICE_DISTANCE_MM:g} mm or more",
        "Volumes rest on few slices, and those of base and apex count most. Check that no slices are missing.",
    ),
    Flag(
        QCFlag.HEAVY_NOISE,
        f"the noise has a standard deviation above {100 * NOISE_FRACTION:.0f} % of the range of intensities",
        "Contours may be wrong, those of the myocardium first. Inspect them before using any value.",
    ),
    Flag(
        QCFlag.DARK_BAND,
        f"at ED a straight line through the LV has less than {100 * BAND_FRACTION:.0f} % of the brightness of the "
        "lines beside it, in half of the slices",
        "An off-resonance artefact (banding) may cut the cavity, and volumes are then too small. Inspect the contours.",
    ),
)

_SEGMENTATION = (
    *(
        Flag(
            flag,
            f"the {structure} has no voxel at {phase}",
            f"Quantities that depend on it are null. Inspect the contours; check {phase} in the manifest.",
            severity=_DO_NOT_USE,
        )
        for flag, structure, phase in (
            (QCFlag.LV_MISSING_AT_ED, "left ventricle", "ED"),
            (QCFlag.LV_MISSING_AT_ES, "left ventricle", "ES"),
            (QCFlag.MYO_MISSING_AT_ED, "myocardium", "ED"),
            (QCFlag.RV_MISSING_AT_ED, "right ventricle", "ED"),
            (QCFlag.RV_MISSING_AT_ES, "right ventricle", "ES"),
        )
    ),
    Flag(
        QCFlag.TOO_FEW_SLICES,
        f"the LV is visible in fewer than {FEWEST_SLICES} slices at ED",
        "Volumes and all quantities derived from them are null: one slice has no volume.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.FEW_SLICES,
        f"the LV is visible in fewer than {FULL_LENGTH_SLICES} slices at ED",
        "Volumes miss part of the ventricle, or rest on thick slices.",
    ),
    *(
        Flag(
            flag,
            f"at ED or ES a slice without {name} is between slices with it",
            f"{name} volumes are null; the table frames has the segmented volumes. Inspect the contours.",
            severity=_DO_NOT_USE,
        )
        for flag, name in ((QCFlag.LV_GAP_IN_STACK, "LV"), (QCFlag.RV_GAP_IN_STACK, "RV"))
    ),
    Flag(
        QCFlag.CONTOURS_FRAGMENTED,
        f"at ED or ES a second part of LV, LV with its wall or RV, apart from the first, has over "
        f"{100 * FRAGMENT_FRACTION:.0f} % of the area of the structure in a slice",
        "Readers never draw such contours. Inspect that slice, mostly a basal one.",
    ),
    *(
        Flag(
            flag,
            f"at ED or ES the {structure} touches the border of the image, or of the networks' window",
            f"{name} volumes are null. Check that the whole heart is in the image.",
            severity=_DO_NOT_USE,
        )
        for flag, name, structure in (
            (QCFlag.LV_CUT_AT_BORDER, "LV", "LV or its wall"),
            (QCFlag.RV_CUT_AT_BORDER, "RV", "RV"),
        )
    ),
    Flag(
        QCFlag.BASE_NOT_COVERED,
        f"at ES the LV's area in the most basal slice is {100 * BASE_FRACTION:.0f} % of its largest area or more",
        "The stack may begin below the mitral valve: volumes are too small. Common in stacks of few slices.",
    ),
    Flag(
        QCFlag.APEX_NOT_COVERED,
        f"at ED the LV's area in its most apical slice is {100 * APEX_FRACTION:.0f} % of its largest area or more",
        "The stack, or the segmentation, may end above the apex: volumes are too small.",
    ),
    Flag(
        QCFlag.NO_LV_WALL,
        "at ED no slice shows an LV cavity with myocardium around at least half of it",
        "Strain, rotation and wall thickness are null. Inspect the contours.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.RV_INSERTION_NOT_FOUND,
        "at ED no slice shows an RV along 40° to 220° of the LV's epicardium",
        "The circumferential coordinate has no origin: AHA segments and the bull's-eye are null; global means are not "
        "affected.",
    ),
    Flag(
        QCFlag.ORIENTATION_AMBIGUOUS,
        "the patient axes of the header and the handedness of the grid disagree on which end of the septum is anterior",
        "The more anterior and superior end was used, which is right where a converter invented the header's axes, as "
        "in some public data sets. Check the segments of other data.",
    ),
    Flag(
        QCFlag.LOW_CONFIDENCE_SEGMENTATION,
        f"at ED or ES more than {100 * LOW_CONFIDENCE_FRACTION:.0f} % of the heart's voxels have no class with a "
        f"probability of {CONFIDENT_PROBABILITY:g} or more",
        "The image may be outside the training distribution. Inspect the contours before using any value.",
    ),
    Flag(
        QCFlag.MASKS_CORRECTED,
        "masks of this subject were edited and given to `cmnet correct`",
        "The columns `corrected_*` state frames, date and digest. There are no intervals: they are calibrated for "
        "automatic results.",
        severity=_INFORMATION,
    ),
)

_FUNCTION = (
    Flag(
        QCFlag.LV_DOES_NOT_CONTRACT,
        "LV ESV is not smaller than LV EDV",
        "Check ED and ES; inspect the contours.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.RV_DOES_NOT_CONTRACT,
        "RV ESV is not smaller than RV EDV",
        "Inspect the RV's basal slices at ES.",
        severity=_DO_NOT_USE,
    ),
    *(
        Flag(
            flag,
            f"the {name.upper()} ejection fraction is below {EF_PCT[name][0]:g} % or above {EF_PCT[name][1]:g} %",
            f"Inspect the {name.upper()}'s basal slices at ED and ES: wrong contours are the more frequent cause.",
        )
        for flag, name in ((QCFlag.LVEF_IMPLAUSIBLE, "lv"), (QCFlag.RVEF_IMPLAUSIBLE, "rv"))
    ),
    Flag(
        QCFlag.STROKE_VOLUMES_DIFFER,
        f"the stroke volumes of LV and RV differ by {STROKE_DIFFERENCE_PCT:.0f} % of the larger one or more",
        "Without valve regurgitation or a shunt they are equal, but by the contours of readers they differ as much in "
        "a third of healthy subjects.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.STROKE_VOLUMES_DIFFER_WIDELY,
        f"the stroke volumes of LV and RV differ by {WIDE_STROKE_DIFFERENCE_PCT:.0f} % of the larger one or more",
        "Without valve regurgitation or a shunt they are equal; readers of healthy subjects differ by less. Inspect "
        "the RV's basal slices first.",
    ),
    Flag(
        QCFlag.MULTIPLE_VOLUME_MINIMA,
        f"the LV volume curve, smoothed as for the detection of ED, has more than one minimum with a prominence above "
        f"{100 * MINIMUM_PROMINENCE:.0f} % of its range (from {CURVE_FROM_FRAMES} frames on)",
        "Frames may be out of order or cover more than one cycle, or the contours of some frames are wrong.",
    ),
    *(
        Flag(
            flag,
            f"at the {phase} of the manifest the LV volume differs from the {extreme} volume by more than "
            f"{100 * PHASE_FRACTION:.0f} % of the range over the cycle",
            "The manifest's frame was used. Frames are counted from 0; leave the cell empty for automatic detection.",
        )
        for flag, phase, extreme in (
            (QCFlag.ED_INCONSISTENT_WITH_VOLUMES, "ED", "largest"),
            (QCFlag.ES_INCONSISTENT_WITH_VOLUMES, "ES", "smallest"),
        )
    ),
)

_MOTION = (
    Flag(
        QCFlag.MOTION_FOLDS,
        "the motion from ED to ES has a voxel with det F <= 0",
        "No tissue moves like this. Do not use strain near the fold.",
    ),
    Flag(
        QCFlag.CYCLE_INCONSISTENT,
        f"cycle_consistency_error_mm is above {CYCLE_CONSISTENCY_MM:g} mm",
        "The motion drifts over the cycle: late frames and diastolic rates are affected.",
    ),
    Flag(
        QCFlag.LOW_CONFIDENCE_MOTION,
        f"the mean entropy of the motion's posterior in the heart is above {ENTROPY_NATS:g} nats",
        "The motion of this heart is uncertain. Inspect the propagated contours.",
    ),
    Flag(
        QCFlag.MYOCARDIAL_VOLUME_CHANGES,
        f"by the motion, the myocardial volume at ES differs by more than {MYOCARDIAL_VOLUME_CHANGE_PCT:g} % from that "
        "at ED",
        "Myocardium is nearly incompressible: radial strain and thickening are too large, or through-plane motion was "
        "missed.",
    ),
    Flag(
        QCFlag.STRAIN_IMPLAUSIBLE,
        "a global peak Green-Lagrange strain is outside "
        + ", ".join(
            f"{low:g} to {high:g} % ({name.partition('_')[0].upper()})" for name, (low, high) in STRAIN_PCT.items()
        ),
        "Such strain is not physiological: inspect the motion, the basal slices first, before using strain.",
        severity=_DO_NOT_USE,
    ),
)

_REASONS = (
    Flag(
        QCFlag.NO_HEART_RATE,
        "neither the manifest nor the header has a heart rate",
        "Cardiac output is null.",
        severity=_INFORMATION,
        missing="heart rate",
    ),
    Flag(
        QCFlag.NO_BODY_SIZE,
        "the manifest has no height or no weight",
        "Values indexed to BSA are null.",
        severity=_INFORMATION,
        missing="height or weight",
    ),
    Flag(
        QCFlag.NO_SEX,
        "the manifest has no sex",
        "z-scores are null: reference ranges are by sex.",
        severity=_INFORMATION,
        missing="sex",
    ),
    Flag(
        QCFlag.AGE_OUTSIDE_REFERENCE,
        "the subject's age is outside the ages of the reference ranges, or unknown",
        "z-scores are given, but refer to people of another age.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.TOO_FEW_SLICES_FOR_SEGMENTS,
        "at ED fewer than 3 slices show the LV with its wall",
        "Basal, mid and apical level are undefined: levels, AHA segments, rotation and the bull's-eye are null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.SEGMENT_MISSING_AT_ED,
        "an AHA segment has fewer than 5 voxels at ED",
        "It has no values.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.SEGMENT_MISSING_AT_ES,
        "an AHA segment has fewer than 5 voxels at ES, or no RV at ES defines the segments",
        "Its thickness at ES and its thickening are null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.SEGMENT_DOES_NOT_CONTRACT,
        "a peak strain of an AHA segment has the sign of stretching",
        "The peak is given; its time is null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.LEVEL_MISSING,
        "no slice of the basal or of the apical level has 12 voxels of wall",
        "Twist, torsion and the rotation of that level are null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.NO_CLOSED_SLICE,
        "in no slice does the wall surround the cavity completely",
        "Line strain is null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.WALL_STRETCHES,
        "a global strain has the sign of stretching, at its peak or at ES",
        "The value is given, its time to peak is null. Do not use it, and inspect the motion: a contracting wall does "
        "not stretch.",
        severity=_DO_NOT_USE,
    ),
    Flag(
        QCFlag.FEW_SEGMENTS_WITH_TIMES,
        "fewer than 12 AHA segments have a time to peak circumferential strain",
        "Dyssynchrony is null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.NO_FRAME_TIME,
        "neither the manifest nor the header has a frame time",
        "Times and rates are null.",
        severity=_INFORMATION,
        missing="frame time",
    ),
    Flag(
        QCFlag.TOO_FEW_FRAMES,
        "the cycle has fewer than 10 frames",
        "Times and rates are null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.TWIST_NOT_CONSTRAINED_BY_MASKS,
        "rotation, twist and torsion are given",
        "Rotation moves no boundary that a mask shows. These values rest on image texture, on the regularisation of "
        "the motion and on what the networks learnt from simulated motion, not on this subject's contours.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.MOTION_NOT_STORED,
        "infer ran without --save-motion full",
        "Motion of single frames and strain are null.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.POSTERIOR_NOT_STORED,
        "infer ran without --save-motion full, or with an earlier version of cmnet",
        "Intervals are null. Run cmnet infer again.",
        severity=_INFORMATION,
    ),
    Flag(QCFlag.NO_SAMPLES, "indices ran with --samples 0", "Intervals are null.", severity=_INFORMATION),
    Flag(
        QCFlag.INTERVALS_NOT_CALIBRATED,
        "the weights have no calibration",
        "Intervals express the networks' own uncertainty only and are too narrow. cmnet calibrate makes a calibration.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.INTERVAL_UNINFORMATIVE,
        "the interval of a quantity is wider than half of the population's range, as it is in a typical subject",
        "The interval is null: by the calibration, the quantity is too uncertain to distinguish subjects. Do not use "
        "it by itself.",
        severity=_INFORMATION,
    ),
    Flag(
        QCFlag.INTERVAL_WIDE,
        "an interval is wider than half of the population's range, and in a typical subject it is not",
        "The interval is null: the networks are less certain about this subject than about others. Inspect the "
        "contours at ED and ES.",
    ),
)

GROUPS = {
    "Reading the image": _READING,
    "The image itself": _IMAGE,
    "Segmentation": _SEGMENTATION,
    "Function": _FUNCTION,
    "Motion": _MOTION,
    "Why a value is missing or limited": _REASONS,
}
"""All flags by subject."""

FLAGS: dict[str, Flag] = {str(flag.name): flag for group in GROUPS.values() for flag in group}
"""All flags by name."""
