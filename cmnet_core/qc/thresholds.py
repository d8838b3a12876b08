"""Thresholds of the quality flags, with the evidence for each."""

EF_PCT = {"lv": (10.0, 85.0), "rv": (15.0, 85.0)}
"""Ejection fractions (%) outside these ranges are more often errors of the contours than disease."""

STROKE_DIFFERENCE_PCT, WIDE_STROKE_DIFFERENCE_PCT = 15.0, 30.0
"""Differences of the stroke volumes of LV and RV, in % of the larger one. In the readers' masks of the 20 healthy
subjects of ACDC the difference is 5 ± 16 %: 30 % of them exceed 15 %, and 10 % exceed 30 %, the limit of agreement
(1.96 SD). With valve disease and shunts it is larger: in the masks of all 100 patients, 60 % and 38 %."""

SLICE_DISTANCE_MM = 15.0
"""From this distance between slices on, a ventricle is covered by few of them."""

NOISE_FRACTION = 0.08
"""Largest accepted standard deviation of the noise, as a fraction of the range of intensities from the 1st to the 99th
percentile. In 25 subjects of ACDC it is at most 0.04; noise of 10 % of the largest intensity raises it to 0.10 or
more."""

INVERTED_FRACTION = 0.6
"""Largest accepted median intensity, as a fraction of the range from the 1st to the 99th percentile. Most voxels of a
field of view are air, lung and muscle, which are dark: in 357 images of ACDC and Children's Hospital Los Angeles the
median is at most 0.31, so that it is 0.69 or more in their negatives."""

BAND_FRACTION = 0.42
"""Smallest accepted brightness of a line through the LV relative to the lines beside it, as the median of its slices.
In 25 subjects of ACDC it is 0.62 or more; a straight band that darkens by 85 % lowers it to 0.37 or less in 23 of
them, and is missed where it does not pass within 15 mm of the LV's centre."""

MINIMUM_PROMINENCE, CURVE_FROM_FRAMES = 0.2, 10
"""A minimum of the volume curve counts if its prominence exceeds this fraction of the curve's range, in cines of at
least this many frames."""

FEWEST_SLICES, FULL_LENGTH_SLICES = 2, 5
"""With fewer slices of LV than the first number no volume is reported; with fewer than the second it is uncertain."""

FRAGMENT_FRACTION = 0.1
"""Fraction of a structure's area in a slice from which a second, separate part of it counts as an error. In the masks
of all 100 patients of ACDC, at ED and ES, no slice has one of the LV, of the LV with its wall or of the RV."""

BASE_FRACTION, APEX_FRACTION = 0.9, 0.45
"""Area of the LV cavity in the outermost slice as a fraction of the largest area: at ES in the first slice of the
stack, at ED in the last slice with LV. In the masks of 25 subjects of ACDC the latter is at most 0.35."""

PHASE_FRACTION = 0.15
"""At an ED or ES given by the user, the LV volume may differ from the extreme by this fraction of the curve's range."""

CYCLE_CONSISTENCY_MM = 5.0
"""Largest accepted mean cycle-consistency error in the heart, in mm."""

CONFIDENT_PROBABILITY, LOW_CONFIDENCE_FRACTION = 0.75, 0.25
"""A voxel whose most probable class has a probability below the first number is of low confidence; up to this fraction
of the heart's voxels may be."""

ENTROPY_NATS = 1.0
"""Largest accepted mean entropy of the motion's posterior in the heart, in nats. An isotropic Gaussian of this entropy
has a standard deviation of exp((1 - 1.5 log(2 pi e)) / 3) = 0.34 voxels of 3 mm, about 1 mm in-plane."""

MYOCARDIAL_VOLUME_CHANGE_PCT = 15.0
"""Largest accepted change of the myocardial volume from ED to ES by the motion, in %. Myocardium loses a few per cent
with the blood pressed out of its vessels (Yin et al., Am. J. Physiol. 271, 1996)."""

STRAIN_PCT = {"gcs_green_wall": (-40.0, 5.0), "grs_green_wall": (-5.0, 100.0)}
"""Global peak Green-Lagrange strains (%) outside these ranges are errors of the motion."""
