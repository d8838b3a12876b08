"""What the report shows, read from a run folder and from nothing else."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64, Shaped, UInt8

from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.runs.paths import CaseFolder, RunFolder
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_core.io.nifti import read_own

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the provenance."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Run:
    """What the tables of a run say of some subjects.

    Attributes:
        folder: Where everything lies.
        deidentifier: What may be told of whom.
        indices: One row a subject.
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
    provenance: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hearts:
    """A subject's images and label maps, in the order of the input's frames.

    Attributes:
        cine: The network's window.
        affine: Its grid, (z, y, x, 1) to mm.
        segmented: SegNet's label maps, on their own grid.
        propagated: The ED label map carried by the motion, on the same grid.
        labels_affine: That grid.
    """

    cine: Shaped[np.ndarray, "t z y x"]
    affine: Float64[np.ndarray, "4 4"]
    segmented: UInt8[np.ndarray, "t z2 y2 x2"]
    propagated: UInt8[np.ndarray, "t z2 y2 x2"]
    labels_affine: Float64[np.ndarray, "4 4"]


def read_run(folder: RunFolder, case_ids: Sequence[str], deidentifier: Deidentifier) -> Run:
    """Read what the tables say of some subjects, in the order given; tables that were not written yet are empty.

    Args:
        folder: The run.
        case_ids: The subjects.
        deidentifier: What may be told of whom.
    """
    indices = {row["case_id"]: row for row in _rows(folder, "indices", case_ids)}
    return Run(
        folder=folder,
        deidentifier=deidentifier,
        indices=[indices[case_id] for case_id in case_ids],
        frames=_grouped(_rows(folder, "frames", case_ids), "frame"),
        segments=_grouped(_rows(folder, "segments", case_ids), "segment"),
        motion={row["case_id"]: row for row in _rows(folder, "motion", case_ids)},
        provenance=read_provenance(folder, deidentifier),
    )


def _grouped(rows: Sequence[Row], by: str) -> dict[str, list[Row]]:
    """The rows of each subject, in the order of a column."""
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: int(row[by])):
        grouped[row["case_id"]].append(row)
    return grouped


def _rows(folder: RunFolder, table: str, case_ids: Sequence[str]) -> list[dict[str, Any]]:
    path = folder.table(table)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path, filters=pc.field("case_id").isin(list(case_ids))).to_pylist()
    return rows


def read_provenance(folder: RunFolder, deidentifier: Deidentifier) -> tuple[Fact, ...]:
    """What ``run.json`` says: versions, settings and digests; in a share-safe report without folders."""
    if not folder.record.exists():
        return ()
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    commands = record.pop("commands", {})
    return tuple(
        Fact(fact.name, deidentifier.text(fact.value)) for fact in (*_facts(record, ""), *_facts(commands, ""))
    )


def read_origin(folder: CaseFolder) -> tuple[Fact, ...]:
    """With what the motion of a subject was made, from its sidecar."""
    sidecar = read_sidecar(folder.sidecar("infer"))
    if sidecar is None:
        return ()
    return (
        Fact("subject made with", f"cmnet {sidecar.version}"),
        Fact("subject model digest", sidecar.model_digest),
        Fact("subject settings digest", sidecar.settings_digest),
    )


def _facts(value: object, name: str) -> list[Fact]:
    """Nested values, flattened to one line each."""
    if isinstance(value, dict):
        return [fact for key, inner in value.items() for fact in _facts(inner, f"{name} {key}".strip())]
    if isinstance(value, list):
        return [Fact(name.replace("_", " "), " ".join(map(str, value)))]
    return [] if value in (None, "") else [Fact(name.replace("_", " "), str(value))]


def read_hearts(folder: CaseFolder) -> Hearts:
    """Read the images and label maps of a subject.

    Raises:
        ImageError: A file is missing or damaged.
    """
    cine, affine = read_own(folder.preproc_cine)
    segmented, labels_affine = read_own(folder.segnet_labels)
    propagated, _ = read_own(folder.propagated_labels)
    return Hearts(cine, affine, segmented, propagated, labels_affine)
