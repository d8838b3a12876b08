"""Columns of a case: identity, ventricular function, volumes and displacement per frame, motion, processing status."""

from collections.abc import Iterator

from cmnet_cli.tables.columns.column import Column, Interval
from cmnet_cli.tables.columns.mechanics import MECHANICS, MECHANICS_OF_FRAMES
from cmnet_cli.tables.columns.reference import Z_SCORES

IDENTITY = (
    Column("case_id", "text", "Subject and visit: sub-<id> or sub-<id>_ses-<n>"),
    Column("subject_id", "text", "Subject, as in the manifest"),
    Column("session", "text", "Visit, as in the manifest"),
)

GROUP = Column("group", "text", "Group, as in the manifest")

_DEMOGRAPHICS = (
    GROUP,
    Column("site", "text", "Site, as in the manifest"),
    Column("scanner", "text", "Scanner, as in the manifest"),
    Column("sex", "text", "Sex, as in the manifest"),
    Column("age_years", "number", "Age", "years", "as in the manifest"),
    Column("height_cm", "number", "Height", "cm", "as in the manifest"),
    Column("weight_kg", "number", "Weight", "kg", "as in the manifest"),
)

ED_FRAME = Column("ed_frame", "integer", "End-diastolic frame, from 0")
ES_FRAME = Column("es_frame", "integer", "End-systolic frame, from 0")

_VOXELS = "number of voxels of the label at that frame x voxel volume, slice gap included"
_SEGNET = "SegNet labels"
_PROPAGATED = "SegNet's ED labels propagated by the displacement field"


def _ventricle(name: str, fields: tuple[str, str, str, str]) -> Iterator[Column]:
    """Volumes and ejection fraction of one ventricle, with their UK Biobank fields."""
    edv, esv, sv, ef = fields
    volume, lower = Interval.NON_NEGATIVE, name.lower()
    yield Column(f"{lower}edv_ml", "number", f"{name} end-diastolic volume", "mL", _VOXELS, _SEGNET, edv, volume)
    yield Column(f"{lower}esv_ml", "number", f"{name} end-systolic volume", "mL", _VOXELS, _SEGNET, esv, volume)
    yield Column(f"{lower}sv_ml", "number", f"{name} stroke volume", "mL", f"{lower}edv_ml - {lower}esv_ml", "", sv,
                 Interval.UNBOUNDED)  # fmt: skip
    yield Column(f"{lower}ef_pct", "number", f"{name} ejection fraction", "%",
                 f"100 x {lower}sv_ml / {lower}edv_ml", "", ef, Interval.UNBOUNDED)  # fmt: skip


CORRECTION = (
    Column("corrected_frames", "text", "Frames whose masks were edited, from 0; null where the masks are automatic"),
    Column("corrected_mask_date", "text", "When the latest of these masks was edited, UTC"),
    Column("corrected_mask_sha256", "text", "SHA-256 digest of these masks"),
)


def _indexed(name: str, meaning: str, quantity: str, unit: str) -> Column:
    return Column(name, "number", f"{meaning} index", unit, f"{quantity} / bsa_m2", scaled_from=quantity)


INDICES = (
    *IDENTITY,
    *_DEMOGRAPHICS,
    Column("verdict", "text", "Verdict of a reader: accept, correct or exclude; null without one", "", "",
           "verdicts.csv of the run"),
    Column("frames", "integer", "Number of frames in the cardiac cycle"),
    Column("frame_ms", "number", "Time between two frames", "ms", "as in the manifest, else as in the header"),
    Column("heart_rate_bpm", "number", "Heart rate", "1/min", "as in the manifest, else 60000 / (frames x frame_ms)"),
    ED_FRAME,
    ES_FRAME,
    *_ventricle("LV", ("24100", "24101", "24102", "24103")),
    Column("lvm_g", "number", "LV myocardial mass", "g", "myocardial volume at ED x 1.05 g/mL", _SEGNET, "24105",
           Interval.NON_NEGATIVE),
    *_ventricle("RV", ("24106", "24107", "24108", "24109")),
    Column("cardiac_output_l_min", "number", "LV cardiac output", "L/min", "lvsv_ml x heart_rate_bpm / 1000", "",
           "24104", scaled_from="lvsv_ml"),
    Column("bsa_m2", "number", "Body surface area, Mosteller", "m2", "sqrt(height_cm x weight_kg / 3600)",
           "Mosteller 1987"),
    Column("bsa_du_bois_m2", "number", "Body surface area, Du Bois", "m2",
           "0.007184 x height_cm^0.725 x weight_kg^0.425", "Du Bois and Du Bois 1916"),
    _indexed("lvedv_index_ml_m2", "LV end-diastolic volume", "lvedv_ml", "mL/m2"),
    _indexed("lvesv_index_ml_m2", "LV end-systolic volume", "lvesv_ml", "mL/m2"),
    _indexed("lvsv_index_ml_m2", "LV stroke volume", "lvsv_ml", "mL/m2"),
    _indexed("lvm_index_g_m2", "LV mass", "lvm_g", "g/m2"),
    _indexed("rvedv_index_ml_m2", "RV end-diastolic volume", "rvedv_ml", "mL/m2"),
    _indexed("rvesv_index_ml_m2", "RV end-systolic volume", "rvesv_ml", "mL/m2"),
    _indexed("rvsv_index_ml_m2", "RV stroke volume", "rvsv_ml", "mL/m2"),
    Column("sv_difference_ml", "number", "RV minus LV stroke volume", "mL", "rvsv_ml - lvsv_ml",
           "0 without valve disease and shunts", "", Interval.UNBOUNDED),
    Column("sv_difference_pct", "number", "RV minus LV stroke volume, by the larger of both", "%",
           "100 x (rvsv_ml - lvsv_ml) / max(rvsv_ml, lvsv_ml)", "", "", Interval.UNBOUNDED),
    Column("lv_mass_to_volume_g_per_ml", "number", "LV mass-to-volume ratio", "g/mL", "lvm_g / lvedv_ml",
           "concentricity", "", Interval.NON_NEGATIVE),
    Column("lv_contraction_fraction_pct", "number", "Myocardial contraction fraction", "%",
           "100 x lvsv_ml / (lvm_g / 1.05)", "King et al. 2002", "", Interval.UNBOUNDED),
    Column("lv_global_function_index_pct", "number", "LV global function index", "%",
           "100 x lvsv_ml / ((lvedv_ml + lvesv_ml) / 2 + lvm_g / 1.05)", "Mewton et al. 2013", "", Interval.UNBOUNDED),
    *MECHANICS,
    *Z_SCORES,
    *CORRECTION,
    Column("qc_flags", "text_list", "Quality flags, and the reason of each value that is null"),
)  # fmt: skip
"""One row per case."""

_MEAN_LENGTH = "mean |u| over the voxels of the label at that frame"
_MAX_LENGTH = "max |u| over the voxels of the label at that frame"
_ENTROPY = "mean over voxels of (3 log(2 pi e) + log det C) / 2"
_FOLDED = "number of voxels of the network's window with det F <= 0; not on the subject's own grid"
_VELOCITY = "in voxels of the velocity field's grid"
_STRUCTURES = {"lv": "LV cavity", "myo": "LV myocardium", "rv": "RV cavity"}


def _displacements() -> Iterator[Column]:
    for name, structure in _STRUCTURES.items():
        yield Column(f"mean_displacement_{name}_mm", "number", f"Mean displacement from ED, {structure}", "mm",
                     _MEAN_LENGTH)  # fmt: skip
        yield Column(f"max_displacement_{name}_mm", "number", f"Largest displacement from ED, {structure}", "mm",
                     _MAX_LENGTH)  # fmt: skip


def _entropies(regions: dict[str, str]) -> Iterator[Column]:
    for name, region in regions.items():
        yield Column(f"entropy_{name}_nats", "number", f"Mean entropy of the velocity field's posterior, {region}",
                     "nats", _ENTROPY, _VELOCITY)  # fmt: skip


FRAMES = (
    *IDENTITY,
    Column("frame", "integer", "Frame of the input, from 0"),
    Column("time_ms", "number", "Time since frame 0", "ms", "frame x frame_ms"),
    *(Column(f"{name}_ml", "number", f"{structure} volume", "mL", _VOXELS, _SEGNET)
      for name, structure in _STRUCTURES.items()),
    *(Column(f"{name}_propagated_ml", "number", f"{structure} volume of the propagated labels", "mL", _VOXELS,
             _PROPAGATED)
      for name, structure in _STRUCTURES.items()),
    *_displacements(),
    *MECHANICS_OF_FRAMES,
    Column("folded_voxels", "integer", "Folded voxels of the displacement field from ED to this frame", "", _FOLDED),
    *_entropies({**_STRUCTURES, "outside": "outside the heart"}),
)  # fmt: skip
"""One row per case and frame."""

MOTION = (
    *IDENTITY,
    ED_FRAME,
    ES_FRAME,
    Column("mean_displacement_es_myo_mm", "number", "Mean displacement of the myocardium from ED to ES", "mm",
           _MEAN_LENGTH),
    Column("max_displacement_es_myo_mm", "number", "Largest displacement of the myocardium from ED to ES", "mm",
           _MAX_LENGTH),
    Column("myo_volume_change_pct", "number", "Change of the myocardial volume from ED to ES by the motion", "%",
           "100 x (ES - ED) / ED", _PROPAGATED),
    Column("myo_volume_change_largest_pct", "number",
           "Largest change of the myocardial volume over the cycle by the motion", "%",
           "100 x max over frames of |frame - ED| / ED; the myocardium is nearly incompressible", _PROPAGATED),
    Column("bending_energy_per_mm2", "number", "Bending energy of the displacement field from ED to ES", "1/mm2",
           "mean over the heart and 18 mm around it of the squared second derivatives of u; 0 for any affine motion",
           "Rueckert et al. 1999"),
    Column("folded_voxels", "integer", "Folded voxels of the displacement field from ED to ES", "", _FOLDED),
    Column("cycle_consistency_error_mm", "number", "Cycle-consistency error in the heart", "mm",
           "mean over the heart at ED of |u|, u the displacement from the last step of the cycle to ED; "
           "ED-referenced weights estimate u directly, others compose it from all steps"),
    *_entropies({"heart": "heart, all frames", "outside": "outside the heart, all frames"}),
    Column("qc_flags", "text_list", "Quality flags, and the reason of each value that is null"),
)  # fmt: skip
"""One row per case."""

STATUS = (
    *IDENTITY,
    Column("stage", "text", "Stage of the latest attempt"),
    Column("state", "text", "done, pending, stale or failed"),
    Column("reason", "text", "Why the stage is not done"),
    Column("error_code", "text", "One of the documented error codes"),
    Column("message", "text", "What was expected and what was found"),
    Column("hint", "text", "What to do about it"),
    Column("log", "text", "File in logs/ that holds the traceback, named by the subject's pseudonym"),
    Column("attempt", "integer", "Number of attempts of the stage"),
    *(Column(f"seconds_{stage}", "number", f"Wall time of the latest {stage}", "s", "end - start")
      for stage in ("preprocess", "infer", "indices")),
    Column("host", "text", "Machine of the latest attempt"),
    Column("peak_memory_mb", "number", "Peak memory of the process so far", "MB", "ru_maxrss"),
)  # fmt: skip
"""One row per case."""
