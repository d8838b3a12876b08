"""The tables of a run: fixed, versioned schemas whose columns say what they are."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cmnet_cli.tables.columns.cohort import Z_SCORES
from cmnet_cli.tables.columns.column import Column, with_intervals
from cmnet_cli.tables.columns.mechanics import BULLSEYE, MECHANICS, MECHANICS_OF_FRAMES, SEGMENTS
from cmnet_core.io.atomic import replacing, write_json

__all__ = [
    "DECLARED",
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "has_this_schema",
    "read_rows",
    "schema_of",
    "to_json",
    "write_arrow",
    "write_data_dictionary",
    "write_table",
]

SCHEMA_VERSION = 3

_ARROW: Mapping[str, Any] = {
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
    "words": pa.list_(pa.string()),
    "flag": pa.bool_(),
    # One value a frame, in the order of the input.
    "curve": pa.list_(pa.float32()),
}


_WHO = (
    Column("case_id", "text", "Subject and visit: sub-<id> or sub-<id>_ses-<n>"),
    Column("subject_id", "text", "Subject, as in the manifest"),
    Column("session", "text", "Visit, as in the manifest"),
)

_GROUPING = (
    Column("group", "text", "Group, as in the manifest"),
    Column("site", "text", "Site, as in the manifest"),
    Column("scanner", "text", "Scanner, as in the manifest"),
    Column("sex", "text", "Sex, as in the manifest"),
    Column("age_years", "number", "Age", "years", "as in the manifest"),
    Column("height_cm", "number", "Height", "cm", "as in the manifest"),
    Column("weight_kg", "number", "Weight", "kg", "as in the manifest"),
)

_COUNTED = "voxels of the label at that frame x voxel volume, slice gap included"
_MASS = "myocardial volume at ED x 1.05 g/mL"
_BY_BSA = "divided by bsa_m2"
_MOSTELLER = "Mosteller 1987"
_DU_BOIS, _DU_BOIS_FORMULA = "Du Bois and Du Bois 1916", "0.007184 x height_cm^0.725 x weight_kg^0.425"

_INDICES = (
    *_WHO,
    *_GROUPING,
    Column("frames", "count", "Frames in the cycle"),
    Column("frame_ms", "number", "Time between two frames", "ms", "as in the manifest, else as in the header"),
    Column("heart_rate_bpm", "number", "Heart rate", "1/min", "as in the manifest, else 60000 / (frames x frame_ms)"),
    Column("ed_frame", "count", "End-diastolic frame, from 0"),
    Column("es_frame", "count", "End-systolic frame, from 0"),
    Column("lvedv_ml", "number", "LV end-diastolic volume", "mL", _COUNTED, "SegNet labels", "24100", interval=True),
    Column("lvesv_ml", "number", "LV end-systolic volume", "mL", _COUNTED, "SegNet labels", "24101", interval=True),
    Column("lvsv_ml", "number", "LV stroke volume", "mL", "lvedv_ml - lvesv_ml", "", "24102", interval=True),
    Column("lvef_pct", "number", "LV ejection fraction", "%", "100 x lvsv_ml / lvedv_ml", "", "24103", interval=True),
    Column("lvm_g", "number", "LV myocardial mass", "g", _MASS, "SegNet labels", "24105", interval=True),
    Column("rvedv_ml", "number", "RV end-diastolic volume", "mL", _COUNTED, "SegNet labels", "24106", interval=True),
    Column("rvesv_ml", "number", "RV end-systolic volume", "mL", _COUNTED, "SegNet labels", "24107", interval=True),
    Column("rvsv_ml", "number", "RV stroke volume", "mL", "rvedv_ml - rvesv_ml", "", "24108", interval=True),
    Column("rvef_pct", "number", "RV ejection fraction", "%", "100 x rvsv_ml / rvedv_ml", "", "24109", interval=True),
    Column(
        "cardiac_output_l_min", "number", "LV cardiac output", "L/min", "lvsv_ml x heart_rate_bpm / 1000", "", "24104"
    ),
    Column("bsa_m2", "number", "Body surface area", "m2", "sqrt(height_cm x weight_kg / 3600)", _MOSTELLER),
    Column("bsa_du_bois_m2", "number", "Body surface area, the other formula", "m2", _DU_BOIS_FORMULA, _DU_BOIS),
    Column("lvedv_index_ml_m2", "number", "LV end-diastolic volume index", "mL/m2", _BY_BSA),
    Column("lvesv_index_ml_m2", "number", "LV end-systolic volume index", "mL/m2", _BY_BSA),
    Column("lvsv_index_ml_m2", "number", "LV stroke volume index", "mL/m2", _BY_BSA),
    Column("lvm_index_g_m2", "number", "LV mass index", "g/m2", _BY_BSA),
    Column("rvedv_index_ml_m2", "number", "RV end-diastolic volume index", "mL/m2", _BY_BSA),
    Column("rvesv_index_ml_m2", "number", "RV end-systolic volume index", "mL/m2", _BY_BSA),
    Column("rvsv_index_ml_m2", "number", "RV stroke volume index", "mL/m2", _BY_BSA),
    *MECHANICS,
    *Z_SCORES,
    Column("qc_flags", "words", "Quality flags, and the reason of each value that is null"),
)

_MEAN_LENGTH, _LARGEST_LENGTH = "mean |u| over the voxels of the label at that frame", "max |u| there"
_ENTROPY = "mean of (3 log(2 pi e) + log det C) / 2"

_FRAMES = (
    *_WHO,
    Column("frame", "count", "Frame of the input, from 0"),
    Column("time_ms", "number", "Time since frame 0", "ms", "frame x frame_ms"),
    Column("lv_ml", "number", "LV blood volume", "mL", _COUNTED, "SegNet labels"),
    Column("myo_ml", "number", "LV myocardial volume", "mL", _COUNTED, "SegNet labels"),
    Column("rv_ml", "number", "RV blood volume", "mL", _COUNTED, "SegNet labels"),
    Column(
        "lv_propagated_ml", "number", "LV blood volume by motion", "mL", _COUNTED, "ED labels carried by the motion"
    ),
    Column("myo_propagated_ml", "number", "LV myocardial volume by motion", "mL", _COUNTED, "as above"),
    Column("rv_propagated_ml", "number", "RV blood volume by motion", "mL", _COUNTED, "as above"),
    Column("mean_displacement_lv_mm", "number", "Mean displacement from ED in the LV", "mm", _MEAN_LENGTH),
    Column("max_displacement_lv_mm", "number", "Largest displacement from ED there", "mm", _LARGEST_LENGTH),
    Column("mean_displacement_myo_mm", "number", "Mean displacement from ED in the myocardium", "mm", _MEAN_LENGTH),
    Column("max_displacement_myo_mm", "number", "Largest displacement from ED there", "mm", _LARGEST_LENGTH),
    Column("mean_displacement_rv_mm", "number", "Mean displacement from ED in the RV", "mm", _MEAN_LENGTH),
    Column("max_displacement_rv_mm", "number", "Largest displacement from ED there", "mm", _LARGEST_LENGTH),
    *MECHANICS_OF_FRAMES,
    Column("folded_voxels", "count", "Voxels with det F <= 0 in the motion from ED into this frame"),
    Column("entropy_lv_nats", "number", "Mean entropy of the motion's posterior in the LV", "nats", _ENTROPY),
    Column("entropy_myo_nats", "number", "The same in the myocardium", "nats", _ENTROPY),
    Column("entropy_rv_nats", "number", "The same in the RV", "nats", _ENTROPY),
    Column("entropy_outside_nats", "number", "The same outside the heart", "nats", _ENTROPY),
)

_MOTION = (
    *_WHO,
    Column("ed_frame", "count", "End-diastolic frame, from 0"),
    Column("es_frame", "count", "End-systolic frame, from 0"),
    Column(
        "mean_displacement_es_myo_mm",
        "number",
        "Mean displacement of the myocardium from ED to ES",
        "mm",
        _MEAN_LENGTH,
    ),
    Column(
        "max_displacement_es_myo_mm",
        "number",
        "Largest displacement of the myocardium from ED to ES",
        "mm",
        _LARGEST_LENGTH,
    ),
    Column(
        "myo_volume_change_pct",
        "number",
        "Myocardial volume at ES by motion against ED",
        "%",
        "100 x (ES - ED) / ED, of the propagated labels",
    ),
    Column(
        "myo_volume_change_largest_pct",
        "number",
        "Largest change of the myocardial volume by motion over the cycle",
        "%",
        "max |frame - ED| / ED x 100, of the propagated labels; muscle is nearly incompressible",
    ),
    Column(
        "bending_energy_per_mm2",
        "number",
        "How far the motion from ED to ES is from smooth",
        "1/mm2",
        "mean over the heart and 18 mm around it of the squared second derivatives of u; 0 for any affine motion",
        "Rueckert et al. 1999",
    ),
    Column("folded_voxels", "count", "Voxels with det F <= 0 in the motion from ED to ES"),
    Column(
        "cycle_consistency_error_mm",
        "number",
        "Drift over the cycle, in the heart",
        "mm",
        "mean |u| of all steps composed",
    ),
    Column("entropy_heart_nats", "number", "Mean entropy of the motion's posterior in the heart", "nats", _ENTROPY),
    Column("entropy_outside_nats", "number", "The same outside the heart", "nats", _ENTROPY),
    Column("qc_flags", "words", "Quality flags, and the reason of each value that is null"),
)

_SEGMENTS = (*_WHO, *SEGMENTS)

_BULLSEYE = (*_WHO, *BULLSEYE)

_STATUS = (
    *_WHO,
    Column("stage", "text", "The stage that the row tells of, the latest one"),
    Column("state", "text", "done, pending, stale or failed"),
    Column("reason", "text", "Why it is not done"),
    Column("error_code", "text", "One of the documented codes"),
    Column("message", "text", "What was expected and what was found"),
    Column("hint", "text", "What to do about it"),
    Column("log", "text", "The file in logs/ that holds the traceback, by the subject's pseudonym"),
    Column("attempt", "count", "How often the stage has been tried"),
    Column("seconds_preprocess", "number", "Wall time of the last preprocess", "s", "end - start"),
    Column("seconds_infer", "number", "Wall time of the last infer", "s", "end - start"),
    Column("seconds_indices", "number", "Wall time of the last indices", "s", "end - start"),
    Column("host", "text", "Machine of the last attempt"),
    Column("peak_memory_mb", "number", "Largest memory of the process so far", "MB", "ru_maxrss"),
)

_FIGURE = "ed-to-es, es-to-ed, at-ed, at-es, or pooled over both phases"
_METHOD = "cardiomorphnet, no-motion (the mask left where it is) or segnet"

_EVALUATION = (
    *_WHO,
    Column("group", "text", "Group, as in the manifest"),
    Column("method", "text", _METHOD),
    Column("figure", "text", _FIGURE),
    Column("structure", "text", "lv, myo or rv"),
    Column(
        "dsc_pct", "number", "Dice similarity", "%", "100 x 2|A and B| / (|A| + |B|); pooled: voxels of both phases"
    ),
    Column("jac_pct", "number", "Jaccard index", "%", "100 x |A and B| / |A or B|; pooled: all voxels of both"),
    Column("hd95_mm", "number", "Symmetric Hausdorff distance, 95th percentile", "mm", "pooled: mean of both phases"),
    Column("msd_mm", "number", "Symmetric mean surface distance", "mm", "pooled: mean of both phases"),
    Column("failure", "text", "Why there is no distance: empty-prediction or empty-reference"),
)

_FOLDING = (
    *_WHO,
    Column("group", "text", "Group, as in the manifest"),
    Column("figure", "text", "ed-to-es or es-to-ed: the composed motion between the phases"),
    Column("njd_field", "count", "Voxels with det F <= 0 in the whole window"),
    Column("njd_field_pct", "number", "Their share of the window", "%", "100 x njd_field / voxels"),
    Column("njd_heart", "count", "Voxels with det F <= 0 within the heart: the reference mask and a margin around it"),
    Column("njd_heart_pct", "number", "Their share of that region", "%", "100 x njd_heart / voxels"),
)

_UNIT_OF_INDEX = "that of the index"

_AGREEMENT = (
    *_WHO,
    Column("group", "text", "Group, as in the manifest"),
    Column("index", "text", "A clinical index, as a column of the table indices"),
    Column("estimate", "number", "From SegNet's labels", _UNIT_OF_INDEX, "as the index"),
    Column("reference", "number", "From the reference masks", _UNIT_OF_INDEX, "as the index"),
)

_EVALUATION_SUMMARY = (
    Column("group", "text", "Group, or all"),
    Column("method", "text", _METHOD),
    Column("figure", "text", _FIGURE),
    Column("structure", "text", "lv, myo or rv"),
    Column("n", "count", "Subjects"),
    Column("failures", "count", "Subjects whose prediction is empty; they have no distance"),
    Column("dsc_mean_pct", "number", "Mean Dice similarity", "%", "mean over subjects"),
    Column("dsc_sd_pct", "number", "Its standard deviation", "%", "SD over subjects, n - 1"),
    Column("dsc_median_pct", "number", "Its median", "%", "median over subjects"),
    Column("jac_mean_pct", "number", "Mean Jaccard index", "%", "mean over subjects"),
    Column("jac_median_pct", "number", "Its median", "%", "median over subjects"),
    Column("hd95_mean_mm", "number", "Mean 95th percentile Hausdorff distance", "mm", "mean over subjects"),
    Column("hd95_sd_mm", "number", "Its standard deviation", "mm", "SD over subjects, n - 1"),
    Column("hd95_median_mm", "number", "Its median", "mm", "median over subjects"),
    Column("msd_mean_mm", "number", "Mean of the mean surface distances", "mm", "mean over subjects"),
    Column("msd_median_mm", "number", "Its median", "mm", "median over subjects"),
)

EVALUATED = {
    f"{name}_{figure}": (method, figure.replace("_", "-"))
    for name, method, figures in (
        ("motion", "cardiomorphnet", ("ed_to_es", "es_to_ed", "pooled")),
        ("segnet", "segnet", ("at_ed", "at_es", "pooled")),
    )
    for figure in figures
}
"""What a subject's row of an evaluation holds: the start of its columns, with the method and figure behind it."""

_EVALUATION_SUBJECTS = (
    *_WHO,
    Column("group", "text", "Group, as in the manifest"),
    *(
        Column(f"{start}_{structure}_{ending}", "number", f"{told}: {method}, {figure}, {structure}", unit, formula)
        for start, (method, figure) in EVALUATED.items()
        for ending, told, unit, formula in (
            ("dsc_pct", "Dice similarity", "%", "2 |A and B| / (|A| + |B|)"),
            ("hd95_mm", "95th percentile distance", "mm", "larger of both directions' 95th percentiles"),
        )
        for structure in ("lv", "myo", "rv")
    ),
    Column(
        "failures",
        "count",
        "Empty predictions of a structure at ED and ES, by motion and SegNet; no distances",
    ),
    Column("njd_field_ed_to_es", "count", "Voxels with det F <= 0 in the whole window, ED to ES"),
    Column("njd_heart_ed_to_es", "count", "The same within the heart"),
    Column("njd_field_es_to_ed", "count", "Voxels with det F <= 0 in the whole window, ES to ED"),
    Column("njd_heart_es_to_ed", "count", "The same within the heart"),
    Column(
        "cycle_consistency_error_mm",
        "number",
        "Mean displacement in the heart after one whole cycle",
        "mm",
        "mean of |u|",
    ),
    Column(
        "entropy_heart_nats",
        "number",
        "Mean entropy of the motion's posterior in the reference masks",
        "nats",
        "mean over voxels",
    ),
    Column("entropy_background_nats", "number", "The same in the rest of the window", "nats", "mean over voxels"),
    Column(
        "entropy_auroc",
        "number",
        "How often a background voxel's entropy exceeds a heart voxel's, at ED and ES",
        "1",
        "Mann-Whitney U / n m",
    ),
)

_UNIT_OF_QUANTITY = "that of the quantity"

_EVALUATION_QUANTITIES = (
    Column("group", "text", "Group, or all"),
    Column("quantity", "text", "A column of evaluation_subjects, with its unit"),
    Column("n", "count", "Subjects that have it"),
    Column("mean", "number", "Mean over subjects", _UNIT_OF_QUANTITY, "mean over subjects"),
    Column("sd", "number", "Standard deviation", _UNIT_OF_QUANTITY, "SD over subjects, n - 1"),
    Column("median", "number", "Median", _UNIT_OF_QUANTITY, "median over subjects"),
    Column("lowest", "number", "Smallest value", _UNIT_OF_QUANTITY, "smallest over subjects"),
    Column("highest", "number", "Largest value", _UNIT_OF_QUANTITY, "largest over subjects"),
)

_HOLM = "Holm 1979, over all tests of the group"
_STEP_DOWN = "(tests left) x p, never falling, at most 1"

_EVALUATION_TESTS = (
    Column("group", "text", "Group, or all"),
    Column("target", "text", "What both methods are compared with: the reference at es, at ed, or both pooled"),
    Column("structure", "text", "lv, myo or rv"),
    Column("metric", "text", "dsc_pct or hd95_mm"),
    Column("first", "text", "A method"),
    Column("second", "text", "Another method"),
    Column("n", "count", "Subjects with both values"),
    Column(
        "mean_difference", "number", "Mean difference of both methods", "that of the metric", "mean of first - second"
    ),
    Column("t_test_p", "number", "Two-sided p of the paired t-test", "1", "t = mean / (SD / sqrt n)"),
    Column("t_test_p_holm", "number", "The same, adjusted", "1", _STEP_DOWN, _HOLM),
    Column("wilcoxon_p", "number", "Two-sided p of the Wilcoxon signed-rank test", "1", "sum of signed ranks"),
    Column("wilcoxon_p_holm", "number", "The same, adjusted", "1", _STEP_DOWN, _HOLM),
)

_LIMITS = (
    Column("n", "count", "Subjects with both values"),
    Column(
        "bias", "number", "Mean difference", _UNIT_OF_INDEX, "mean of estimate - reference", "Bland and Altman 1986"
    ),
    Column("lower", "number", "Lower limit of agreement", _UNIT_OF_INDEX, "bias - 1.96 SD", "Bland and Altman 1986"),
    Column("upper", "number", "Upper limit of agreement", _UNIT_OF_INDEX, "bias + 1.96 SD", "Bland and Altman 1986"),
    Column("rmse", "number", "Root of the mean squared difference", _UNIT_OF_INDEX, "sqrt(mean difference^2)"),
    Column("r", "number", "Pearson's correlation", "1", "covariance / (SD x SD)"),
)

_AGREEMENT_SUMMARY = (
    Column("group", "text", "Group, or all"),
    Column("index", "text", "A clinical index, as a column of the table indices"),
    *_LIMITS,
)

_COMPARISON = (
    Column("index", "text", "A column of the table indices"),
    Column("against", "text", "The column of the outside table that it is held against"),
    Column("unreadable", "count", "Cells of that column that hold something, but no number"),
    *_LIMITS,
)

DECLARED: Mapping[str, tuple[Column, ...]] = {
    "indices": _INDICES,
    "frames": _FRAMES,
    "segments": _SEGMENTS,
    "motion": _MOTION,
    "bullseye": _BULLSEYE,
    "status": _STATUS,
    "evaluation": _EVALUATION,
    "folding": _FOLDING,
    "agreement": _AGREEMENT,
    "evaluation_subjects": _EVALUATION_SUBJECTS,
    "evaluation_summary": _EVALUATION_SUMMARY,
    "evaluation_quantities": _EVALUATION_QUANTITIES,
    "evaluation_tests": _EVALUATION_TESTS,
    "agreement_summary": _AGREEMENT_SUMMARY,
    "comparison": _COMPARISON,
}

TABLES: Mapping[str, tuple[Column, ...]] = {name: with_intervals(columns) for name, columns in DECLARED.items()}
"""Every column of every table, those of intervals included."""


def schema_of(table: str, *, extra: Sequence[str] = ()) -> Any:
    """The Arrow schema of a table.

    Args:
        table: Its name in a run folder.
        extra: Columns of the manifest that are carried through as text.
    """
    columns = [*TABLES[table], *(Column(name, "text", "Carried through from the manifest") for name in extra)]
    fields = [pa.field(column.name, _ARROW[column.kind], metadata=_describe(column)) for column in columns]
    return pa.schema(fields, metadata={"cmnet_table": table, "cmnet_schema_version": str(SCHEMA_VERSION)})


def _describe(column: Column) -> dict[str, str]:
    told = {
        "meaning": column.meaning,
        "unit": column.unit,
        "formula": column.formula,
        "source": column.source,
        "ukb_field": column.ukb_field,
    }
    return {name: text for name, text in told.items() if text}


def write_table(path: Path, table: str, rows: Iterable[Mapping[str, Any]], *, extra: Sequence[str] = ()) -> None:
    """Write a whole table under its final name, or nothing.

    Args:
        path: Where it goes.
        table: Which schema it has.
        rows: One mapping a row; a column that a row lacks is null.
        extra: Columns of the manifest to carry through.

    Raises:
        ValueError: A row holds a column that the schema does not know.
    """
    write_arrow(path, to_arrow(table, rows, extra=extra))


def to_arrow(table: str, rows: Iterable[Mapping[str, Any]], *, extra: Sequence[str] = ()) -> Any:
    """Rows as an Arrow table of their schema.

    Raises:
        ValueError: A row holds a column that the schema does not know; pyarrow would drop it without a word.
    """
    schema = schema_of(table, extra=extra)
    listed = list(rows)
    unknown = {name for row in listed for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"The table {table} has no column {sorted(unknown)}.")
    return pa.Table.from_pylist(listed, schema=schema)


def write_arrow(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet, whole or not at all."""
    with replacing(path) as partial:
        pq.write_table(table, partial)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, each a plain mapping."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def has_this_schema(path: Path) -> bool:
    """Whether a table was written with today's version of the schemas."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return metadata.get(b"cmnet_schema_version") == str(SCHEMA_VERSION).encode()


def write_data_dictionary(path: Path) -> None:
    """Write unit, formula and source of every column of every table."""
    dictionary = {
        name: {column.name: {"type": column.kind, **_describe(column)} for column in columns}
        for name, columns in TABLES.items()
    }
    write_json(path, {"schema_version": SCHEMA_VERSION, "tables": dictionary})


def to_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON, for scripts; a line each, since with indents Python writes JSON several times as slowly."""
    lines = (json.dumps(dict(row), default=str, allow_nan=False) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]"
