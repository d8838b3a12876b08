"""Ablation of the motion's estimate: each part is removed in turn, against Dice in both directions and known motion.

    python -m benchmarks.ablation --data ../shared/data [--model NAME|FILE] [--phantoms 6] [--json FILE]

Choices are made on subjects that do not validate: 16 of the 80 training patients of ACDC at ED and ES, and phantoms of
20 frames. Segmentations are the same in all variants, and are computed once.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.datasets import from_acdc
from cmnet_cli.stages.evaluate import propagate_labels
from cmnet_cli.stages.read_images import load_cine, load_labels
from cmnet_core.imaging.preprocess import restore_motion
from cmnet_core.inference import shape_motion, tracking
from cmnet_core.inference.composition import field_between, fields_to_ed
from cmnet_core.inference.segmentation import find_window, segment
from cmnet_core.inference.tracking import Model, Tracking, load_model, track
from cmnet_core.labels import Label
from cmnet_core.mechanics.analysis import analyse_wall
from cmnet_core.mechanics.strain import Direction
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.phantom import draw_spec
from cmnet_core.phantom.generate import Phantom, make_phantom
from cmnet_core.registration.displacement import jacobian_determinant
from cmnet_core.stats.metrics import dice_pct, surface_distances_mm
from cmnet_core.types import CineSequence, LabelSequence

STRUCTURES = (Label.LV, Label.MYO, Label.RV)
PATIENTS = (*(f"patient{20 * group + number:03d}" for group in range(5) for number in (3, 8, 13)), "patient078")
"""Training patients: three of each diagnostic group, and a fourth of the normal ones."""

FRAMES = 20
FIRST_SEED = 960_001
DEFECT_EVERY = 3
"""Every n-th phantom has a hypokinetic segment."""

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of the motion's estimate.

    Attributes:
        name: Its name in the table.
        change: Changes a copy of the shape motion network.
        rotates: Whether RotationNet corrects the rotation of the slices.
        on_patients: Whether the change has an effect on two frames.
    """

    name: str
    change: Callable[[ShapeMotionNet], None] = lambda network: None
    rotates: bool = True
    on_patients: bool = True


def _without_through_plane(network: ShapeMotionNet) -> None:
    torch.nn.init.zeros_(network.through_plane.head.weight)
    _set_to_zero(network.through_plane.head.bias)


def _without_residual(network: ShapeMotionNet) -> None:
    torch.nn.init.zeros_(network.residual.head.weight)
    _set_to_zero(network.residual.head.bias)


def _set_to_zero(bias: Tensor | None) -> None:
    assert bias is not None, "a convolution has a bias by default"
    torch.nn.init.zeros_(bias)


def _with(**sizes: int) -> Callable[[ShapeMotionNet], None]:
    def change(network: ShapeMotionNet) -> None:
        network.sizes = replace(network.sizes, **sizes)  # type: ignore[arg-type]

    return change


VARIANTS = (
    Variant("as shipped"),
    Variant("without ThroughPlaneNet", _without_through_plane),
    Variant("without ResidualNet", _without_residual),
    Variant("1 cascade iteration", _with(iterations=1)),
    Variant("3 cascade iterations", _with(iterations=3)),
    Variant("without RotationNet", rotates=False),
    Variant("frames one by one", _with(harmonics=0), on_patients=False),
    Variant("3 harmonics", _with(harmonics=3), on_patients=False),
    Variant("6 harmonics", _with(harmonics=6), on_patients=False),
)


@contextmanager
def applied(variant: Variant, model: Model) -> Iterator[Model]:
    """Yield the model of a variant; within the block, inference is that of the variant."""
    network = deepcopy(model.motion)
    assert isinstance(network, ShapeMotionNet), "the ablation is that of the shape motion network"
    variant.change(network)
    changed = replace(model, motion=network, card=replace(model.card, motion=network.sizes))
    if variant.rotates:
        yield changed
        return

    def no_rotation(_network: ShapeMotionNet, _ed: Tensor, _frame: Tensor, velocity: Tensor) -> Tensor:
        return torch.zeros_like(velocity)

    with patch.object(shape_motion, "rotation_correction", no_rotation):
        yield changed


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A cine with its masks; its window and its segmentation are computed once for all variants."""

    name: str
    cine: CineSequence
    labels: LabelSequence
    phantom: Phantom | None
    computed: dict[str, Any] = field(default_factory=dict)

    def track(self, model: Model) -> Tracking:
        """Track the cine; the segmentation is that of the first call."""
        with (
            patch.object(tracking, "find_window", self._once("window", find_window)),
            patch.object(tracking, "segment", self._once("probabilities", segment)),
            torch.no_grad(),
        ):
            return track(model, self.cine)

    def _once(self, name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name not in self.computed:
                self.computed[name] = compute(*arguments, **options)
            found = self.computed[name]
            return found.clone() if isinstance(found, Tensor) else found

        return call


def patients(data: Path) -> list[Subject]:
    """Read the patients at ED and ES."""
    cases = [case for case in from_acdc(data / "acdc").cases if case.subject_id in PATIENTS]
    return [_patient(case) for case in cases]


def _patient(case: Case) -> Subject:
    cine = load_cine(case)
    labels = load_labels(case, cine)
    assert labels is not None, "patients of ACDC have masks"
    assert cine.ed is not None, "patients of ACDC have both phases"
    assert cine.es is not None, "patients of ACDC have both phases"
    masks = torch.stack([labels.at(cine.ed), labels.at(cine.es)])
    two = replace(cine, voxels=cine.voxels[[cine.ed, cine.es]], ed=0, es=1)
    return Subject(case.subject_id, two, replace(labels, labels=masks, frames=(0, 1)), None)


def phantoms(count: int) -> list[Subject]:
    """Draw phantoms."""
    drawn = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        generator = torch.Generator().manual_seed(seed)
        spec = draw_spec(generator, frames=FRAMES, defect=seed % DEFECT_EVERY == 0)
        phantom = make_phantom(spec, generator)
        drawn.append(Subject(f"phantom {seed}", phantom.cine, phantom.labels, phantom))
    return drawn


def patient_metrics(subject: Subject, found: Tracking, model: Model) -> Metrics:
    """Compute Dice and HD95 of propagated reference masks, the variation of det F and the descent of the base."""
    ed, es = subject.labels.at(0), subject.labels.at(1)
    metrics: Metrics = {}
    distances = []
    for way, moving, fixed, mask, reference in (("ED to ES", 0, 1, ed, es), ("ES to ED", 1, 0, es, ed)):
        field = field_between(
            found.velocities, found.window.spacing, ed=0, sizes=model.sizes, moving=moving, fixed=fixed
        )
        warped = propagate_labels(mask, field, found.window)
        for label in STRUCTURES:
            metrics[f"{way} {label.name}, %"] = dice_pct(warped, reference, label) or 0.0
            distance = surface_distances_mm(warped == label, reference == label, subject.cine.spacing)
            distances.append(distance.hd95_mm or float("nan"))
    metrics["both ways, %"] = fmean(metrics.values())
    metrics["HD95, mm"] = float(torch.tensor(distances).nanmean())
    back = field_between(found.velocities, found.window.spacing, ed=0, sizes=model.sizes, moving=1, fixed=0)
    metrics["SD of det F"] = float(jacobian_determinant(restore_motion(back, found.window))[ed == Label.MYO].std())
    slices = (es == Label.MYO).sum((1, 2)).nonzero()[:, 0]
    through = found.ed_to_es.displacement_mm[0]
    ends = [abs(float(through[z][es[z] == Label.MYO].mean())) for z in (int(slices[0]), int(slices[-1]))]
    metrics["base, mm"] = max(ends)
    return metrics


def phantom_metrics(subject: Subject, found: Tracking, model: Model) -> Metrics:
    """Compute the errors of motion and strain at ES against the closed form."""
    assert subject.phantom is not None
    assert subject.cine.es is not None
    truth, es = subject.phantom.truth, subject.cine.es
    error = found.ed_to_es.displacement_mm - truth.to_ed(es).displacement_mm
    wall = subject.labels.at(es) == Label.MYO
    z, y, x = error[:, wall]
    steps = fields_to_ed(found.velocities, found.window.spacing, ed=0, sizes=model.sizes)
    fields = [restore_motion(field, found.window) for field in steps if field.fixed != 0]
    analysed = analyse_wall(
        subject.labels.at(0),
        fields,
        spacing=subject.cine.spacing,
        affine=subject.cine.affine,
        ed=0,
        es=es,
        frame_ms=subject.cine.frame_ms,
    )
    k, order = analysed.timing.es, list(analysed.motion.frames)
    segments = analysed.strain.segments[Direction.CIRCUMFERENTIAL].double()
    known = 100.0 * truth.segment_strain().ecc[order].double()
    valid = segments[k].isfinite()
    pair = torch.stack([segments[k][valid], known[k][valid]])
    roughness = segments.diff(n=2, dim=0).abs().nanmean() / known.diff(n=2, dim=0).abs().nanmean()
    radial, circumferential, longitudinal = (
        float(analysed.strain.whole[direction][k]) - 100.0 * float(truth.global_strain()[direction, es])
        for direction in (Direction.RADIAL, Direction.CIRCUMFERENTIAL, Direction.LONGITUDINAL)
    )
    return {
        "in-plane, mm": float(torch.hypot(y, x).mean()),
        "through-plane, mm": float(z.abs().mean()),
        "Ecc RMSE": float((pair[0] - pair[1]).square().mean().sqrt()),
        "Ecc r": float(torch.corrcoef(pair)[0, 1]),
        "GCS error": circumferential,
        "GRS error": radial,
        "GLS-SAX error": longitudinal,
        "roughness": float(roughness),
        "largest Ecc error": float((segments - known).abs().nan_to_num(0.0).amax()),
    }


def summary(values: Sequence[float]) -> str:
    """Format mean ± standard deviation over subjects."""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}"


def table(results: dict[str, list[Metrics]]) -> str:
    """Format one row for each variant in Markdown."""
    names = list(next(iter(results.values()))[0])
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for variant, rows in results.items():
        lines.append(f"| {variant} | " + " | ".join(summary([row[name] for row in rows]) for name in names) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all variants on all subjects and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--model", default="default", help="a shipped model, or a .safetensors file")
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--json", type=Path, help="also write the metrics of each subject")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(given.model, torch.device("cpu"))
    groups = (
        ("ACDC, training patients", patients(given.data), patient_metrics),
        ("phantoms", phantoms(given.phantoms), phantom_metrics),
    )
    record: dict[str, dict[str, list[Metrics]]] = {}
    for title, subjects, measure in groups:
        record[title] = {}
        for variant in VARIANTS:
            if variant.on_patients or subjects[0].phantom is not None:
                with applied(variant, model) as changed:
                    record[title][variant.name] = [
                        measure(subject, subject.track(changed), changed) for subject in subjects
                    ]
        print(f"{title}, n = {len(subjects)}\n\n{table(record[title])}\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
