"""Tracking: the segmentation, the motion and the posterior of one cine by trained networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_core.errors import CheckpointError, ErrorCode
from cmnet_core.function.volumes import find_phases, volumes_ml
from cmnet_core.imaging import preprocess
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.composition import (
    Integration,
    fields_to_ed,
    iterate_fields_to_ed,
    without_folds,
    without_folds_on_subject_grid,
)
from cmnet_core.inference.correction import correct_probabilities
from cmnet_core.inference.segmentation import find_window, segment
from cmnet_core.inference.shape_motion import estimate_posteriors
from cmnet_core.io.orientation import StackOrientation, standard_orientation
from cmnet_core.labels import Label
from cmnet_core.models.build import AnyMotionSizes, MotionNetwork
from cmnet_core.models.cardiomorphnet import iterate_cycle
from cmnet_core.models.checkpoint import ModelCard, find_weights, load_checkpoint
from cmnet_core.models.layers import Stacks, upsample
from cmnet_core.models.segnet import SegNet
from cmnet_core.models.shape_motion_net import ShapeMotionNet
from cmnet_core.qc.result_checks import check_confidence
from cmnet_core.registration.displacement import jacobian_determinant, propagate_probabilities, surely_unfolded
from cmnet_core.stats.metrics import folded_voxels
from cmnet_core.types import CineSequence, LabelSequence, MotionField, Spacing
from cmnet_core.uncertainty.posterior import Posterior, pool_posterior

PRIOR_ENTROPY = 0.5 * 3.0 * math.log(2.0 * math.pi * math.e)
"""Entropy of the motion's prior N(0, I) in nats, in voxels of the motion's grid; the entropy outside of the window."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Networks on one device, ready for inference.

    Attributes:
        segnet: The segmentation network.
        motion: The motion network.
        card: Model card of the weights.
        digest: SHA-256 of the weights file.
        device: Device of the networks.
    """

    segnet: SegNet
    motion: MotionNetwork
    card: ModelCard
    digest: str
    device: torch.device

    @property
    def sizes(self) -> AnyMotionSizes:
        """Sizes of the motion network."""
        assert self.card.motion is not None, "load_model refuses weights without a motion network"
        return self.card.motion


def load_model(source: str | Path, device: torch.device) -> Model:
    """Load a shipped model by its name, or a weights file that ``cmnet train --stage motion`` wrote.

    Args:
        source: Name of a shipped model, or path of a weights file.
        device: Device on which the networks run.

    Raises:
        CheckpointError: There is no such model, the file is damaged, or it contains SegNet only.
    """
    checkpoint = load_checkpoint(find_weights(source))
    if checkpoint.motion is None:
        raise CheckpointError(
            f"The weights file {source} contains SegNet only, without the motion network.",
            hint="Train the second stage with 'cmnet train --stage motion --init FILE', or name a shipped model.",
            code=ErrorCode.CHECKPOINT,
        )
    segnet, motion = checkpoint.segnet.to(device), checkpoint.motion.to(device)
    return Model(segnet, motion, checkpoint.card, checkpoint.digest, device)


@dataclass(frozen=True, slots=True, eq=False)
class Tracking:
    """The results of inference for one subject. Frames are numbered as in the input.

    Attributes:
        cine: The networks' input: normalised intensities at their spacing and in their window, with ED and ES.
        window: The window's location on the subject's own grid.
        segmentation: SegNet's label maps of all frames, on the subject's own grid.
        propagated: SegNet's ED label map propagated to all frames by the motion, on the subject's own grid.
        velocities: Velocities of the frames from the one after ED on, ED last, on the motion's own grid and in its
            voxels; :mod:`cmnet_core.inference.composition` computes displacement fields from them.
        integration: How these velocities become displacement fields.
        ed_to_es: The motion field on the subject's own grid that is fixed at ES and points into ED.
        entropy: Differential entropy of the motion's posterior in nats, in voxels of the motion's grid, on the
            subject's own grid; frame t has the entropy of the motion of frame t. None without a posterior.
        posterior: The posteriors of the segmentation and of the motion, pooled for storage; None for a method that has
            no posterior of the motion.
        cycle_consistency_error_mm: Mean length in mm, in the heart, of the motion once round the cycle. With an
            ED-referenced network it is the estimated motion of ED into itself. None for a method that registers every
            frame with ED.
        folded_voxels: Number of voxels of the window at which the motion of each frame into ED folds; that of ED is the
            motion once round the cycle.
        flags: Quality flags of the input and of the segmentation.
        own_masks: Whether the method that estimated the motion has segmented the frames too; otherwise the label maps
            of ``segmentation`` are those of another network.
    """

    cine: CineSequence
    window: Window
    segmentation: LabelSequence
    propagated: LabelSequence
    velocities: Float[Tensor, "t 3 z yh xh"]
    integration: Integration
    ed_to_es: MotionField
    entropy: Float[Tensor, "t z y x"] | None
    posterior: Posterior | None
    cycle_consistency_error_mm: float | None
    folded_voxels: tuple[int, ...]
    flags: tuple[str, ...]
    own_masks: bool = True

    @property
    def ed(self) -> int:
        """End-diastolic frame."""
        assert self.cine.ed is not None, "a tracked cine has its ED"
        return self.cine.ed

    @property
    def es(self) -> int:
        """End-systolic frame."""
        assert self.cine.es is not None, "a tracked cine has its ES"
        return self.cine.es


def track(model: Model, cine: CineSequence, *, corrected: UInt8[Tensor, "t z y x"] | None = None) -> Tracking:
    """Locate the heart, segment every frame and estimate the motion over the cycle, on the subject's own grid.

    The networks see the stack in the standard orientation, so that its results do not depend on how it is stored.

    Args:
        model: Trained networks.
        cine: A cine on the subject's own grid; where ED or ES is None it is determined by SegNet's LV volume.
        corrected: Label maps of all frames that take the place of SegNet's, from which the motion is estimated.

    Raises:
        ImageError: The images have no contrast, or show no heart.
    """
    orientation = standard_orientation(cine.affine, cine.flags)
    given = None if corrected is None else orientation.orient(corrected)
    return restored(_track(model, orientation.orient_cine(cine), given), orientation, cine)


def restored(tracking: Tracking, orientation: StackOrientation, cine: CineSequence) -> Tracking:
    """Bring the results for a cine in the standard orientation back to the grid on which the cine is stored.

    Args:
        tracking: The results.
        orientation: How the cine was brought to the standard orientation.
        cine: The cine as it is stored.
    """
    if orientation == StackOrientation():
        return tracking
    window = preprocess.oriented_back(tracking.window, orientation)
    field = tracking.ed_to_es
    segmentation, propagated = (
        replace(maps, labels=orientation.restore(maps.labels), spacing=cine.spacing, affine=cine.affine)
        for maps in (tracking.segmentation, tracking.propagated)
    )
    return replace(
        tracking,
        cine=replace(
            tracking.cine,
            voxels=orientation.restore(tracking.cine.voxels),
            spacing=window.spacing,
            affine=preprocess.window_affine(cine.affine, window),
        ),
        window=window,
        segmentation=segmentation,
        propagated=propagated,
        velocities=orientation.restore_vectors(tracking.velocities, 1),
        ed_to_es=replace(
            field, displacement_mm=orientation.restore_vectors(field.displacement_mm, 0), spacing=cine.spacing
        ),
        entropy=None if tracking.entropy is None else orientation.restore(tracking.entropy),
        posterior=None if tracking.posterior is None else tracking.posterior.restored(orientation),
    )


def _track(model: Model, cine: CineSequence, corrected: UInt8[Tensor, "t z y x"] | None) -> Tracking:
    """Track a cine in the standard orientation."""
    normalised = replace(cine, voxels=preprocess.normalise(cine.voxels))
    window = find_window(model.segnet, normalised, spacing_mm=model.card.spacing_mm, size=model.card.window)
    voxels = preprocess.extract(normalised.voxels, window)
    del normalised  # as large as the cine
    probabilities = segment(model.segnet, voxels)
    maps = preprocess.restore_labels(probabilities, window) if corrected is None else corrected
    if corrected is not None:
        correct_probabilities(probabilities, corrected, window)
    ed, es = find_ed_and_es(cine, probabilities, window.spacing)
    order = [(ed + step) % cine.frames for step in range(cine.frames)]
    estimate = _estimate_motion(
        model, [voxels[t] for t in order], [probabilities[t] for t in order], window.spacing, ed
    )
    velocities = without_folds(estimate.velocities, sizes=model.sizes)
    error_mm = _cycle_consistency_error_mm(velocities, probabilities[ed], window.spacing, model.sizes)
    if model.sizes.ed_referenced:
        velocities[-1] = 0.0
        at_es = (es - ed) % cine.frames - 1
        velocities[at_es] = without_folds_on_subject_grid(velocities[at_es], window, sizes=model.sizes)
    labels = LabelSequence(maps, tuple(range(cine.frames)), cine.spacing, cine.affine)
    phases = probabilities[[ed, es]]
    del probabilities  # larger than the cine
    propagated, folds = torch.empty_like(labels.labels), [0] * cine.frames
    ed_to_es: MotionField | None = None
    for velocity, field in zip(
        velocities, iterate_fields_to_ed(velocities, window.spacing, ed=ed, sizes=model.sizes), strict=True
    ):
        frame = field.fixed
        warped = phases[0] if frame == ed else propagate_probabilities(phases[0], field)
        propagated[frame] = preprocess.restore_labels(warped[None], window)[0]
        # Where the velocity proves that there is no fold, the determinant need not be computed.
        if not (model.sizes.ed_referenced and surely_unfolded(velocity, steps=model.sizes.integration_steps)):
            folds[frame] = folded_voxels(jacobian_determinant(field)).count
        ed_to_es = preprocess.restore_motion(field, window) if frame == es else ed_to_es
    assert ed_to_es is not None, "ES is a frame of the cycle"
    return Tracking(
        cine=CineSequence(
            voxels, window.spacing, preprocess.window_affine(cine.affine, window), cine.frame_ms, ed, es, cine.flags
        ),
        window=window,
        segmentation=labels,
        propagated=replace(labels, labels=propagated),
        velocities=velocities,
        integration=model.sizes,
        ed_to_es=ed_to_es,
        entropy=preprocess.restore(estimate.excess_entropy, window, outside=0.0).add_(PRIOR_ENTROPY),
        posterior=Posterior(phases, estimate.log_sd, estimate.factor),
        cycle_consistency_error_mm=error_mm,
        folded_voxels=tuple(folds),
        flags=(*cine.flags, *check_confidence(phases)),
    )


def estimate_velocities(
    model: Model, cine: CineSequence, probabilities: Float[Tensor, "t k z y x"]
) -> Float[Tensor, "t 3 z yh xh"]:
    """Estimate the mean velocities of a cycle, without folds, from the frame after ED on; the last is that of ED.

    Args:
        model: Trained networks.
        cine: Normalised intensities in the networks' window and in the standard orientation, with ED.
        probabilities: SegNet's class probabilities in the same window.
    """
    assert cine.ed is not None, "the cycle starts at ED"
    order = [(cine.ed + step) % cine.frames for step in range(cine.frames)]
    estimate = _estimate_motion(
        model, [cine.voxels[t] for t in order], [probabilities[t] for t in order], cine.spacing, cine.ed
    )
    return without_folds(estimate.velocities, sizes=model.sizes)


def find_ed_and_es(cine: CineSequence, probabilities: Float[Tensor, "t k z y x"], spacing: Spacing) -> tuple[int, int]:
    """Return ED and ES as given; where they are not, the frames of SegNet's largest and smallest LV volume."""
    if cine.ed is not None and cine.es is not None:
        return cine.ed, cine.es
    labels: UInt8[Tensor, "t z y x"] = probabilities.argmax(1).to(torch.uint8)
    ed, es = find_phases(volumes_ml(labels, spacing).lv_ml)
    return (cine.ed if cine.ed is not None else ed), (cine.es if cine.es is not None else es)


@dataclass(frozen=True, slots=True, eq=False)
class _MotionEstimate:
    """The motion network's results: the entropy in the order of the input, all else from the frame after ED on.

    The entropy is that beyond the entropy of the prior, which is 0 where the network estimates nothing.
    """

    velocities: Float[Tensor, "t 3 z yh xh"]
    excess_entropy: Float[Tensor, "t z y x"]
    log_sd: Float[Tensor, "t z yc xc"]
    factor: Float[Tensor, "t 3 r z yc xc"]


@torch.no_grad()
def _estimate_motion(
    model: Model,
    voxels: Sequence[Float[Tensor, "z y x"]],
    probabilities: Sequence[Float[Tensor, "k z y x"]],
    spacing: Spacing,
    ed: int,
) -> _MotionEstimate:
    """Apply the motion network to the cycle from ED on; return the means, the entropies and the pooled posterior."""
    if isinstance(model.motion, ShapeMotionNet):
        posteriors = estimate_posteriors(model.motion, voxels, probabilities, spacing)
    else:
        frames = [frame[:, None].to(model.device) for frame in voxels]
        posteriors = [step.motion for step in iterate_cycle(model.motion, frames, Stacks((len(voxels[0]),)), None)]
    log_sd, factor = (torch.stack(values).cpu() for values in zip(*map(pool_posterior, posteriors), strict=True))
    entropies = [
        upsample((posterior.entropy - PRIOR_ENTROPY)[:, None], factor=2**model.sizes.output_level)[:, 0].cpu()
        for posterior in posteriors
    ]
    return _MotionEstimate(
        velocities=torch.stack([posterior.mean.movedim(0, 1).cpu() for posterior in posteriors]),
        excess_entropy=torch.stack(entropies).roll(ed + 1, dims=0),
        log_sd=log_sd,
        factor=factor,
    )


def _cycle_consistency_error_mm(
    velocities: Float[Tensor, "t 3 z yh xh"], ed: Float[Tensor, "k z y x"], spacing: Spacing, sizes: AnyMotionSizes
) -> float:
    """Return the mean length in mm, in the heart at ED, of the motion once round the cycle; 0 without a heart."""
    heart = ed[Label.BACKGROUND] < 0.5
    # Where every velocity points into ED, the last one is the motion once round the cycle.
    steps = velocities[-1:] if sizes.ed_referenced else velocities
    round_trip = fields_to_ed(steps, spacing, ed=0, sizes=sizes)[-1]
    return float(round_trip.displacement_mm.norm(dim=0)[heart].mean()) if bool(heart.any()) else 0.0
