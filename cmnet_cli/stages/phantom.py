"""A cohort of phantoms on disk: images, masks, a manifest and the ground truth."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.cohort.manifest import Case, write_manifest
from cmnet_cli.runs.paths import SimulatedCaseFolder, SimulationFolder
from cmnet_cli.tables.columns.mechanics import GREEN_STRAINS
from cmnet_core.function.volumes import ClinicalIndices, Volumes, clinical_indices, volumes_ml
from cmnet_core.io.atomic import write_text
from cmnet_core.io.nifti import write_image, write_labels, write_motion
from cmnet_core.mechanics.strain import SIGN, Direction
from cmnet_core.mechanics.strain_curves import Timing, summarise
from cmnet_core.phantom import Phantom, SegmentStrain, draw_spec, make_phantom

TRUTH_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Demographics:
    sex: str
    age_years: float
    height_cm: float
    weight_kg: float


@dataclass(frozen=True, slots=True)
class _SimulatedSubject:
    """A phantom on disk: its row of the manifest, and its row of the table of true indices."""

    case: Case
    true_indices: dict[str, float | str]


def write_cohort(
    out: Path,
    *,
    subjects: int,
    frames: int,
    seed: int,
    defect_fraction: float = 0.25,
    progress: Callable[[], None] = lambda: None,
) -> Path:
    """Write phantoms with their ground truth; phantom *k* of a seed is the same in a cohort of any size.

    Each phantom has a folder with the cine, its masks, the displacement field between ED and ES in both directions, and
    ``*_truth.json`` with the specification from which :func:`cmnet_core.phantom.truth_of` computes the displacement,
    deformation and strain of every frame. ``truth_indices.csv`` lists the true indices of all phantoms. The manifest is
    written last.

    Args:
        out: Folder to write to.
        subjects: Number of phantoms.
        frames: Frames per cardiac cycle.
        seed: Random seed.
        defect_fraction: Fraction of the phantoms in which one segment has reduced motion.
        progress: Called after each phantom.

    Returns:
        The path of the manifest, ``cohort.csv``.
    """
    folder = SimulationFolder(out)
    write = partial(_write_subject, folder, frames=frames, seed=seed, defect_fraction=defect_fraction)
    # Most of the time is spent in torch on arrays too small for its own threads.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        futures = [pool.submit(write, number=number) for number in range(1, subjects + 1)]
        try:
            for future in as_completed(futures):
                future.result()
                progress()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    written = [future.result() for future in futures]
    write_text(folder.truth_table, _as_csv([subject.true_indices for subject in written]))
    write_manifest(folder.manifest, [subject.case for subject in written])
    return folder.manifest


def _write_subject(
    out: SimulationFolder, *, number: int, frames: int, seed: int, defect_fraction: float
) -> _SimulatedSubject:
    generator = torch.Generator().manual_seed(100_003 * seed + number)
    defect = float(torch.rand(1, generator=generator)) < defect_fraction
    phantom = make_phantom(draw_spec(generator, frames=frames, defect=defect), generator)
    subject = f"phantom-{number:03d}"
    folder = out.case(f"sub-{subject}")
    case = _case(phantom, subject, _draw_demographics(phantom, generator), folder, row=number + 1)
    _write_images(phantom, folder)
    return _SimulatedSubject(case, _write_truth(phantom, subject, folder))


def _draw_demographics(phantom: Phantom, generator: torch.Generator) -> _Demographics:
    """Draw a sex and body size that correlate with the length of the heart."""
    chance, height, mass, age = torch.randn(4, generator=generator).clamp(-2, 2).tolist()
    male = phantom.spec.heart.length_mm + 6.0 * chance > 92.0
    tall_cm = (176.0 if male else 163.0) + 6.0 * height
    return _Demographics(
        sex="male" if male else "female",
        age_years=round(58.0 + 9.0 * age, 0),
        height_cm=round(tall_cm, 0),
        weight_kg=round((26.0 + 3.0 * mass) * (tall_cm / 100.0) ** 2, 1),
    )


def _case(
    phantom: Phantom, subject: str, demographics: _Demographics, folder: SimulatedCaseFolder, *, row: int
) -> Case:
    cine, beat = phantom.cine, phantom.spec.beat
    group = "normal-ef" if beat.lvef_pct >= 50 else "mildly-reduced-ef" if beat.lvef_pct > 40 else "reduced-ef"
    return Case(
        row=row,
        subject_id=subject,
        image=(folder.image,),
        labels=folder.labels,
        ed=cine.ed,
        es=cine.es,
        frame_ms=None if cine.frame_ms is None else round(cine.frame_ms, 3),
        heart_rate_bpm=round(beat.heart_rate_bpm, 1),
        group=group if beat.defect is None else "regional-defect",
        site="phantom",
        scanner="synthetic",
        **asdict(demographics),
    )


def _frames_of(phantom: Phantom) -> tuple[int, int]:
    """Return the frames of ED and ES, which a phantom always has."""
    ed, es = phantom.cine.ed, phantom.cine.es
    return (ed or 0, es or 0)


def _write_images(phantom: Phantom, folder: SimulatedCaseFolder) -> None:
    cine, (_, es) = phantom.cine, _frames_of(phantom)
    # Scanners store integers.
    write_image(folder.image, cine.voxels.round().short(), affine=cine.affine, frame_ms=cine.frame_ms)
    write_labels(folder.labels, phantom.labels, frame_ms=cine.frame_ms)
    write_motion(folder.ed2es_motion, phantom.to_ed(es), affine=cine.affine)
    write_motion(folder.es2ed_motion, phantom.from_ed(es), affine=cine.affine)


def _write_truth(phantom: Phantom, subject: str, folder: SimulatedCaseFolder) -> dict[str, float | str]:
    """Write the ground truth of a phantom, and return its row of the table of true indices."""
    ed, es = _frames_of(phantom)
    exact, masks = phantom.truth.volumes(), volumes_ml(phantom.labels.labels, phantom.cine.spacing)
    exact_indices = clinical_indices(exact, ed=ed, es=es)
    mask_indices = clinical_indices(masks, ed=ed, es=es)
    strain = phantom.truth.segment_strain()
    values = {
        "truth_version": TRUTH_VERSION,
        "subject_id": subject,
        "ed": ed,
        "es": es,
        "indices_of_masks": asdict(mask_indices),
        "indices_continuous": asdict(exact_indices),
        "volumes_of_masks": _volume_lists(masks),
        "volumes_continuous": _volume_lists(exact),
        "green_lagrange_strain_of_aha_segments": _strain_lists(strain),
        "spec": asdict(phantom.spec),
    }
    write_text(folder.truth, json.dumps(values, indent=1) + "\n")
    return {
        "subject_id": subject,
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
    """Return the Green-Lagrange strain of the whole wall, in the columns of ``cmnet indices``, and GLS-SAX."""
    (ed, es), frame_ms = _frames_of(phantom), phantom.cine.frame_ms
    curves = 100.0 * phantom.truth.global_strain()
    cells: dict[str, float | str] = {}
    for direction, name in zip(Direction, (*GREEN_STRAINS, "gls_sax"), strict=True):
        found = summarise(curves[direction], Timing(ed, es, frame_ms), sign=SIGN[direction])
        cells |= {
            f"{name}_peak_pct": _cell(found.peak),
            f"{name}_es_pct": _cell(found.at_es),
            f"time_to_peak_{name}_ms": _cell(found.time_to_peak_ms),
            f"{name}_systolic_rate_per_s": _cell(found.systolic_rate, factor=0.01),
            f"{name}_early_diastolic_rate_per_s": _cell(found.early_diastolic_rate, factor=0.01),
        }
    return cells


def _cell(value: float | None, *, factor: float = 1.0) -> float | str:
    return "" if value is None else round(factor * value, 4)


def _as_csv(rows: Sequence[dict[str, float | str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["subject_id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
