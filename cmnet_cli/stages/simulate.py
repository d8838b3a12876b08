"""Simulated cines on disk: images of real subjects, warped along a known path, with the ground truth of the motion."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import SimulatedMotion
from cmnet_cli.derivatives.ground_truth_motion import write_ground_truth_motion
from cmnet_cli.runs.paths import SimulatedCaseFolder, SimulationFolder, ground_truth_motion_path
from cmnet_cli.runs.provenance import record_inputs
from cmnet_cli.stages.read_images import missing_masks, naming
from cmnet_cli.stages.training_case import load_training_case
from cmnet_core.function.volumes import clinical_indices, volumes_ml
from cmnet_core.io.atomic import read_json, write_json
from cmnet_core.io.nifti import write_image, write_labels
from cmnet_core.labels import LabelScheme
from cmnet_core.simulation.cine import SimulatedCine, fit_motion, require_ventricle, simulate_cine
from cmnet_core.simulation.cylinder_cine import simulate_cylinder_cine
from cmnet_core.simulation.ground_truth import wall_strain
from cmnet_core.training.training_case import TrainingCase
from cmnet_core.types import LabelSequence, Spacing

SPACING_MM = 1.5
"""In-plane voxel size of a simulated cine in mm: that of the networks."""

SIZE = 128
"""Number of voxels along each in-plane axis of a simulated cine."""

CYCLE_MS = 900.0
"""Duration of a simulated cycle in ms: 67 beats per minute."""

BRIGHTEST = 1000.0
"""Intensity that a normalised intensity of 1 becomes: scanners store integers."""

TRUTH_VERSION = 1


@dataclass(frozen=True, slots=True)
class SimulateStage:
    """Simulate one or several cines of every labelled case.

    Attributes:
        out: Folder to write to.
        frames: Frames per cardiac cycle.
        variants: Number of cines per case, which differ in the motion that masks do not determine, and in noise.
        seed: Random seed.
        motion: Class of the motion.
    """

    out: Path
    frames: int
    variants: int
    seed: int
    motion: SimulatedMotion = SimulatedMotion.VELOCITY
    name: str = "phantom"

    def open(self) -> Callable[[Case], list[Case]]:
        """Return the function that simulates the cines of a case."""
        return self.simulate_case

    def simulate_case(self, case: Case) -> list[Case]:
        """Simulate the cines of a case, unless they exist with the same inputs and settings.

        Returns:
            The rows of the manifest of simulated cines.

        Raises:
            CaseError: The image or the masks cannot be used, or there are no masks at ED and ES.
        """
        if not case.has_masks:
            raise missing_masks(case, "Simulating a cine")
        provenance = {self._folder(case, variant): self._provenance(case, variant) for variant in self._numbers}
        if not all(_is_complete(folder, wanted) for folder, wanted in provenance.items()):
            self._simulate_all(case, provenance)
        return [self._manifest_row(case, variant) for variant in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(1, self.variants + 1)

    def _simulate_all(self, case: Case, provenance: dict[SimulatedCaseFolder, dict[str, Any]]) -> None:
        source = load_training_case(case, spacing_mm=SPACING_MM)
        ed_mask, es_mask, ed_image = _crop_around_heart(source)
        with naming(case.image[0]):
            require_ventricle(ed_mask, es_mask)
            fitted = self.motion == SimulatedMotion.VELOCITY
            velocity = fit_motion(ed_mask, es_mask, source.spacing) if fitted else None
        for variant, (folder, record) in enumerate(provenance.items(), 1):
            generator = torch.Generator().manual_seed(_seed_of(self.seed, case.case_id, variant))
            spacing, frames = source.spacing, self.frames
            if velocity is None:
                cine = simulate_cylinder_cine(ed_image, ed_mask, es_mask, spacing, frames=frames, generator=generator)
            else:
                cine = simulate_cine(ed_image, ed_mask, velocity, spacing, frames=frames, generator=generator)
            _write(folder, cine, source.spacing, record)

    def _provenance(self, case: Case, variant: int) -> dict[str, Any]:
        """Return the inputs and settings that determine a cine."""
        inputs = [path for path in (*case.image, case.labels, case.labels_ed, case.labels_es) if path]
        return {
            "case_id": case.case_id,
            "files": {record.path: record.sha256 for record in record_inputs(inputs)},
            "frames": self.frames,
            "seed": self.seed,
            "variant": variant,
        } | ({} if self.motion == SimulatedMotion.VELOCITY else {"motion": str(self.motion)})

    def _folder(self, case: Case, variant: int) -> SimulatedCaseFolder:
        return SimulationFolder(self.out).case(_renamed(case, variant).case_id)

    def _manifest_row(self, case: Case, variant: int) -> Case:
        folder = self._folder(case, variant)
        truth = read_json(folder.truth) or {}
        return replace(
            _renamed(case, variant),
            image=(folder.image,),
            labels=folder.labels,
            labels_ed=None,
            labels_es=None,
            label_scheme=LabelScheme.CMNET,
            ed=truth["ed"],
            es=truth["es"],
            frame_ms=CYCLE_MS / self.frames,
            heart_rate_bpm=None,
        )


def _renamed(case: Case, variant: int) -> Case:
    return replace(case, subject_id=f"{case.subject_id}-sim{variant}")


def _seed_of(seed: int, case_id: str, variant: int) -> int:
    """Return the seed of one cine, which does not depend on the other rows of the manifest."""
    digest = hashlib.sha256(f"{seed}/{case_id}/{variant}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _is_complete(folder: SimulatedCaseFolder, provenance: dict[str, Any]) -> bool:
    """Whether a cine exists with this provenance; its ground truth is written last."""
    truth = read_json(folder.truth)
    return truth is not None and truth.get("truth_version") == TRUTH_VERSION and truth.get("provenance") == provenance


def _crop_around_heart(
    source: TrainingCase,
) -> tuple[UInt8[Tensor, "z y x"], UInt8[Tensor, "z y x"], Float[Tensor, "z y x"]]:
    """Crop the masks at ED and ES and the ED image to the window around the heart."""
    corner = [round(middle) - SIZE // 2 for middle in source.centre]
    rows, columns = (_within(first, size) for first, size in zip(corner, source.voxels.shape[2:], strict=True))
    window = (slice(None), rows, columns)
    return source.mask(source.ed)[window], source.mask(source.es)[window], source.voxels[source.ed][window]


def _within(first: int, size: int) -> slice:
    start = max(min(first, size - SIZE), 0)
    return slice(start, min(start + SIZE, size))


def _write(folder: SimulatedCaseFolder, cine: SimulatedCine, spacing: Spacing, provenance: dict[str, Any]) -> None:
    """Write image, masks and motion of a cine, and last its ground truth."""
    folder.truth.unlink(missing_ok=True)
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    frame_ms = CYCLE_MS / len(cine.voxels)
    write_image(folder.image, (BRIGHTEST * cine.voxels).round().short(), affine=affine, frame_ms=frame_ms)
    frames = tuple(range(len(cine.labels)))
    write_labels(folder.labels, LabelSequence(cine.labels, frames, spacing, affine), frame_ms=frame_ms)
    write_ground_truth_motion(ground_truth_motion_path(folder.image), cine)
    write_json(folder.truth, _truth(folder.case_id, cine, spacing) | {"provenance": provenance})


def _truth(case_id: str, cine: SimulatedCine, spacing: Spacing) -> dict[str, Any]:
    volumes, strain = volumes_ml(cine.labels, spacing), wall_strain(cine)
    return {
        "truth_version": TRUTH_VERSION,
        "subject_id": case_id,
        "ed": 0,
        "es": cine.es,
        "hidden_motion_at_es": asdict(cine.tangential),
        "indices_of_masks": asdict(clinical_indices(volumes, ed=0, es=cine.es)),
        "volumes_of_masks": {name: _rounded(getattr(volumes, name), 3) for name in ("lv_ml", "myo_ml", "rv_ml")},
        "green_lagrange_strain_of_wall": {name: _rounded(getattr(strain, name), 5) for name in ("err", "ecc", "ell")},
    }


def _rounded(values: Float[Tensor, " t"], digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
