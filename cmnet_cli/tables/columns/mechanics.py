"""Columns about the LV's wall: strain, rotation, thickness, and how fast the ventricles empty and fill."""

from collections.abc import Iterator

from cmnet_cli.tables.columns.column import Column

LAYERS = ("endo", "midwall", "epi")
"""Thirds of the depth, in the order of the arrays."""

LEVELS = ("basal", "mid", "apical")
"""Thirds of the length, in the order of the arrays."""

STRAINS = {"grs": "radial", "gcs": "circumferential", "gls_sax": "longitudinal"}
"""Global strains, in the order of the arrays."""

SEGMENT_STRAINS = {"err": "radial", "ecc": "circumferential", "ell": "longitudinal"}
"""Their names in a segment, likewise."""

_E = "mean over the wall at ED of n^T E n, E = (F^T F - I) / 2"
_LONG = {"gls_sax": "; along a stack of thick slices, hence SAX", "ell": "; along a stack of thick slices"}
_PEAK = "extreme in the direction of contraction, between ED and mid-diastole, of a local quadratic"
_ENGINEERING = "engineering strain, length / length at ED - 1: what is measured on tracked contours"
_RATE = "steepest slope of a local quadratic"
_TURN = "least-squares rotation of each slice's wall about its own centre, counter-clockwise seen from the apex"
_FROM_TRAINING = "no mask shows it: see the flag twist-not-constrained-by-masks"
_THICKNESS = "distances to endocardial and epicardial contour added, within the slices; mean over the wall's length"


def _global_strains() -> Iterator[Column]:
    for name, direction in STRAINS.items():
        what = f"global {direction} strain"
        note = f"Green-Lagrange{_LONG.get(name, '')}"
        yield Column(f"{name}_peak_pct", "number", f"Peak {what}", "%", f"{_E}; {_PEAK}", note, interval=True)
        yield Column(f"{name}_es_pct", "number", f"The same at ES: {what}", "%", _E, note, interval=True)
        yield Column(f"time_to_peak_{name}_ms", "number", f"Time from ED to peak {what}", "ms", _PEAK, interval=True)
        for phase, when in (("systolic", "ED to ES"), ("early_diastolic", "back, ES to mid-diastole")):
            meaning = f"{phase.replace('_', '-').capitalize()} rate of {what}"
            formula = f"{_RATE}, {when}"
            yield Column(f"{name}_{phase}_rate_per_s", "number", meaning, "1/s", formula, interval=True)


def _regional_strains() -> Iterator[Column]:
    for name, direction in STRAINS.items():
        for part, where in (*((p, f"{p} third of the depth") for p in LAYERS), *((p, f"{p} third") for p in LEVELS)):
            yield Column(
                f"{name}_{part}_peak_pct", "number", f"Peak {direction} strain, {where}", "%", f"{_E}; {_PEAK}"
            )


def _line_strains() -> Iterator[Column]:
    for contour, field in (("endo", ""), ("mid", "24157"), ("epi", "")):
        yield Column(
            f"gcs_line_{contour}_peak_pct",
            "number",
            f"Peak change of length of the {contour} contours",
            "%",
            "100 x (length / length at ED - 1), all closed slices together; extreme as above",
            _ENGINEERING,
            field,
        )
    yield Column(
        "grs_line_peak_pct",
        "number",
        "Peak radial change of length",
        "%",
        "mean over the wall at ED of |F n| - 1; extreme as above",
        _ENGINEERING,
        "24174",
    )


def _rotations() -> Iterator[Column]:
    told = {
        "basal_rotation_deg": ("Peak rotation of the basal third", "degrees", _TURN),
        "apical_rotation_deg": ("Peak rotation of the apical third", "degrees", _TURN),
        "twist_deg": ("Peak twist", "degrees", "apical less basal rotation"),
        "twist_es_deg": ("Twist at ES", "degrees", "apical less basal rotation"),
        "torsion_deg_per_cm": ("Peak torsion", "degrees/cm", "twist / distance between the thirds' middles at ED"),
    }
    for name, (meaning, unit, formula) in told.items():
        yield Column(name, "number", meaning, unit, formula, _FROM_TRAINING)


def _rates() -> Iterator[Column]:
    for name in ("lv", "rv"):
        what = f"{name.upper()} volume"
        yield Column(
            f"{name}_peak_ejection_rate_ml_s", "number", f"Steepest fall of {what}", "mL/s", f"{_RATE}, ED to ES"
        )
        yield Column(
            f"{name}_peak_filling_rate_ml_s",
            "number",
            f"Steepest rise of {what}, before the atrial kick",
            "mL/s",
            f"{_RATE}, ES to mid-diastole",
        )


def _thicknesses(field: str) -> Iterator[Column]:
    yield Column("wall_thickness_ed_mm", "number", "Wall thickness at ED", "mm", _THICKNESS, "", field, interval=True)
    yield Column("wall_thickness_es_mm", "number", "Wall thickness at ES", "mm", _THICKNESS, interval=True)
    yield Column("wall_thickening_pct", "number", "Systolic thickening", "%", "100 x (ES - ED) / ED", interval=True)


MECHANICS = (
    *_rates(),
    *_global_strains(),
    *_regional_strains(),
    *_line_strains(),
    *_rotations(),
    Column(
        "dyssynchrony_ms",
        "number",
        "Spread of the segments' times to peak circumferential strain",
        "ms",
        "SD over AHA segments, 12 or more of them",
    ),
    *_thicknesses("24140"),
)
"""Of a case."""

MECHANICS_OF_FRAMES = (
    *(
        Column(f"{name}_pct", "number", f"Global {direction} strain", "%", _E, f"Green-Lagrange{_LONG.get(name, '')}")
        for name, direction in STRAINS.items()
    ),
    Column("basal_rotation_deg", "number", "Rotation of the basal third", "degrees", _TURN, _FROM_TRAINING),
    Column("apical_rotation_deg", "number", "Rotation of the apical third", "degrees", _TURN, _FROM_TRAINING),
    Column("twist_deg", "number", "Twist", "degrees", "apical less basal rotation", _FROM_TRAINING),
)
"""Of a case and frame."""


def _segment_strains() -> Iterator[Column]:
    for name, direction in SEGMENT_STRAINS.items():
        note = f"Green-Lagrange{_LONG.get(name, '')}"
        formula = f"{_E}; {_PEAK}"
        yield Column(f"{name}_peak_pct", "number", f"Peak {direction} strain", "%", formula, note, interval=True)
        yield Column(
            f"time_to_peak_{name}_ms", "number", f"Time from ED to peak {direction} strain", "ms", _PEAK, interval=True
        )
    for name, direction, fields in (
        ("ecc", "circumferential", "24141-24156"),
        ("err", "radial", "24158-24173"),
    ):
        yield Column(
            f"{name}_line_peak_pct",
            "number",
            f"Peak {direction} change of length",
            "%",
            "mean over the segment at ED of |F n| - 1; extreme as above",
            _ENGINEERING,
            fields,
        )


SEGMENTS = (
    Column("segment", "count", "AHA segment, 1 to 16", "", "", "Cerqueira et al. 2002"),
    *_segment_strains(),
    Column("ecc_curve_pct", "curve", "Circumferential strain at every frame, from frame 0", "%", _E, "Green-Lagrange"),
    *_thicknesses("24124-24139"),
    Column("qc_flags", "words", "The reason of each value that is null"),
)
"""Of a case and AHA segment. A range of UK Biobank fields holds one a segment, in their order."""

BULLSEYE = (
    Column("level", "count", "Sixth of the length, from 0 at the base"),
    Column("sector", "count", "15° around, from 0 at the anterior RV insertion over the septum"),
    Column("layer", "count", "Third of the depth, from 0 at the endocardium"),
    Column("longitudinal", "number", "Middle of the bin along the LV", "1", "0 at the base, 1 at the cavity's tip"),
    Column(
        "circumferential_deg", "number", "Middle of the bin around the LV", "degrees", "0 at the anterior insertion"
    ),
    Column("transmural", "number", "Middle of the bin through the wall", "1", "0 endocardium, 1 epicardium"),
    Column("segment", "count", "AHA segment that the bin is part of", "", "", "Cerqueira et al. 2002"),
    Column("voxels", "count", "Voxels of the wall at ED in the bin"),
    *(
        Column(f"{name}_es_pct", "number", f"{direction.capitalize()} strain at ES", "%", "mean of n^T E n over voxels")
        for name, direction in SEGMENT_STRAINS.items()
    ),
    *(
        Column(f"{direction}_mm", "number", f"{what} from ED to ES", "mm", "mean of u · n over voxels, n at ED")
        for direction, what in (
            ("outward", "Displacement away from the long axis"),
            ("around", "Displacement around it, in the sense of circumferential_deg"),
            ("towards_apex", "Displacement along it, towards the apex"),
        )
    ),
    Column("wall_thickness_ed_mm", "number", "Wall thickness at ED", "mm", "mean over voxels"),
)
"""Of a case and bin of the space that all hearts share."""
