"""Results of single subjects, read from a run folder and from nothing else."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64, Shaped, UInt8

from cmnet_cli.derivatives.correction import read_correction
from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_cli.runs.run_folder import read_record
from cmnet_core.io.nifti import read_own

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProvenanceEntry:
    """One line of the provenance."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class RunResults:
    """Table rows of some subjects of a run.

    Attributes:
        folder: The run folder.
        deidentifier: Names subjects, and decides what may be stated about them.
        indices: One row per subject.
        frames: The rows of each subject, in the order of its frames.
        segments: The rows of each subject's AHA segments, in their order.
        motion: The row of each subject.
        provenance: Versions and digests.
    """

    folder: RunFolder
    deidentifier: Deidentifier
    indices: Sequence[Row]
    frames: Mapping[str, Sequence[Row]]
    segments: Mapping[str, Sequence[Row]]
    motion: Mapping[str, Row]
    provenance: tuple[ProvenanceEntry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SubjectImages:
    """A subject's cine and label maps, in the order of the input's frames.

    Attributes:
        cine: The network's window.
        affine: Affine of its grid, (z, y, x, 1) to mm.
        segmented: SegNet's label maps, on their own grid.
        propagated: The ED label map warped to every frame by the motion, on the same grid.
        labels_affine: Affine of that grid, (z, y, x, 1) to mm.
    """

    cine: Shaped[np.ndarray, "t z y x"]
    affine: Float64[np.ndarray, "4 4"]
    segmented: UInt8[np.ndarray, "t z2 y2 x2"]
    propagated: UInt8[np.ndarray, "t z2 y2 x2"]
    labels_affine: Float64[np.ndarray, "4 4"]


def read_run_results(folder: RunFolder, case_ids: Sequence[str], deidentifier: Deidentifier) -> RunResults:
    """Read the table rows of some subjects in the order given; tables that do not exist yet are empty.

    Args:
        folder: The run folder.
        case_ids: The subjects.
        deidentifier: Names subjects, and decides what may be stated about them.
    """
    indices = {row["case_id"]: row for row in _rows(folder, "indices", case_ids)}
    return RunResults(
        folder=folder,
        deidentifier=deidentifier,
        indices=[indices[case_id] for case_id in case_ids],
        frames=_by_subject(_rows(folder, "frames", case_ids), "frame"),
        segments=_by_subject(_rows(folder, "segments", case_ids), "segment"),
        motion={row["case_id"]: row for row in _rows(folder, "motion", case_ids)},
        provenance=read_provenance(folder, deidentifier),
    )


def _by_subject(rows: Sequence[Row], order: str) -> dict[str, list[Row]]:
    """Group rows by subject, in the order of a column."""
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: int(row[order])):
        grouped[row["case_id"]].append(row)
    return grouped


def _rows(folder: RunFolder, table: str, case_ids: Sequence[str]) -> list[dict[str, Any]]:
    path = folder.table(table)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path, filters=pc.field("case_id").isin(list(case_ids))).to_pylist()
    return rows


def read_provenance(folder: RunFolder, deidentifier: Deidentifier) -> tuple[ProvenanceEntry, ...]:
    """List versions, settings and digests from ``run.json``; a share-safe report lists no folders."""
    record = read_record(folder)
    commands = record.pop("commands", {})
    return tuple(
        ProvenanceEntry(entry.name, deidentifier.text(entry.value))
        for entry in (*_flatten(record, ""), *_flatten(commands, ""))
    )


def read_subject_provenance(folder: CaseFolder) -> tuple[ProvenanceEntry, ...]:
    """List version and digests of a subject's motion from its sidecar."""
    sidecar = read_sidecar(folder.sidecar("infer"))
    if sidecar is None:
        return ()
    correction = read_correction(folder)
    corrected = (
        ()
        if correction is None
        else (
            ProvenanceEntry("corrected frames", " ".join(map(str, correction.frames))),
            ProvenanceEntry("corrected mask date", correction.mask_date),
            ProvenanceEntry("corrected mask digest", correction.mask_sha256),
        )
    )
    return (
        ProvenanceEntry("subject version", f"cmnet {sidecar.version}"),
        ProvenanceEntry("subject model digest", sidecar.model_digest),
        ProvenanceEntry("subject settings digest", sidecar.settings_digest),
        *corrected,
    )


def _flatten(value: object, name: str) -> list[ProvenanceEntry]:
    """Flatten nested values to one entry each."""
    if isinstance(value, dict):
        return [entry for key, inner in value.items() for entry in _flatten(inner, f"{name} {key}".strip())]
    if isinstance(value, list):
        return [ProvenanceEntry(name.replace("_", " "), " ".join(map(str, value)))]
    return [] if value in (None, "") else [ProvenanceEntry(name.replace("_", " "), str(value))]


def read_subject_images(folder: CaseFolder) -> SubjectImages:
    """Read the cine and the label maps of a subject.

    Raises:
        ImageError: A file is missing or damaged.
    """
    cine, affine = read_own(folder.preproc_cine)
    segmented, labels_affine = read_own(folder.segnet_labels)
    propagated, _ = read_own(folder.propagated_labels)
    return SubjectImages(cine, affine, segmented, propagated, labels_affine)
