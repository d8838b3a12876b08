"""Run folders for tests of the report: synthetic subjects whose ventricles are discs that contract and expand."""

import json
import math
from dataclasses import asdict

import numpy as np
import torch

from cmnet_cli.derivatives.tracking import TrackingFacts, write_entropy, write_velocities
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import Sidecar, write_sidecar
from cmnet_cli.tables.schema import write_table
from cmnet_core.imaging.preprocess import Window
from cmnet_core.io.nifti import write_image
from cmnet_core.labels import Label
from cmnet_core.models.cardiomorphnet import MotionSizes
from cmnet_core.types import Spacing

IDS = ("sub-9900001", "sub-9900002", "sub-9900003")
NASTY = "<script>alert(1)</script>"

# The labels' grid is finer than the image's and has another origin, as after a real crop.
LABEL_MM, IMAGE_MM, SLICE_MM = 1.2, 1.5, 9.0
LABEL_ORIGIN, IMAGE_ORIGIN = -80.0, -60.0
SIZE, LV_X_MM = 80, 8


def affine(in_plane_mm, origin_mm):
    """Rows run posterior, columns left and slices superior."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[2, 0], matrix[1, 1], matrix[0, 2] = SLICE_MM, -in_plane_mm, -in_plane_mm
    matrix[:3, 3] = torch.tensor([-origin_mm, -origin_mm, 0.0])
    matrix[3, 3] = 1.0
    return matrix


def tissues(*, frames, slices, size, voxel_mm, origin_mm):
    """Label maps in which the left ventricle is largest in frame 0 and smallest in the middle of the cycle."""
    mm = origin_mm + voxel_mm * np.arange(size)
    y, x = np.meshgrid(mm, mm, indexing="ij")
    labels = np.zeros((frames, slices, size, size), np.uint8)
    for t in range(frames):
        contraction = contraction_of(t, frames)
        for z in range(slices):
            radius = 26 * (1 - 0.6 * z / slices) * contraction
            from_lv, wall = np.hypot(y, x - LV_X_MM), 9 + 5 * (1 - contraction) / 0.3
            labels[t, z][np.hypot((y + 8) / 1.3, x + 22) < 1.1 * radius] = Label.RV
            labels[t, z][from_lv < radius + wall] = Label.MYO
            labels[t, z][from_lv < radius] = Label.LV
    return labels


def write_subject(folder, case_id, *, frames=6, slices=4):
    files = folder.case(case_id)
    generator = np.random.default_rng(3)
    window = tissues(frames=frames, slices=slices, size=SIZE, voxel_mm=IMAGE_MM, origin_mm=IMAGE_ORIGIN)
    grey = np.array([0.35, 0.95, 0.15, 0.85])[window] + generator.normal(0, 0.04, window.shape)
    write_image(
        files.preproc_cine, torch.tensor(grey).float(), affine=affine(IMAGE_MM, IMAGE_ORIGIN), frame_ms=900 / frames
    )
    labels = tissues(frames=frames, slices=slices, size=134, voxel_mm=LABEL_MM, origin_mm=LABEL_ORIGIN)
    for path in (files.segnet_labels, files.propagated_labels):
        write_image(path, torch.from_numpy(labels), affine=affine(LABEL_MM, LABEL_ORIGIN), frame_ms=900 / frames)
    return labels


def contraction_of(t, frames):
    """Radius of the left ventricle relative to ED."""
    return 1 - 0.3 * (1 - math.cos(2 * math.pi * t / frames)) / 2


def write_motion(folder, case_id, *, frames=6, slices=4):
    """The motion of write_subject around the centre of the LV, and an entropy that increases away from it."""
    files = folder.case(case_id)
    mm = IMAGE_ORIGIN + IMAGE_MM * np.arange(SIZE)
    from_centre = np.stack(np.meshgrid([0.0] * slices, mm, mm - LV_X_MM, indexing="ij")) / IMAGE_MM
    ratios = [contraction_of(t, frames) / contraction_of(t + 1, frames) - 1 for t in range(frames)]
    write_velocities(files.motion, torch.tensor(np.stack([ratio * from_centre for ratio in ratios])).float())
    entropy = torch.from_numpy(-4 + np.hypot(*from_centre[1:]) / 10).float().expand(frames, -1, -1, -1)
    write_entropy(files.entropy, entropy, affine=affine(IMAGE_MM, IMAGE_ORIGIN), frame_ms=900 / frames)
    spacing = Spacing(z=SLICE_MM, y=IMAGE_MM, x=IMAGE_MM)
    facts = TrackingFacts(
        frames, 900 / frames, 0, frames // 2, 0.0, (0,) * frames,
        Window((slices, SIZE, SIZE), spacing, spacing, (0.0, 0.0), (SIZE, SIZE)), MotionSizes(), (),
    )  # fmt: skip
    sidecar = Sidecar("infer", case_id, "0.1.0", "c0ffee", "decaf", (), (), asdict(facts))
    write_sidecar(files.sidecar("infer"), sidecar)


def ids_of(case_id):
    return {"case_id": case_id, "subject_id": case_id.removeprefix("sub-"), "session": None}


def frame_rows(case_id, labels):
    voxel_ml = SLICE_MM * LABEL_MM**2 / 1000
    names = {"lv_ml": Label.LV, "myo_ml": Label.MYO, "rv_ml": Label.RV}
    for t, volume in enumerate(labels):
        amounts = {name: float((volume == label).sum() * voxel_ml) for name, label in names.items()}
        propagated = {name.replace("_ml", "_propagated_ml"): 0.97 * amount for name, amount in amounts.items()}
        yield {**ids_of(case_id), "frame": t, "time_ms": 900 / len(labels) * t, **amounts, **propagated}


def index_row(case_id, frames, *, flags=()):
    lv, rv = ([row[name] for row in frames] for name in ("lv_ml", "rv_ml"))
    ed, es = int(np.argmax(lv)), int(np.argmin(lv))
    row = {
        **ids_of(case_id),
        "frames": len(frames),
        "frame_ms": 900 / len(frames),
        "ed_frame": ed,
        "es_frame": es,
        "qc_flags": list(flags),
    }
    row |= {"lvedv_ml": lv[ed], "lvesv_ml": lv[es], "lvsv_ml": lv[ed] - lv[es], "lvef_pct": 100 * (1 - lv[es] / lv[ed])}
    row |= {"lvm_g": 1.05 * frames[0]["myo_ml"], "rvedv_ml": rv[ed], "rvesv_ml": rv[es], "rvsv_ml": rv[ed] - rv[es]}
    return {**row, "rvef_pct": None}


STRAINS = {
    "gcs_line_endo_pct": -30.0,
    "gcs_line_midwall_pct": -20.0,
    "gcs_line_epi_pct": -13.0,
    "grs_line_wall_pct": 40.0,
    "twist_deg": 9.0,
}


def add_mechanics(rows):
    """Global strains and twist, zero at ED and largest half a cycle later."""
    for row in rows:
        fraction = (1 - math.cos(2 * math.pi * row["frame"] / len(rows))) / 2
        yield row | {name: peak * fraction for name, peak in STRAINS.items()}


def segment_rows(case_id, *, frames=6):
    """Strain that is weakest in segment 1; segment 16 has no values."""
    for number in range(1, 16):
        peak = -10.0 - number
        curve = [peak * (1 - math.cos(2 * math.pi * t / frames)) / 2 for t in range(frames)]
        values = {
            "ecc_line_wall_peak_pct": peak,
            "err_line_wall_peak_pct": 2 * number,
            "time_to_peak_ecc_line_wall_ms": 300.0 + 10 * number,
        }
        limits = {
            "ecc_line_wall_peak_pct_lo": peak - 2,
            "ecc_line_wall_peak_pct_hi": peak + 2,
            "wall_thickness_ed_mm": 8.0,
        }
        yield {
            **ids_of(case_id),
            "segment": number,
            "ecc_line_wall_curve_pct": curve,
            **values,
            **limits,
            "qc_flags": [],
        }
    yield {**ids_of(case_id), "segment": 16, "qc_flags": ["segment-missing-at-ed"]}


def evaluation_rows(case_id, dice_pct):
    """The overlap is better with motion than without; the right ventricle was not segmented."""
    compared = [("cardiomorphnet", "ed-to-es", 0.0), ("no-motion", "ed-to-es", -20.0), ("segnet", "at-ed", 2.0)]
    for method, comparison, better in compared:
        for structure in ("lv", "myo"):
            row = {"method": method, "comparison": comparison, "structure": structure, "dsc_pct": dice_pct + better}
            yield {**ids_of(case_id), **row}
        yield {
            **ids_of(case_id),
            "method": method,
            "comparison": comparison,
            "structure": "rv",
            "failure": "empty-prediction",
        }


def add_evaluation(folder, ids=IDS):
    rows = [row for n, case_id in enumerate(ids) for row in evaluation_rows(case_id, 90.0 + n)]
    write_table(folder.table("evaluation"), "evaluation", rows)
    pairs = [
        {**ids_of(case_id), "index": "lvef_pct", "estimate": 55.0 + n, "reference": 54.0}
        for n, case_id in enumerate(ids)
    ]
    pairs.append({**ids_of(ids[0]), "index": "rvef_pct", "estimate": None, "reference": 50.0})
    write_table(folder.table("agreement"), "agreement", pairs)


def make_run(root, *, ids=IDS, flags=(), failed=("sub-9900009",)):
    """A run folder as the commands write it, with one subject that failed."""
    folder = RunFolder(root)
    frames, indices = [], []
    for case_id in ids:
        rows = list(add_mechanics(list(frame_rows(case_id, write_subject(folder, case_id)))))
        frames += rows
        indices.append(index_row(case_id, rows, flags=flags))
    write_table(folder.table("frames"), "frames", frames)
    write_table(folder.table("indices"), "indices", indices)
    segments = [row for case_id in ids[:2] for row in segment_rows(case_id)]
    write_table(folder.table("segments"), "segments", segments)
    broken = {"error_code": "file-damaged", "message": f"{NASTY}: reading failed.", "hint": "Copy it again."}
    status = [{**ids_of(case_id), "stage": "indices", "state": "done"} for case_id in ids]
    status += [{**ids_of(case_id), "stage": "infer", "state": "failed", **broken} for case_id in failed]
    write_table(folder.table("status"), "status", status)
    steps = {"model_digest": NASTY, "settings": {"preprocess": {"size": 128}}}
    folder.record.write_text(json.dumps({"cmnet_version": "0.1.0", "commands": {"infer": steps}}))
    for case_id in ids[:1]:
        write_motion(folder, case_id)
    return folder
