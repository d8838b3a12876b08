"""Made cines on disk: real hearts, moved on a path that is known, and that path beside them."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.ground_truth_motion import ground_truth_motion_path, write_ground_truth_motion
from cmnet_cli.runs.provenance import record_inputs
from cmnet_cli.stages.read_images import naming
from cmnet_cli.stages.training_case import load_training_case
from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.function.volumes import clinical_indices, volumes_ml
from cmnet_core.io.atomic import read_json, write_json
from cmnet_core.io.nifti import write_image, write_labels
from cmnet_core.labels import LabelScheme
from cmnet_core.simulation.cine import SimulatedCine, fit_motion, simulate_cine
from cmnet_core.simulation.ground_truth import wall_strain
from cmnet_core.training.training_case import TrainingCase
from cmnet_core.types import LabelSequence, Spacing

SPACING_MM = 1.5
"""Of the plane of a made cine: that of the networks."""

SIZE = 128
"""Voxels along each in-plane axis of a made cine."""

CYCLE_MS = 900.0
"""Duration of a made cycle, 67 beats a minute."""

BRIGHTEST = 1000.0
"""Scanners write whole numbers; normalised intensities are written in thousandths."""

TRUTH_VERSION = 1


@dataclass(frozen=True, slots=True)
class SimulateStage:
    """Make one cine, or several, of every labelled case.

    Attributes:
        out: Folder to write to.
        frames: In each cycle.
        variants: Cines of each heart, which differ in what no mask shows.
        seed: What all chance starts from.
    """

    out: Path
    frames: int
    variants: int
    seed: int
    name: str = "phantom"

    def open(self) -> Callable[[Case], list[Case]]:
        """Nothing to load; the function of a case."""
        return self._make

    def _make(self, case: Case) -> list[Case]:
        """The rows of the manifest; cines that are there, from the same files and settings, are left as they are."""
        _require_masks(case)
        wanted = [self._recipe(case, variant) for variant in range(1, self.variants + 1)]
        if not all(_is_there(self._folder(case, variant), recipe) for variant, recipe in enumerate(wanted, 1)):
            self._make_all(case, wanted)
        return [self._row(case, variant) for variant in range(1, self.variants + 1)]

    def _make_all(self, case: Case, recipes: list[dict[str, Any]]) -> None:
        real = load_training_case(case, spacing_mm=SPACING_MM)
        ed, es, image = _window(real)
        with naming(case.image[0]):
            velocity = fit_motion(ed, es, real.spacing)
        for variant, recipe in enumerate(recipes, 1):
            generator = torch.Generator().manual_seed(_chance(self.seed, case.case_id, variant))
            made = simulate_cine(image, ed, velocity, real.spacing, frames=self.frames, generator=generator)
            _write(self._folder(case, variant), made, real.spacing, recipe)

    def _recipe(self, case: Case, variant: int) -> dict[str, Any]:
        """All that decides what a cine looks like."""
        sources = [path for path in (*case.image, case.labels, case.labels_ed, case.labels_es) if path]
        return {
            "case_id": case.case_id,
            "files": {record.path: record.sha256 for record in record_inputs(sources)},
            "frames": self.frames,
            "seed": self.seed,
            "variant": variant,
        }

    def _folder(self, case: Case, variant: int) -> Path:
        return self.out / self._named(case, variant).case_id

    def _named(self, case: Case, variant: int) -> Case:
        return replace(case, subject_id=f"{case.subject_id}-made{variant}")

    def _row(self, case: Case, variant: int) -> Case:
        folder = self._folder(case, variant)
        truth = read_json(_truth_of(folder)) or {}
        return replace(
            self._named(case, variant),
            image=(folder / f"{folder.name}_cine.nii.gz",),
            labels=folder / f"{folder.name}_dseg.nii.gz",
            labels_ed=None,
            labels_es=None,
            label_scheme=LabelScheme.CMNET,
            ed=truth["ed"],
            es=truth["es"],
            frame_ms=CYCLE_MS / self.frames,
            heart_rate_bpm=None,
        )


def _require_masks(case: Case) -> None:
    """Say without reading an image that a case has no masks."""
    if case.labels is None and (case.labels_ed is None or case.labels_es is None):
        raise LabelError(
            f"{case.image[0]}: a cine is made from masks at ED and ES, and the manifest names none.",
            hint="Name labels_ed and labels_es, or a 4-D mask in the column labels, or leave the subject out.",
            code=ErrorCode.LABEL_GEOMETRY,
        )


def _chance(seed: int, case_id: str, variant: int) -> int:
    """A seed of its own for each cine, whatever stands in the other rows of the manifest."""
    digest = hashlib.sha256(f"{seed}/{case_id}/{variant}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _truth_of(folder: Path) -> Path:
    return folder / f"{folder.name}_truth.json"


def _is_there(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a cine was made to the end by this recipe: its truth is written last."""
    truth = read_json(_truth_of(folder))
    return truth is not None and truth.get("truth_version") == TRUTH_VERSION and truth.get("made_from") == recipe


def _window(real: TrainingCase) -> tuple[Tensor, Tensor, Float[Tensor, "z y x"]]:
    """Both masks and the ED image, cut out around the heart."""
    corner = [round(middle) - SIZE // 2 for middle in real.centre]
    rows, columns = (_within(first, size) for first, size in zip(corner, real.voxels.shape[2:], strict=True))
    cut = (slice(None), rows, columns)
    return real.mask(real.ed)[cut], real.mask(real.es)[cut], real.voxels[real.ed][cut]


def _within(first: int, size: int) -> slice:
    start = max(min(first, size - SIZE), 0)
    return slice(start, min(start + SIZE, size))


def _write(folder: Path, made: SimulatedCine, spacing: Spacing, recipe: dict[str, Any]) -> None:
    """Write image, masks and motion, and last what is true of them."""
    _truth_of(folder).unlink(missing_ok=True)
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    frame_ms = CYCLE_MS / len(made.voxels)
    image, labels = folder / f"{folder.name}_cine.nii.gz", folder / f"{folder.name}_dseg.nii.gz"
    write_image(image, (BRIGHTEST * made.voxels).round().short(), affine=affine, frame_ms=frame_ms)
    every = tuple(range(len(made.labels)))
    write_labels(labels, LabelSequence(made.labels, every, spacing, affine), frame_ms=frame_ms)
    write_ground_truth_motion(ground_truth_motion_path(image), made)
    write_json(_truth_of(folder), _truth(folder.name, made, spacing) | {"made_from": recipe})


def _truth(name: str, made: SimulatedCine, spacing: Spacing) -> dict[str, Any]:
    volumes, strain = volumes_ml(made.labels, spacing), wall_strain(made)
    return {
        "truth_version": TRUTH_VERSION,
        "subject_id": name,
        "ed": 0,
        "es": made.es,
        "hidden_motion_at_es": asdict(made.tangential),
        "indices_of_masks": asdict(clinical_indices(volumes, ed=0, es=made.es)),
        "volumes_of_masks": {key: _rounded(getattr(volumes, key), 3) for key in ("lv_ml", "myo_ml", "rv_ml")},
        "green_lagrange_strain_of_wall": {key: _rounded(getattr(strain, key), 5) for key in ("err", "ecc", "ell")},
    }


def _rounded(values: Float[Tensor, " t"], digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
