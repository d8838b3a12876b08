"""The names of the quality flags of a subject, as stored in ``qc_flags``.

Each module that finds a problem raises its flags from here. When a flag is raised, what it means for the results and
what the user can do is documented in :mod:`cmnet_core.qc.flags`.
"""

from enum import StrEnum


class QCFlag(StrEnum):
    """A quality flag, by the name under which it is stored in tables and sidecars."""

    # Reading the image.
    SPACING_FROM_ZOOMS = "spacing-from-zooms"
    SPACING_FROM_AFFINE = "spacing-from-affine"
    SPACING_UNUSUAL = "spacing-unusual"
    UNIT_GUESSED = "unit-guessed"
    SFORM_QFORM_DIFFER = "sform-qform-differ"
    AXES_REORDERED = "axes-reordered"
    ORIENTATION_MISSING = "orientation-missing"
    TIME_STEP_IMPLAUSIBLE = "time-step-implausible"
    ORIENTATION_UNUSUAL = "orientation-unusual"
    TRIGGER_TIMES_DIFFER = "trigger-times-differ"
    PHASES_INTERPOLATED = "phases-interpolated"
    PHASES_DROPPED = "phases-dropped"
    SLICES_DROPPED = "slices-dropped"
    SLICE_GAP_UNEVEN = "slice-gap-uneven"
    SLICES_SHIFTED = "slices-shifted"
    SLICES_RESAMPLED = "slices-resampled"
    REPEATED_SLICES = "repeated-slices"
    DUPLICATE_IMAGES = "duplicate-images"
    FILES_UNREADABLE = "files-unreadable"

    # The image itself.
    SLICES_EMPTY = "slices-empty"
    INTENSITIES_INVERTED = "intensities-inverted"
    SLICES_COPIED = "slices-copied"
    SLICES_FAR_APART = "slices-far-apart"
    HEAVY_NOISE = "heavy-noise"
    DARK_BAND = "dark-band"

    # Segmentation.
    LV_MISSING_AT_ED = "lv-missing-at-ed"
    LV_MISSING_AT_ES = "lv-missing-at-es"
    MYO_MISSING_AT_ED = "myo-missing-at-ed"
    RV_MISSING_AT_ED = "rv-missing-at-ed"
    RV_MISSING_AT_ES = "rv-missing-at-es"
    TOO_FEW_SLICES = "too-few-slices"
    FEW_SLICES = "few-slices"
    LV_GAP_IN_STACK = "lv-gap-in-stack"
    RV_GAP_IN_STACK = "rv-gap-in-stack"
    CONTOURS_FRAGMENTED = "contours-fragmented"
    LV_CUT_AT_BORDER = "lv-cut-at-border"
    RV_CUT_AT_BORDER = "rv-cut-at-border"
    BASE_NOT_COVERED = "base-not-covered"
    APEX_NOT_COVERED = "apex-not-covered"
    NO_LV_WALL = "no-lv-wall"
    RV_INSERTION_NOT_FOUND = "rv-insertion-not-found"
    ORIENTATION_AMBIGUOUS = "orientation-ambiguous"
    LOW_CONFIDENCE_SEGMENTATION = "low-confidence-segmentation"

    MASKS_CORRECTED = "masks-corrected"

    # Function.
    LV_DOES_NOT_CONTRACT = "lv-does-not-contract"
    RV_DOES_NOT_CONTRACT = "rv-does-not-contract"
    LVEF_IMPLAUSIBLE = "lvef-implausible"
    RVEF_IMPLAUSIBLE = "rvef-implausible"
    STROKE_VOLUMES_DIFFER = "stroke-volumes-differ"
    STROKE_VOLUMES_DIFFER_WIDELY = "stroke-volumes-differ-widely"
    MULTIPLE_VOLUME_MINIMA = "multiple-volume-minima"
    ED_INCONSISTENT_WITH_VOLUMES = "ed-inconsistent-with-volumes"
    ES_INCONSISTENT_WITH_VOLUMES = "es-inconsistent-with-volumes"

    # Motion.
    MOTION_FOLDS = "motion-folds"
    CYCLE_INCONSISTENT = "cycle-inconsistent"
    LOW_CONFIDENCE_MOTION = "low-confidence-motion"
    MYOCARDIAL_VOLUME_CHANGES = "myocardial-volume-changes"
    STRAIN_IMPLAUSIBLE = "strain-implausible"
    WALL_STRETCHES = "wall-stretches"

    # Why a value is missing or limited.
    NO_HEART_RATE = "no-heart-rate"
    NO_BODY_SIZE = "no-body-size"
    NO_SEX = "no-sex"
    AGE_OUTSIDE_REFERENCE = "age-outside-reference"
    TOO_FEW_SLICES_FOR_SEGMENTS = "too-few-slices-for-segments"
    SEGMENT_MISSING_AT_ED = "segment-missing-at-ed"
    SEGMENT_MISSING_AT_ES = "segment-missing-at-es"
    SEGMENT_DOES_NOT_CONTRACT = "segment-does-not-contract"
    LEVEL_MISSING = "level-missing"
    NO_CLOSED_SLICE = "no-closed-slice"
    FEW_SEGMENTS_WITH_TIMES = "few-segments-with-times"
    NO_FRAME_TIME = "no-frame-time"
    TOO_FEW_FRAMES = "too-few-frames"
    TWIST_NOT_CONSTRAINED_BY_MASKS = "twist-not-constrained-by-masks"
    MOTION_NOT_STORED = "motion-not-stored"
    POSTERIOR_NOT_STORED = "posterior-not-stored"
    NO_SAMPLES = "no-samples"
    INTERVALS_NOT_CALIBRATED = "intervals-not-calibrated"
    INTERVAL_UNINFORMATIVE = "interval-uninformative"
    INTERVAL_WIDE = "interval-wide"
