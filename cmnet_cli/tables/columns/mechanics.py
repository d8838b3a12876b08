"""Columns of the LV wall's mechanics: strain, rotation, thickness; and ejection and filling rates of the ventricles."""

from collections.abc import Iterator

from cmnet_cli.tables.columns.column import Column, Interval

LAYERS = ("endo", "midwall", "epi")
"""Transmural thirds, in the order of the arrays."""

LEVELS = ("basal", "mid", "apical")
"""Longitudinal thirds, in the order of the arrays."""

LINE_STRAINS = {
    "gcs_line_endo": "circumferential strain of the endocardium",
    "gcs_line_midwall": "circumferential strain of the mid-wall",
    "gcs_line_epi": "circumferential strain of the epicardium",
    "grs_line_wall": "radial strain of the wall",
}
"""Global engineering strains: of the three contours, and of the whole wall from endocardium to epicardium."""

GREEN_STRAINS = {"grs_green_wall": "radial", "gcs_green_wall": "circumferential"}
"""Global Green-Lagrange strains of the whole wall, in the order of the arrays."""

SEGMENT_STRAINS = {"err": "radial", "ecc": "circumferential"}
"""Segmental strains, in the order of the arrays."""

DISPLACEMENTS = ("radial", "circumferential", "longitudinal")
"""Components of the displacement in the LV's directions, in the same order."""

_E = "100 x mean over the wall at ED of n^T E n, E = (F^T F - I) / 2"
_LINE_MEAN = "100 x (mean over the wall at ED of |F n| - 1)"
_CONTOURS = "100 x (length / length at ED - 1), summed over all slices with a closed wall"
_PEAK = "extreme of a periodic smoothing spline in the direction of contraction, between ED and mid-diastole"
_ENGINEERING = "engineering strain, length / length at ED - 1"
_GREEN = "Green-Lagrange strain"
_SAX = "Green-Lagrange strain; from a stack of thick short-axis slices, hence SAX"
_RATE = "steepest slope of a periodic smoothing spline"
_ROTATION = "least-squares rotation of each slice's wall about its own centre, counter-clockwise seen from the apex"
_FROM_TRAINING = "masks do not determine it: see the flag twist-not-constrained-by-masks"
_THICKNESS = "endocardial plus epicardial contour distance, in-plane; mean weighted by the length of the wall"
_AXIAL = {"radial": "away from the long axis", "circumferential": "in the sense of circumferential_deg",
          "longitudinal": "towards the apex"}  # fmt: skip


def _summary(name: str, meaning: str, formula: str, source: str) -> Iterator[Column]:
    """Peak, value at ES, time to peak and rates of a strain curve."""
    interval = Interval.UNBOUNDED
    yield Column(f"{name}_peak_pct", "number", f"Peak {meaning}", "%", f"{formula}; {_PEAK}", source, "", interval)
    yield Column(f"{name}_es_pct", "number", f"{meaning[0].upper()}{meaning[1:]} at ES", "%", formula, source, "",
                 interval)  # fmt: skip
    yield Column(f"time_to_peak_{name}_ms", "number", f"Time from ED to peak {meaning}", "ms", _PEAK, source, "",
                 Interval.TIME)  # fmt: skip
    for phase, when in (("systolic", "ED to ES"), ("early_diastolic", "ES to mid-diastole")):
        what = f"{phase.replace('_', '-').capitalize()} rate of {meaning}"
        yield Column(f"{name}_{phase}_rate_per_s", "number", what, "1/s", f"{_RATE} of the curve, {when}", source, "",
                     interval)  # fmt: skip


def _global_strains() -> Iterator[Column]:
    for name, meaning in LINE_STRAINS.items():
        formula = _LINE_MEAN if name.startswith("grs") else _CONTOURS
        yield from _summary(name, f"global {meaning}, engineering", formula, _ENGINEERING)
    for name, direction in GREEN_STRAINS.items():
        yield from _summary(name, f"global {direction} strain of the wall, Green-Lagrange", _E, _GREEN)


def _regional_strains() -> Iterator[Column]:
    for name, direction in (("gcs", "circumferential"), ("grs", "radial")):
        for kind, formula, source in (("line", _LINE_MEAN, _ENGINEERING), ("green", _E, _GREEN)):
            # The engineering strain of the layers is that of the contours.
            for layer in LAYERS if kind == "green" else ():
                yield Column(f"{name}_green_{layer}_peak_pct", "number",
                             f"Peak {direction} strain, {layer} transmural third, Green-Lagrange", "%",
                             f"{formula}; {_PEAK}", source, "", Interval.UNBOUNDED)  # fmt: skip
            for level in LEVELS:
                yield Column(f"{name}_{kind}_wall_{level}_peak_pct", "number",
                             f"Peak {direction} strain of the wall, {level} longitudinal third, {source.split()[0]}",
                             "%", f"{formula}; {_PEAK}", source, "", Interval.UNBOUNDED)  # fmt: skip


_UKB = "definition of the UK Biobank's fields: Bai et al. 2020, ukbb_cardiac; in-plane, slices at 25, 50 and 75 %"
_UKB_ECC = "100 x min over frames of the mean over line elements of both contours of length / length at ED - 1"
_UKB_ERR = "100 x max over frames of the mean over chords, endocardium to epicardium, of length / length at ED - 1"


def _ukb_strains(ecc: tuple[str, str], err: tuple[str, str], of: str) -> Iterator[Column]:
    for (name, field), direction, formula in ((ecc, "circumferential", _UKB_ECC), (err, "radial", _UKB_ERR)):
        yield Column(name, "number", f"Peak {direction} strain of {of} as the UK Biobank defines it", "%", formula,
                     _UKB, field, Interval.UNBOUNDED)  # fmt: skip


_TWIST = "apical - basal rotation"
_SHEAR = "atan(twist in rad x mean mid-wall radius of both thirds / distance between their centres at ED)"


def _rotations() -> Iterator[Column]:
    for name, meaning, unit, formula in (
        ("basal_rotation_deg", "Peak rotation of the basal third", "degrees", _ROTATION),
        ("apical_rotation_deg", "Peak rotation of the apical third", "degrees", _ROTATION),
        ("twist_deg", "Peak twist", "degrees", _TWIST),
        ("twist_es_deg", "Twist at ES", "degrees", _TWIST),
        ("torsion_deg_per_cm", "Peak torsion", "degrees/cm", "twist / distance between the thirds' centres at ED"),
        ("torsion_shear_deg", "Peak torsion as circumferential-longitudinal shear angle", "degrees", _SHEAR),
    ):
        yield Column(name, "number", meaning, unit, formula, _FROM_TRAINING, "", Interval.UNBOUNDED)


def _rates() -> Iterator[Column]:
    for name in ("lv", "rv"):
        volume, interval = f"{name.upper()} volume", Interval.UNBOUNDED
        yield Column(f"{name}_peak_ejection_rate_ml_s", "number", f"{name.upper()} peak ejection rate", "mL/s",
                     f"{_RATE} of the {volume}, ED to ES", "", "", interval)  # fmt: skip
        yield Column(f"{name}_peak_filling_rate_ml_s", "number", f"{name.upper()} early peak filling rate", "mL/s",
                     f"{_RATE} of the {volume}, ES to mid-diastole", "", "", interval)  # fmt: skip
        for phase in ("ejection", "filling"):
            yield Column(f"{name}_peak_{phase}_rate_edv_per_s", "number",
                         f"{name.upper()} peak {phase} rate by end-diastolic volume", "1/s",
                         f"{name}_peak_{phase}_rate_ml_s / {name}edv_ml", "", "", interval)  # fmt: skip
        yield Column(f"{name}_time_to_peak_filling_rate_ms", "number",
                     f"Time from ES to {name.upper()} early peak filling rate", "ms",
                     f"{_RATE} of the {volume}, ES to mid-diastole", "", "", Interval.TIME)  # fmt: skip


def _thicknesses(field: str) -> Iterator[Column]:
    bounded = Interval.NON_NEGATIVE
    yield Column("wall_thickness_ed_mm", "number", "Wall thickness at ED", "mm", _THICKNESS, "", field, bounded)
    yield Column("wall_thickness_es_mm", "number", "Wall thickness at ES", "mm", _THICKNESS, "", "", bounded)
    yield Column("wall_thickening_pct", "number", "Systolic wall thickening", "%",
                 "100 x (wall_thickness_es_mm - wall_thickness_ed_mm) / wall_thickness_ed_mm", "", "",
                 Interval.UNBOUNDED)  # fmt: skip


MECHANICS = (
    *_rates(),
    *_global_strains(),
    *_regional_strains(),
    *_ukb_strains(("ukb_ecc_global_pct", "24157"), ("ukb_err_global_pct", "24174"), "the whole wall"),
    *_rotations(),
    Column(
        "dyssynchrony_ms",
        "number",
        "Standard deviation of the segments' times to peak circumferential strain",
        "ms",
        "SD over AHA segments, at least 12 of them",
        interval=Interval.NON_NEGATIVE,
    ),
    *_thicknesses("24140"),
    Column("wall_thickness_max_ed_mm", "number", "Maximum wall thickness at ED", "mm",
           "largest mean thickness over a 30° sector of the wall in one slice", "", "", Interval.NON_NEGATIVE),
    Column("wall_thickness_max_segment", "integer", "AHA segment of the maximum wall thickness"),
)  # fmt: skip
"""Of a case."""

MECHANICS_OF_FRAMES = (
    *(
        Column(f"{name}_pct", "number", f"Global {meaning}, engineering", "%",
               _LINE_MEAN if name.startswith("grs") else _CONTOURS, _ENGINEERING)
        for name, meaning in LINE_STRAINS.items()
    ),
    *(
        Column(f"{name}_pct", "number", f"Global {direction} strain of the wall, Green-Lagrange", "%", _E, _GREEN)
        for name, direction in GREEN_STRAINS.items()
    ),
    Column("basal_rotation_deg", "number", "Rotation of the basal third", "degrees", _ROTATION, _FROM_TRAINING),
    Column("apical_rotation_deg", "number", "Rotation of the apical third", "degrees", _ROTATION, _FROM_TRAINING),
    Column("twist_deg", "number", "Twist", "degrees", _TWIST, _FROM_TRAINING),
)  # fmt: skip
"""Of a case and frame."""


def _segment_strains() -> Iterator[Column]:
    for kind, formula, source in (("line", _LINE_MEAN, _ENGINEERING), ("green", _E, _GREEN)):
        for name, direction in reversed(SEGMENT_STRAINS.items()):
            meaning = f"{direction} strain of the wall, {source.split()[0]}"
            yield Column(f"{name}_{kind}_wall_peak_pct", "number", f"Peak {meaning}", "%", f"{formula}; {_PEAK}",
                         source, "", Interval.UNBOUNDED)  # fmt: skip
            yield Column(f"time_to_peak_{name}_{kind}_wall_ms", "number", f"Time from ED to peak {meaning}", "ms",
                         _PEAK, source, "", Interval.TIME)  # fmt: skip


SEGMENTS = (
    Column("segment", "integer", "AHA segment, 1 to 16", "", "", "Cerqueira et al. 2002"),
    *_segment_strains(),
    *_ukb_strains(("ukb_ecc_pct", "24141-24156"), ("ukb_err_pct", "24158-24173"), "the segment"),
    Column("ecc_line_wall_curve_pct", "curve", "Circumferential strain of the wall in every frame, from frame 0", "%",
           _LINE_MEAN, _ENGINEERING),
    *_thicknesses("24124-24139"),
    Column("qc_flags", "text_list", "The reason of each value that is null"),
)  # fmt: skip
"""Of a case and AHA segment. A range of UK Biobank fields holds one field per segment, in their order."""

EXPERIMENTAL = (
    Column("quantity", "text", "gls_sax: longitudinal strain of the wall from a short-axis stack"),
    Column("region", "text", "wall, endo, midwall, epi, basal, mid, apical, or aha1 to aha16"),
    Column("peak_pct", "number", "Peak strain", "%", f"{_E}; {_PEAK}", _SAX),
    Column("es_pct", "number", "Strain at ES", "%", _E, _SAX),
    Column("time_to_peak_ms", "number", "Time from ED to peak strain", "ms", _PEAK, _SAX),
    Column("systolic_rate_per_s", "number", "Systolic strain rate", "1/s", f"{_RATE} of the curve, ED to ES", _SAX),
    Column("early_diastolic_rate_per_s", "number", "Early-diastolic strain rate", "1/s",
           f"{_RATE} of the curve, ES to mid-diastole", _SAX),
    Column("curve_pct", "curve", "Strain in every frame, from frame 0", "%", _E, _SAX),
)  # fmt: skip
"""Of a case and region, with --experimental: strain that is not measured reliably."""

BULLSEYE = (
    Column("level", "integer", "Longitudinal sixth, from 0 at the base"),
    Column("sector", "integer", "15° sector, from 0 at 60° before the middle of the septum"),
    Column("layer", "integer", "Transmural third, from 0 at the endocardium"),
    Column("longitudinal", "number", "Longitudinal coordinate of the bin's centre", "1",
           "0 at the base, 1 at the cavity's tip"),
    Column("circumferential_deg", "number", "Circumferential coordinate of the bin's centre", "degrees",
           "0 at 60° before the middle of the septum"),
    Column("transmural", "number", "Transmural coordinate of the bin's centre", "1", "0 endocardium, 1 epicardium"),
    Column("segment", "integer", "AHA segment that contains the bin", "", "", "Cerqueira et al. 2002"),
    Column("voxels", "integer", "Number of voxels of the wall at ED in the bin"),
    *(
        Column(f"{name}_{kind}_es_pct", "number", f"{direction.capitalize()} strain at ES, {source.split()[0]}", "%",
               formula, source)
        for kind, formula, source in (("line", "100 x (mean of |F n| over voxels - 1)", _ENGINEERING),
                                      ("green", "100 x mean of n^T E n over voxels", _GREEN))
        for name, direction in SEGMENT_STRAINS.items()
    ),
    *(
        Column(f"{direction}_displacement_es_mm", "number",
               f"{direction.capitalize()} displacement from ED to ES, positive {_AXIAL[direction]}", "mm",
               "mean of u · n over voxels, n at ED")
        for direction in DISPLACEMENTS
    ),
    Column("wall_thickness_ed_mm", "number", "Wall thickness at ED", "mm", "mean over voxels"),
)  # fmt: skip
"""Of a case and bin of the LV coordinates, in bins that all subjects share."""
