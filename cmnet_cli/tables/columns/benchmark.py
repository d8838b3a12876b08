"""Columns of the benchmark of several methods."""

from cmnet_cli.tables.columns.case import GROUP, IDENTITY
from cmnet_cli.tables.columns.column import Column

_METHOD = Column("method", "text", "Name of the method; none: no motion; truth: the true motion of a simulated cine")
_NJD = "voxels with det F <= 0, on the window's grid"
_SDLOGJ = "SD over the window of log det F, with det F >= 0.001"
_ENDPOINT = "mean |u - u_true| over the voxels of the reference mask of the fixed frame"
_STRAIN = "mean |E - E_true| over the voxels of the myocardium at ED; in-plane, about the cavity's centre in each slice"

MOTIONS = (
    *IDENTITY,
    GROUP,
    _METHOD,
    Column("njd_field_ed_to_es", "integer", "Folded voxels of the field at ES that points to ED", "", _NJD),
    Column("njd_field_es_to_ed", "integer", "Folded voxels of the field at ED that points to ES", "", _NJD),
    Column("njd_heart_ed_to_es", "integer", "Folded voxels within the ES mask and 10 mm around it", "", _NJD),
    Column("njd_heart_es_to_ed", "integer", "Folded voxels within the ED mask and 10 mm around it", "", _NJD),
    Column("sd_log_j_ed_to_es", "number", "SDlogJ of the field at ES that points to ED", "1", _SDLOGJ),
    Column("sd_log_j_es_to_ed", "number", "SDlogJ of the field at ED that points to ES", "1", _SDLOGJ),
    Column("endpoint_ed_to_es_mm", "number", "Endpoint error of the field at ES, in the heart", "mm", _ENDPOINT),
    Column("endpoint_es_to_ed_mm", "number", "Endpoint error of the field at ED, in the heart", "mm", _ENDPOINT),
    Column("endpoint_myo_mm", "number", "Endpoint error of the field at ED, in the myocardium", "mm", _ENDPOINT),
    Column("err_error_pct", "number", "Error of the radial Green-Lagrange strain at ES", "%", _STRAIN),
    Column("ecc_error_pct", "number", "Error of the circumferential Green-Lagrange strain at ES", "%", _STRAIN),
    Column("cpu_s", "number", "CPU time of one frame pair", "s", "of all threads, without preprocessing"),
    Column("peak_mb", "number", "Largest additional memory", "MB", "peak while the motion is estimated - before"),
)  # fmt: skip
"""One row per case and method."""

METHODS = (
    _METHOD,
    Column("n", "integer", "Number of cases with a result"),
    Column("failed", "integer", "Number of cases without a result"),
    Column("message", "text", "Why there is no result: what to install, or the first error"),
    Column("njd_field_mean", "number", "Mean number of folded voxels", "voxels", "mean over directions and cases"),
    Column("njd_heart_mean", "number", "The same in the heart and 10 mm around it", "voxels", "as njd_field_mean"),
    Column("sd_log_j_mean", "number", "Mean SDlogJ", "1", "as njd_field_mean"),
    Column("endpoint_mean_mm", "number", "Mean endpoint error in the heart", "mm", "as njd_field_mean"),
    Column("endpoint_myo_mean_mm", "number", "Mean endpoint error in the myocardium at ED", "mm", "mean over cases"),
    Column("err_error_mean_pct", "number", "Mean error of the radial strain", "%", "mean over cases"),
    Column("ecc_error_mean_pct", "number", "Mean error of the circumferential strain", "%", "mean over cases"),
    Column("cpu_mean_s", "number", "Mean CPU time of one frame pair", "s", "mean over cases"),
    Column("peak_mean_mb", "number", "Mean of the largest additional memory", "MB", "mean over cases"),
)  # fmt: skip
"""One row per method."""
