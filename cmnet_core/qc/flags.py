"""Every quality flag: from when on it is raised, what it means for the results and what to do about it."""

from dataclasses import dataclass

EF_PCT = {"lv": (10.0, 85.0), "rv": (15.0, 85.0)}
"""Ejection fractions beyond these are taken for errors of the contours before they are taken for disease."""

STROKE_DIFFERENCE_ML, STROKE_DIFFERENCE_SHARE = 20.0, 0.5
"""LV and RV stroke volume may differ by this much, or by this share of the larger one."""

MINIMUM_PROMINENCE, CURVE_FROM_FRAMES = 0.2, 10
"""A minimum counts that is deeper than this share of the curve's range, in cines of at least so many frames."""

FEWEST_SLICES, FULL_LENGTH_SLICES = 2, 5
"""Below the first number of slices with LV a volume is no volume; below the second it is doubtful."""

BASE_SHARE, APEX_SHARE = 0.9, 0.45
"""Area of the LV's cavity in the outermost slice, as a share of its largest: at ES at the base, at ED at the apex."""

PHASE_SHARE = 0.15
"""A given ED or ES may miss the largest or smallest LV volume by this share of the range between them."""

CLOSING_MM = 5.0
"""Mean distance in the heart by which a cycle may fail to close."""

DOUBTFUL_PROBABILITY, DOUBTFUL_SHARE = 0.75, 0.25
"""Voxels whose likeliest tissue has less than this probability may be this share of the heart."""

ENTROPY_NATS = -1.0
"""Mean entropy of the motion's posterior in the heart; about 0.5 mm of doubt a step in the plane."""

MUSCLE_CHANGE_PCT = 15.0
"""By how much the volume of the wall may change from ED to ES. Muscle itself loses a few percent, with the blood that
is pressed out of its vessels (Yin et al., Am. J. Physiol. 271, 1996)."""

STRAIN_PCT = {"gcs": (-40.0, 5.0), "grs": (-5.0, 100.0), "gls_sax": (-40.0, 5.0)}
"""Global peak strains beyond these are taken for errors of the motion."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A word in ``qc_flags``.

    Attributes:
        name: The word.
        raised: When it is raised, with its threshold.
        advice: What it means for the results, and what to do.
        remark: Whether nothing is wrong with the subject: it only says why a value is not given.
    """

    name: str
    raised: str
    advice: str
    remark: bool = False


_READING = (
    Flag(
        "spacing-from-zooms",
        "the header's affine and its voxel sizes disagree by more than 0.1 %",
        "Direction was taken from the one, scale from the other. Check that the volumes are of the size you expect.",
    ),
    Flag(
        "spacing-from-affine",
        "the header's voxel sizes are lost (all are 0, or all are 1), and its affine has a scale",
        "The affine's was taken. Check that the volumes are of the size you expect.",
    ),
    Flag(
        "spacing-unusual",
        "voxels are not 0.4 to 4 mm wide and 2 to 20 mm apart between slices",
        "No short-axis cine has such voxels: volumes, mass and lengths are as wrong as the header.",
    ),
    Flag(
        "unit-guessed",
        "the header names no unit of length, and its voxel sizes make sense in metres or micrometres alone",
        "That unit was taken. Check that the volumes are of the size you expect.",
    ),
    Flag(
        "sform-qform-differ",
        "the header's two affines place a corner of the image more than 0.5 mm apart, or the first cannot be used",
        "The sform was taken, or the qform where the sform cannot be used. Volumes are not affected.",
    ),
    Flag(
        "axes-reordered",
        "the file does not store columns, rows and slices in this order, or stores time before them",
        "Axes were told apart by their distances. Outputs are in the usual order; their affine says where they lie.",
    ),
    Flag(
        "time-step-implausible",
        "the header's time step is neither absent nor one of a heart beat: 5 to 500 ms, 250 to 3,000 ms a beat",
        "It was not used. Give frame_ms or heart_rate_bpm in the manifest.",
    ),
    Flag(
        "orientation-unusual",
        "the normal of the slices is more than 45 degrees from left, front and down, and nothing better is there",
        "This may be no short axis, or the header's orientation is false. Look at the images.",
    ),
    Flag(
        "trigger-times-differ",
        "slices were recorded at different heart rates",
        "Volumes add slices at the same share of the cycle; times in ms are those of an average beat.",
    ),
    Flag(
        "phases-interpolated",
        "some slices have another number of frames than most",
        "Their frames were interpolated in time, at the same share of the cycle.",
    ),
    Flag(
        "phases-dropped",
        "some slices have frames beyond the end of the cycle",
        "The frames of the next beat were left out.",
    ),
    Flag(
        "slices-dropped",
        "slices without a whole cycle, or beside the stack",
        "They were left out. Check that base and apex are still in the stack.",
    ),
    Flag(
        "slice-gap-uneven",
        "a distance between slices differs from their mean by more than 10 %",
        "Volumes use the mean distance. Check for missing slices.",
    ),
    Flag(
        "slices-shifted",
        "slices are shifted against each other by more than 1 mm in the plane, as their headers tell",
        "They were brought onto one grid. The patient may have moved: motion between slices may be affected.",
    ),
    Flag(
        "slices-resampled",
        "some slices have another number of rows or columns, or another pixel size, than most",
        "They were brought onto the grid of the others: cropped, filled with 0 or interpolated in the plane.",
    ),
    Flag(
        "repeated-slices",
        "a slice was recorded more than once",
        "The last complete recording was used.",
    ),
    Flag("duplicate-images", "an image occurs twice", "Each was used once."),
    Flag(
        "files-unreadable",
        "files of the series cannot be read",
        "They were passed over. Copy the series again.",
    ),
)

_SHAPE = (
    *(
        Flag(
            f"{structure}-missing-at-{phase}",
            f"not a voxel of the {words} at {phase.upper()}",
            f"What depends on it is null. Look at the contours; check {phase.upper()} in the manifest.",
        )
        for structure, words, phases in (
            ("lv", "left ventricle", ("ed", "es")),
            ("myo", "myocardium", ("ed",)),
            ("rv", "right ventricle", ("ed", "es")),
        )
        for phase in phases
    ),
    Flag(
        "too-few-slices",
        f"the LV is seen in fewer than {FEWEST_SLICES} slices at ED",
        "Volumes and all that follows from them are null: one slice has no volume.",
    ),
    Flag(
        "few-slices",
        f"the LV is seen in fewer than {FULL_LENGTH_SLICES} slices at ED",
        "Volumes miss part of the ventricle, or rest on coarse slices.",
    ),
    *(
        Flag(
            f"{name}-gap-in-stack",
            f"at ED or ES a slice without {name.upper()} lies between slices with it",
            f"{name.upper()} volumes are null; the table frames has what was seen. Look at the contours.",
        )
        for name in ("lv", "rv")
    ),
    *(
        Flag(
            f"{name}-cut-at-border",
            f"at ED or ES the {words} touches the border of the image, or of the networks' window",
            f"{name.upper()} volumes are null. Check that the whole heart is in the image.",
        )
        for name, words in (("lv", "LV or its wall"), ("rv", "RV"))
    ),
    Flag(
        "base-not-covered",
        f"at ES the LV still fills the most basal slice, with {100 * BASE_SHARE:.0f} % of its largest area or more",
        "The stack may begin below the mitral valve: volumes are too small. Common in stacks of few slices.",
    ),
    Flag(
        "apex-not-covered",
        f"at ED the LV's area in the most apical slice is {100 * APEX_SHARE:.0f} % of its largest or more",
        "The stack may end above the apex: volumes are too small.",
    ),
    Flag(
        "no-lv-wall",
        "at ED no slice shows a cavity of the LV with wall around at least half of it",
        "Strain, rotation and wall thickness are null. Look at the contours.",
    ),
    Flag(
        "rv-insertion-not-found",
        "at ED no slice shows an RV along 40° to 220° of the LV's outer wall",
        "The angle around the LV has no zero: AHA segments and the bull's-eye are null; means of the whole wall stay.",
    ),
    Flag(
        "orientation-doubtful",
        "the patient's axes in the header and the handedness of the grid tell different ends of the septum for the "
        "anterior one",
        "The end further to the front and to the head was taken: right where a converter made the header's axes up, as "
        "in some public data sets. Check the segments where none did.",
    ),
    Flag(
        "low-confidence-shape",
        f"at ED or ES more than {100 * DOUBTFUL_SHARE:.0f} % of the heart's voxels have no tissue with a "
        f"probability of {DOUBTFUL_PROBABILITY:g}",
        "SegNet hardly knows this image's like. Look at the contours before using any value.",
    ),
)

_FUNCTION = (
    Flag(
        "lv-does-not-contract",
        "LV ESV is not smaller than LV EDV",
        "Check ED and ES; look at the contours.",
    ),
    Flag(
        "rv-does-not-contract",
        "RV ESV is not smaller than RV EDV",
        "Look at the RV's basal slices at ES.",
    ),
    *(
        Flag(
            f"{name}ef-implausible",
            f"{name.upper()} ejection fraction below {low:g} % or above {high:g} %",
            f"Look at the {name.upper()}'s basal slices at ED and ES: contours are wrong more often than hearts are.",
        )
        for name, (low, high) in EF_PCT.items()
    ),
    Flag(
        "stroke-volumes-differ",
        f"LV and RV stroke volume differ by more than {STROKE_DIFFERENCE_ML:g} mL and by more than "
        f"{100 * STROKE_DIFFERENCE_SHARE:.0f} % of the larger one",
        "Without a leaking valve or a shunt they are equal: one of the ventricles may be contoured wrongly.",
    ),
    Flag(
        "several-volume-minima",
        f"the LV volume curve, smoothed as for finding ED, has more than one minimum deeper than "
        f"{100 * MINIMUM_PROMINENCE:.0f} % of its range ({CURVE_FROM_FRAMES} frames or more)",
        "Frames may be out of order or cover more than one beat, or some frames are contoured wrongly.",
    ),
    *(
        Flag(
            f"{phase}-not-as-given",
            f"at the {phase.upper()} of the manifest the LV volume misses its {extreme} by more than "
            f"{100 * PHASE_SHARE:.0f} % of the range over the cycle",
            "The manifest's frame was used. Frames are counted from 0; leave the cell empty to have it found.",
        )
        for phase, extreme in (("ed", "largest"), ("es", "smallest"))
    ),
)

_MOTION = (
    Flag(
        "motion-folds",
        "det F <= 0 in a voxel of the motion from ED to ES",
        "The motion is no motion of tissue there. Strain near it should not be used.",
    ),
    Flag(
        "cycle-does-not-close",
        f"closing_error_mm above {CLOSING_MM:g} mm",
        "The motion drifts over the cycle: values late in it, and rates in diastole, rest on drift.",
    ),
    Flag(
        "low-confidence-motion",
        f"mean entropy of the motion's posterior in the heart above {ENTROPY_NATS:g} nats",
        "The networks are unsure how this heart moves. Look at the propagated contours.",
    ),
    Flag(
        "muscle-volume-changes",
        f"by the motion the wall's volume at ES differs by more than {MUSCLE_CHANGE_PCT:g} % from that at ED",
        "Muscle is nearly incompressible: radial strain and thickening are too large, or motion through the slices was "
        "missed.",
    ),
    Flag(
        "strain-implausible",
        "a global peak strain is beyond "
        + ", ".join(
            f"{low:g} to {high:g} % ({name.upper().replace('_', '-')})" for name, (low, high) in STRAIN_PCT.items()
        ),
        "Hearts do not move so: look at the motion, at the basal slices first, before strain is used.",
    ),
)

_REASONS = (
    Flag(
        "no-heart-rate", "neither the manifest nor the header tells the heart rate", "No cardiac output.", remark=True
    ),
    Flag("no-body-size", "the manifest does not tell height and weight", "No values per m² of body.", remark=True),
    Flag("no-sex", "the manifest does not tell the sex", "No z-scores: reference ranges go by sex.", remark=True),
    Flag(
        "age-outside-reference",
        "the reference ranges say for which ages they hold; the subject is outside, or its age is not known",
        "z-scores are given, from people of another age.",
        remark=True,
    ),
    Flag(
        "too-few-slices-for-segments",
        "at ED fewer than 3 slices show the LV with its wall",
        "Thirds of the LV's length are not defined: levels, AHA segments, rotation and the bull's-eye are null.",
        remark=True,
    ),
    Flag("segment-not-seen-at-ed", "fewer than 5 voxels of an AHA segment at ED", "It has no values.", remark=True),
    Flag(
        "segment-not-seen-at-es",
        "fewer than 5 voxels of an AHA segment at ES, or no RV there to tell segments by",
        "It has no thickness at ES and no thickening.",
        remark=True,
    ),
    Flag(
        "segment-does-not-contract",
        "a peak strain of an AHA segment has the sign of stretching",
        "That peak is given; it has no time.",
        remark=True,
    ),
    Flag(
        "third-not-seen",
        "no slice of the basal or of the apical third shows 12 voxels of wall",
        "No twist and no torsion, nor what is said of that third.",
        remark=True,
    ),
    Flag("no-closed-slice", "no slice's wall goes all the way round the cavity", "No line strain.", remark=True),
    Flag(
        "wall-stretches",
        "a global strain has the sign of stretching, at its peak or at ES",
        "It is given, a peak without a time. Do not use it, and look at the motion: a beating wall does not do this.",
    ),
    Flag(
        "few-segments-with-times",
        "fewer than 12 AHA segments have a time to peak circumferential strain",
        "No dyssynchrony.",
        remark=True,
    ),
    Flag("no-frame-time", "neither the manifest nor the header tells it", "No times and no rates.", remark=True),
    Flag("too-few-frames", "fewer than 10 frames a cycle", "No times and no rates.", remark=True),
    Flag(
        "twist-rests-on-training",
        "rotation, twist and torsion are given",
        "Turning moves no boundary of the heart. What is given rests on the images' texture, on the smoothness of the "
        "motion and on what the networks learnt from hearts whose motion is known, not on this subject's contours.",
        remark=True,
    ),
    Flag("motion-not-stored", "infer ran without --save-motion full", "No motion by frame, no strain.", remark=True),
    Flag(
        "posterior-not-stored",
        "infer ran without --save-motion full, or with an earlier cmnet",
        "No intervals. Run cmnet infer again.",
        remark=True,
    ),
    Flag("no-samples", "indices ran with --samples 0", "No intervals.", remark=True),
    Flag(
        "intervals-not-calibrated",
        "the weights come without factors for their intervals",
        "Intervals are as narrow as the networks are sure of themselves: too narrow.",
        remark=True,
    ),
)

GROUPS = {
    "Reading and repairing the image": _READING,
    "Contours": _SHAPE,
    "Function": _FUNCTION,
    "Motion": _MOTION,
    "Why a value is not given": _REASONS,
}
"""All flags, by what they are about."""

FLAGS = {flag.name: flag for group in GROUPS.values() for flag in group}
"""All flags by name."""
