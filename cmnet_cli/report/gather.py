"""What the report shows, read from a run folder and from nothing else."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from cmnet_cli.layout import CaseFolder, RunFolder
from cmnet_cli.sidecar import read_sidecar
from cmnet_cli.tables import read_rows
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.nifti import read_own

Row = Mapping[str, Any]

_STATES = ("done", "failed", "stale", "pending")


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the provenance."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Run:
    """The tables of a run.

    Attributes:
        folder: Where everything lies.
        indices: One row a subject.
        frames: The rows of each subject, in the order of its frames.
        motion: The row of each subject.
        status: One row a subject.
        evaluation: Rows of the comparison with reference masks.
        agreement: Rows of the indices beside those of the reference masks.
        provenance: Versions and digests.
    """

    folder: RunFolder
    indices: Sequence[Row]
    frames: Mapping[str, Sequence[Row]]
    motion: Mapping[str, Row]
    status: Sequence[Row]
    evaluation: Sequence[Row]
    agreement: Sequence[Row]
    provenance: tuple[Fact, ...]

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        """How many subjects are done, failed, stale and pending; those that are none are left out."""
        counts = Counter(row["state"] for row in self.status) or Counter(done=len(self.indices))
        return tuple((state, counts[state]) for state in _STATES if counts[state])

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows of the subjects that failed."""
        return tuple(row for row in self.status if row["state"] == "failed")


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


def read_run(folder: RunFolder) -> Run:
    """Read all tables; those that were not written yet are empty.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    tables = {
        name: _rows(folder, name) for name in ("indices", "frames", "motion", "status", "evaluation", "agreement")
    }
    if not tables["indices"] and not tables["status"]:
        raise ManifestError(
            f"{folder.root} holds neither tables/indices.parquet nor tables/status.parquet: nothing can be reported.",
            hint="Name the folder that cmnet infer wrote to, and run cmnet indices first.",
            code=ErrorCode.RUN,
        )
    frames: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(tables["frames"], key=lambda row: int(row["frame"])):
        frames[row["case_id"]].append(row)
    return Run(
        folder=folder,
        indices=sorted(tables["indices"], key=lambda row: str(row["case_id"])),
        frames=frames,
        motion={row["case_id"]: row for row in tables["motion"]},
        status=tables["status"],
        evaluation=tables["evaluation"],
        agreement=tables["agreement"],
        provenance=_provenance(folder),
    )


def _rows(folder: RunFolder, table: str) -> list[dict[str, Any]]:
    path = folder.table(table)
    return read_rows(path) if path.exists() else []


def _provenance(folder: RunFolder) -> tuple[Fact, ...]:
    if not folder.record.exists():
        return ()
    record = json.loads(folder.record.read_text(encoding="utf-8"))
    commands = record.pop("commands", {})
    return (*_facts(record, ""), *_facts(commands, ""))


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
