"""A synthetic cohort on disk: images, masks, a manifest, and beside them what is true."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.cohort.manifest import Case, write_manifest
from cmnet_cli.tables.columns.mechanics import STRAINS
from cmnet_core.function.volumes import ClinicalIndices, Volumes, clinical_indices, volumes_ml
from cmnet_core.io.atomic import write_bytes
from cmnet_core.io.nifti import write_image, write_labels, write_motion
from cmnet_core.mechanics.strain import SIGN, Direction
from cmnet_core.mechanics.strain_curves import Timing, summarise
from cmnet_core.phantom import Phantom, SegmentStrain, draw_spec, make_phantom

TRUTH_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Person:
    sex: str
    age_years: float
    height_cm: float
    weight_kg: float


@dataclass(frozen=True, slots=True)
class _Made:
    """A subject on disk: its row of the manifest and its row of the truth."""

    case: Case
    truth: dict[str, float | str]


def write_cohort(
    out: Path,
    *,
    subjects: int,
    frames: int,
    seed: int,
    defect_fraction: float = 0.25,
    progress: Callable[[], None] = lambda: None,
) -> Path:
    """Write synthetic subjects with their truth; subject *k* of a seed is the same in a cohort of any size.

    Per subject, in a folder of its own: the cine, its masks, the displacement between ED and ES in both directions, and
    ``*_truth.json`` with the spec, from which :func:`cmnet_core.phantom.truth_of` gives displacement, deformation and
    strain of every frame. ``truth_indices.csv`` lists the indices of all subjects. The manifest is written last.

    Args:
        out: Folder to write to.
        subjects: How many.
        frames: Frames in each cycle.
        seed: What all chance starts from.
        defect_fraction: Share of the subjects of whom one segment moves less.
        progress: Called after each subject.

    Returns:
        The manifest, ``cohort.csv``.
    """
    made = []
    for number in range(1, subjects + 1):
        made.append(_write_subject(out, number=number, frames=frames, seed=seed, defect_fraction=defect_fraction))
        progress()
    write_bytes(out / "truth_indices.csv", _table([row.truth for row in made]))
    manifest = out / "cohort.csv"
    write_manifest(manifest, [row.case for row in made])
    return manifest


def _write_subject(out: Path, *, number: int, frames: int, seed: int, defect_fraction: float) -> _Made:
    generator = torch.Generator().manual_seed(100_003 * seed + number)
    defect = float(torch.rand(1, generator=generator)) < defect_fraction
    phantom = make_phantom(draw_spec(generator, frames=frames, defect=defect), generator)
    subject = f"phantom-{number:03d}"
    case = _case(phantom, subject, _draw_person(phantom, generator), out / f"sub-{subject}", row=number + 1)
    _write_files(phantom, case)
    return _Made(case, _write_truth(phantom, case))


def _draw_person(phantom: Phantom, generator: torch.Generator) -> _Person:
    """Sex and size that go with the heart: longer hearts in men and in tall people."""
    chance, height, mass, age = torch.randn(4, generator=generator).clamp(-2, 2).tolist()
    male = phantom.spec.heart.length_mm + 6.0 * chance > 92.0
    tall_cm = (176.0 if male else 163.0) + 6.0 * height
    return _Person(
        sex="male" if male else "female",
        age_years=round(58.0 + 9.0 * age, 0),
        height_cm=round(tall_cm, 0),
        weight_kg=round((26.0 + 3.0 * mass) * (tall_cm / 100.0) ** 2, 1),
    )


def _case(phantom: Phantom, subject: str, person: _Person, folder: Path, *, row: int) -> Case:
    cine, beat = phantom.cine, phantom.spec.beat
    group = "normal-ef" if beat.lvef_pct >= 50 else "mildly-reduced-ef" if beat.lvef_pct > 40 else "reduced-ef"
    return Case(
        row=row,
        subject_id=subject,
        image=(folder / f"sub-{subject}_cine.nii.gz",),
        labels=folder / f"sub-{subject}_dseg.nii.gz",
        ed=cine.ed,
        es=cine.es,
        frame_ms=None if cine.frame_ms is None else round(cine.frame_ms, 3),
        heart_rate_bpm=round(beat.heart_rate_bpm, 1),
        group=group if beat.defect is None else "regional-defect",
        site="phantom",
        scanner="synthetic",
        **asdict(person),
    )


def _frames_of(phantom: Phantom) -> tuple[int, int]:
    """ED and ES, which a phantom always knows."""
    ed, es = phantom.cine.ed, phantom.cine.es
    return (ed or 0, es or 0)


def _write_files(phantom: Phantom, case: Case) -> None:
    cine, (_, es) = phantom.cine, _frames_of(phantom)
    folder, name = case.image[0].parent, case.case_id
    # Scanners write whole numbers.
    write_image(case.image[0], cine.voxels.round().short(), affine=cine.affine, frame_ms=cine.frame_ms)
    write_labels(folder / f"{name}_dseg.nii.gz", phantom.labels, frame_ms=cine.frame_ms)
    write_motion(folder / f"{name}_desc-ed2es_motion.nii.gz", phantom.to_ed(es), affine=cine.affine)
    write_motion(folder / f"{name}_desc-es2ed_motion.nii.gz", phantom.from_ed(es), affine=cine.affine)


def _write_truth(phantom: Phantom, case: Case) -> dict[str, float | str]:
    """Write what is true of a subject; return its row of the cohort's table."""
    ed, es = _frames_of(phantom)
    exact, masks = phantom.truth.volumes(), volumes_ml(phantom.labels.labels, phantom.cine.spacing)
    exact_indices = clinical_indices(exact, ed=ed, es=es)
    mask_indices = clinical_indices(masks, ed=ed, es=es)
    strain = phantom.truth.segment_strain()
    values = {
        "truth_version": TRUTH_VERSION,
        "subject_id": case.subject_id,
        "ed": ed,
        "es": es,
        "indices_of_masks": asdict(mask_indices),
        "indices_continuous": asdict(exact_indices),
        "volumes_of_masks": _volume_lists(masks),
        "volumes_continuous": _volume_lists(exact),
        "green_lagrange_strain_of_aha_segments": _strain_lists(strain),
        "spec": asdict(phantom.spec),
    }
    write_bytes(case.image[0].parent / f"{case.case_id}_truth.json", (json.dumps(values, indent=1) + "\n").encode())
    return {
        "subject_id": case.subject_id,
        **_index_cells(mask_indices, suffix=""),
        **_index_cells(exact_indices, suffix="_continuous"),
        **_strain_cells(phantom),
        "defect_segment": "" if phantom.spec.beat.defect is None else phantom.spec.beat.defect.segment,
    }


def _volume_lists(volumes: Volumes) -> dict[str, list[float]]:
    return {
        name: [round(value, 3) for value in getattr(volumes, name).tolist()] for name in ("lv_ml", "myo_ml", "rv_ml")
    }


def _strain_lists(strain: SegmentStrain) -> dict[str, Any]:
    return {
        name: [[round(value, 5) for value in row] for row in getattr(strain, name).tolist()]
        for name in ("err", "ecc", "ell")
    }


def _index_cells(indices: ClinicalIndices, *, suffix: str) -> dict[str, float | str]:
    cells: dict[str, float | str] = {}
    for name, value in asdict(indices).items():
        if name != "flags":
            quantity, unit = name.rsplit("_", 1)
            cells[f"{quantity}{suffix}_{unit}"] = "" if value is None else round(value, 3)
    return cells


def _strain_cells(phantom: Phantom) -> dict[str, float | str]:
    """Strain of the whole wall, in the columns of ``cmnet indices``."""
    (ed, es), frame_ms = _frames_of(phantom), phantom.cine.frame_ms
    curves = 100.0 * phantom.truth.global_strain()
    cells: dict[str, float | str] = {}
    for direction, name in zip(Direction, STRAINS, strict=True):
        found = summarise(curves[direction], Timing(ed, es, frame_ms), sign=SIGN[direction])
        cells |= {
            f"{name}_peak_pct": _cell(found.peak),
            f"{name}_es_pct": _cell(found.at_es),
            f"time_to_peak_{name}_ms": _cell(found.time_to_peak_ms),
            f"{name}_systolic_rate_per_s": _cell(found.systolic_rate, share=0.01),
            f"{name}_early_diastolic_rate_per_s": _cell(found.early_diastolic_rate, share=0.01),
        }
    return cells


def _cell(value: float | None, *, share: float = 1.0) -> float | str:
    return "" if value is None else round(share * value, 4)


def _table(rows: Sequence[dict[str, float | str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["subject_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
