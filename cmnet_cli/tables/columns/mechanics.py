"""Columns of the LV wall's mechanics: strain, rotation, thickness; and ejection and filling rates of the ventricles."""

from collections.abc import Iterator

from cmnet_cli.tables.columns.column import Column, Interval

LAYERS = ("endo", "midwall", "epi")
"""Transmural thirds, in the order of the arrays."""

LEVELS = ("basal", "mid", "apical")
"""Longitudinal thirds, in the order of the arrays."""

STRAINS = {"grs": "radial", "gcs": "circumferential", "gls_sax": "longitudinal"}
"""Global strains, in the order of the arrays."""

SEGMENT_STRAINS = {"err": "radial", "ecc": "circumferential", "ell": "longitudinal"}
"""Segmental strains, in the same order."""

DISPLACEMENTS = ("radial", "circumferential", "longitudinal")
"""Components of the displacement in the LV's directions, in the same order."""

_E = "100 x mean over the wall at ED of n^T E n, E = (F^T F - I) / 2"
_THICK_SLICES = {"gls_sax": "; from a stack of thick short-axis slices, hence SAX", "ell": "; from thick slices"}
_PEAK = "extreme of a local quadratic fit in the direction of contraction, between ED and mid-diastole"
_ENGINEERING = "engineering strain, length / length at ED - 1, as measured on tracked contours"
_RATE = "steepest slope of a local quadratic fit"
_ROTATION = "least-squares rotation of each slice's wall about its own centre, counter-clockwise seen from the apex"
_FROM_TRAINING = "masks do not determine it: see the flag twist-not-constrained-by-masks"
_THICKNESS = "endocardial plus epicardial contour distance, in-plane; mean weighted by the length of the wall"
_AXIAL = {"radial": "away from the long axis", "circumferential": "in the sense of circumferential_deg",
          "longitudinal": "towards the apex"}  # fmt: skip


def _green_lagrange(name: str) -> str:
    return f"Green-Lagrange{_THICK_SLICES.get(name, '')}"


def _global_strains() -> Iterator[Column]:
    for name, direction in STRAINS.items():
        strain, source, interval = f"global {direction} strain", _green_lagrange(name), Interval.UNBOUNDED
        yield Column(f"{name}_peak_pct", "number", f"Peak {strain}", "%", f"{_E}; {_PEAK}", source, "", interval)
        yield Column(f"{name}_es_pct", "number", f"{strain.capitalize()} at ES", "%", _E, source, "", interval)
        yield Column(f"time_to_peak_{name}_ms", "number", f"Time from ED to peak {strain}", "ms", _PEAK, "", "",
                     Interval.TIME)  # fmt: skip
        for phase, when in (("systolic", "ED to ES"), ("early_diastolic", "ES to mid-diastole")):
            meaning = f"{phase.replace('_', '-').capitalize()} {direction} strain rate"
            formula = f"{_RATE} of the global strain, {when}"
            yield Column(f"{name}_{phase}_rate_per_s", "number", meaning, "1/s", formula, "", "", interval)


def _regional_strains() -> Iterator[Column]:
    for name, direction in STRAINS.items():
        for part, kind in (*((p, "transmural") for p in LAYERS), *((p, "longitudinal") for p in LEVELS)):
            meaning = f"Peak {direction} strain, {part} {kind} third"
            yield Column(f"{name}_{part}_peak_pct", "number", meaning, "%", f"{_E}; {_PEAK}", _green_lagrange(name))


def _line_strains() -> Iterator[Column]:
    for contour, field in (("endo", ""), ("mid", "24157"), ("epi", "")):
        yield Column(
            f"gcs_line_{contour}_peak_pct",
            "number",
            f"Peak circumferential engineering strain of the {contour} contours",
            "%",
            f"100 x (length / length at ED - 1), summed over all slices with a closed wall; {_PEAK}",
            _ENGINEERING,
            field,
        )
    yield Column(
        "grs_line_peak_pct",
        "number",
        "Peak global radial engineering strain",
        "%",
        f"100 x (mean over the wall at ED of |F n| - 1); {_PEAK}",
        _ENGINEERING,
        "24174",
    )


_TWIST = "apical - basal rotation"


def _rotations() -> Iterator[Column]:
    for name, meaning, unit, formula in (
        ("basal_rotation_deg", "Peak rotation of the basal third", "degrees", _ROTATION),
        ("apical_rotation_deg", "Peak rotation of the apical third", "degrees", _ROTATION),
        ("twist_deg", "Peak twist", "degrees", _TWIST),
        ("twist_es_deg", "Twist at ES", "degrees", _TWIST),
        ("torsion_deg_per_cm", "Peak torsion", "degrees/cm", "twist / distance between the thirds' centres at ED"),
    ):
        yield Column(name, "number", meaning, unit, formula, _FROM_TRAINING)


def _rates() -> Iterator[Column]:
    for name in ("lv", "rv"):
        volume = f"{name.upper()} volume"
        yield Column(f"{name}_peak_ejection_rate_ml_s", "number", f"{name.upper()} peak ejection rate", "mL/s",
                     f"{_RATE} of the {volume}, ED to ES")  # fmt: skip
        yield Column(f"{name}_peak_filling_rate_ml_s", "number", f"{name.upper()} early peak filling rate", "mL/s",
                     f"{_RATE} of the {volume}, ES to mid-diastole")  # fmt: skip


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
    *_line_strains(),
    *_rotations(),
    Column(
        "dyssynchrony_ms",
        "number",
        "Standard deviation of the segments' times to peak circumferential strain",
        "ms",
        "SD over AHA segments, at least 12 of them",
    ),
    *_thicknesses("24140"),
)
"""Of a case."""

MECHANICS_OF_FRAMES = (
    *(
        Column(f"{name}_pct", "number", f"Global {direction} strain", "%", _E, _green_lagrange(name))
        for name, direction in STRAINS.items()
    ),
    Column("basal_rotation_deg", "number", "Rotation of the basal third", "degrees", _ROTATION, _FROM_TRAINING),
    Column("apical_rotation_deg", "number", "Rotation of the apical third", "degrees", _ROTATION, _FROM_TRAINING),
    Column("twist_deg", "number", "Twist", "degrees", _TWIST, _FROM_TRAINING),
)
"""Of a case and frame."""


def _segment_strains() -> Iterator[Column]:
    for name, direction in SEGMENT_STRAINS.items():
        yield Column(f"{name}_peak_pct", "number", f"Peak {direction} strain", "%", f"{_E}; {_PEAK}",
                     _green_lagrange(name), "", Interval.UNBOUNDED)  # fmt: skip
        yield Column(f"time_to_peak_{name}_ms", "number", f"Time from ED to peak {direction} strain", "ms", _PEAK, "",
                     "", Interval.TIME)  # fmt: skip
    for name, direction, fields in (("ecc", "circumferential", "24141-24156"), ("err", "radial", "24158-24173")):
        yield Column(f"{name}_line_peak_pct", "number", f"Peak {direction} engineering strain", "%",
                     f"100 x (mean over the segment at ED of |F n| - 1); {_PEAK}", _ENGINEERING, fields)  # fmt: skip


SEGMENTS = (
    Column("segment", "integer", "AHA segment, 1 to 16", "", "", "Cerqueira et al. 2002"),
    *_segment_strains(),
    Column("ecc_curve_pct", "curve", "Circumferential strain of every frame, from frame 0", "%", _E, "Green-Lagrange"),
    *_thicknesses("24124-24139"),
    Column("qc_flags", "text_list", "The reason of each value that is null"),
)
"""Of a case and AHA segment. A range of UK Biobank fields holds one field per segment, in their order."""

BULLSEYE = (
    Column("level", "integer", "Longitudinal sixth, from 0 at the base"),
    Column("sector", "integer", "15° sector, from 0 at the anterior RV insertion over the septum"),
    Column("layer", "integer", "Transmural third, from 0 at the endocardium"),
    Column("longitudinal", "number", "Longitudinal coordinate of the bin's centre", "1",
           "0 at the base, 1 at the cavity's tip"),
    Column("circumferential_deg", "number", "Circumferential coordinate of the bin's centre", "degrees",
           "0 at the anterior RV insertion"),
    Column("transmural", "number", "Transmural coordinate of the bin's centre", "1", "0 endocardium, 1 epicardium"),
    Column("segment", "integer", "AHA segment that contains the bin", "", "", "Cerqueira et al. 2002"),
    Column("voxels", "integer", "Number of voxels of the wall at ED in the bin"),
    *(
        Column(f"{name}_es_pct", "number", f"{direction.capitalize()} strain at ES", "%",
               "100 x mean of n^T E n over voxels", "Green-Lagrange")
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
