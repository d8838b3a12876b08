"""Tracking: the segmentation, the motion and the posterior of one cine by trained networks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from scipy import ndimage
from torch import Tensor

from cmnet_core.errors import CaseError, CheckpointError, CmnetError, ErrorCode
from cmnet_core.function.volumes import find_phases, volumes_ml
from cmnet_core.imaging import preprocess
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.composition import fields_to_ed, without_folds
from cmnet_core.inference.refinement import Refinement, close_cycle, refine
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes, frame_channels
from cmnet_core.models.cardiomorphnet import CardioMorphNet, iterate_cycle
from cmnet_core.models.checkpoint import ModelCard, find_weights, load_checkpoint
from cmnet_core.models.layers import Stacks, upsample
from cmnet_core.models.segnet import SegNet, class_probabilities
from cmnet_core.qc.result_checks import check_confidence
from cmnet_core.registration.displacement import jacobian_determinant, propagate_probabilities
from cmnet_core.stats.metrics import folded_voxels
from cmnet_core.types import CineSequence, LabelSequence, MotionField, Spacing
from cmnet_core.uncertainty.posterior import Posterior, pool_posterior

GPU_FRAMES_AT_ONCE = 8
"""Number of frames that SegNet processes at once on a GPU; a CPU is fastest with one, which its caches hold."""

FRAMES_FOR_CENTRE = 4
"""Number of frames, spread over the cycle, in which the heart is located."""

MIN_COMPONENT_FRACTION = 0.1
"""Fraction of a ventricle's largest component below which a separate component counts as an error."""

CLOSURE_ITERATIONS = 3
"""Number of corrections of the drift over a cycle; the residual after them is far below a voxel."""

MIN_FRAMES_TO_CLOSE = 8
"""Number of frames from which a composed cycle is corrected for drift. In shorter cycles the errors of the steps are
large and differ from step to step."""

NO_REFINEMENT = Refinement(iterations=0)
"""Settings that leave the network's motion as it is."""

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
    motion: CardioMorphNet
    card: ModelCard
    digest: str
    device: torch.device

    @property
    def sizes(self) -> MotionSizes:
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
        ed_to_es: The motion field on the subject's own grid that is fixed at ES and points into ED.
        entropy: Differential entropy of the motion's posterior in nats, in voxels of the motion's grid, on the
            subject's own grid; frame t has the entropy of the motion of frame t.
        posterior: The posteriors of the segmentation and of the motion, pooled for storage.
        cycle_consistency_error_mm: Mean length in mm, in the heart, of the motion once round the cycle, before the
            cycle is closed. With an ED-referenced network it is the estimated motion of ED into itself.
        folded_voxels: Number of voxels of the window at which the motion of each frame into ED folds; that of ED is the
            motion once round the cycle.
        flags: Quality flags of the input and of the segmentation.
    """

    cine: CineSequence
    window: Window
    segmentation: LabelSequence
    propagated: LabelSequence
    velocities: Float[Tensor, "t 3 z yh xh"]
    ed_to_es: MotionField
    entropy: Float[Tensor, "t z y x"]
    posterior: Posterior
    cycle_consistency_error_mm: float
    folded_voxels: tuple[int, ...]
    flags: tuple[str, ...]

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


def track(model: Model, cine: CineSequence, *, refinement: Refinement = NO_REFINEMENT, close: bool = False) -> Tracking:
    """Locate the heart, segment every frame and estimate the motion over the cycle, on the subject's own grid.

    Args:
        model: Trained networks.
        cine: A cine on the subject's own grid; where ED or ES is None it is determined by SegNet's LV volume.
        refinement: Settings of the optional refinement of the motion.
        close: Whether drift over the cycle is corrected where the motion is composed from frame to frame; with an
            ED-referenced network, as the shipped one is, nothing is composed and this has no effect.

    Raises:
        ImageError: The images have no contrast, or show no heart.
    """
    normalised = replace(cine, voxels=preprocess.normalise(cine.voxels))
    window = find_window(model, normalised)
    voxels = preprocess.extract(normalised.voxels, window)
    probabilities = _segment(model, voxels)
    ed, es = _phases(cine, probabilities, window.spacing)
    order = [(ed + step) % cine.frames for step in range(cine.frames)]
    from_ed = [probabilities[frame] for frame in order]
    estimate = _estimate_motion(model, [voxels[frame] for frame in order], from_ed, ed)
    velocities = without_folds(estimate.velocities, sizes=model.sizes)
    velocities = refine(velocities, from_ed, window.spacing, sizes=model.sizes, settings=refinement)
    error_mm = _cycle_consistency_error_mm(velocities, from_ed[0], window.spacing, model.sizes)
    composed = not model.sizes.ed_referenced and cine.frames >= MIN_FRAMES_TO_CLOSE
    iterations = CLOSURE_ITERATIONS if close and composed else 0
    velocities = close_cycle(velocities, sizes=model.sizes, iterations=iterations)
    to_ed = {field.fixed: field for field in fields_to_ed(velocities, window.spacing, ed=ed, sizes=model.sizes)}
    labels = LabelSequence(
        preprocess.restore_labels(probabilities, window), tuple(range(cine.frames)), cine.spacing, cine.affine
    )
    propagated = (
        probabilities[ed] if frame == ed else propagate_probabilities(probabilities[ed], to_ed[frame])
        for frame in range(cine.frames)
    )
    return Tracking(
        cine=CineSequence(
            voxels, window.spacing, preprocess.window_affine(cine.affine, window), cine.frame_ms, ed, es, cine.flags
        ),
        window=window,
        segmentation=labels,
        propagated=replace(
            labels, labels=torch.cat([preprocess.restore_labels(frame[None], window) for frame in propagated])
        ),
        velocities=velocities,
        ed_to_es=preprocess.restore_motion(to_ed[es], window),
        entropy=preprocess.restore(estimate.entropy, window, outside=PRIOR_ENTROPY),
        posterior=Posterior(probabilities[[ed, es]], estimate.log_sd, estimate.factor),
        cycle_consistency_error_mm=error_mm,
        folded_voxels=tuple(folded_voxels(jacobian_determinant(to_ed[frame])).count for frame in range(cine.frames)),
        flags=(*cine.flags, *check_confidence(probabilities[[ed, es]])),
    )


def find_window(model: Model, cine: CineSequence) -> Window:
    """Centre the networks' window on the heart, without a mask.

    The temporal changes of the images give a first estimate of the centre, and SegNet's probabilities in a window
    around it give the centre itself. Where SegNet finds no heart in this window, it is applied to the whole field of
    view.

    Args:
        model: Trained networks.
        cine: A cine of normalised intensities.

    Raises:
        ImageError: SegNet finds no heart in the whole field of view either.
    """
    spacing_mm, size = model.card.spacing_mm, model.card.window
    chosen = torch.linspace(0, cine.frames - 1, min(cine.frames, FRAMES_FOR_CENTRE)).round().long()
    frames = cine.voxels[chosen]
    guess = preprocess.window_around(cine, preprocess.heart_centre_from_motion(cine), spacing_mm=spacing_mm, size=size)
    try:
        centre = _heart_centre(model, frames, guess)
    except CmnetError as error:
        if error.code is not ErrorCode.HEART_NOT_FOUND:
            raise
        centre = _heart_centre(model, frames, preprocess.wide_window(cine, spacing_mm=spacing_mm))
    return preprocess.window_around(cine, centre, spacing_mm=spacing_mm, size=size)


def _heart_centre(model: Model, frames: Float[Tensor, "t z y x"], window: Window) -> tuple[float, float]:
    probabilities = _segment(model, preprocess.extract(frames, window))
    return preprocess.centre_of_probability(1.0 - probabilities[:, Label.BACKGROUND].mean(0), window)


def _segment(model: Model, voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t k z y x"]:
    """Return SegNet's class probabilities of every frame, without separate components."""
    inputs = voxels.to(model.device)
    at_once = 1 if model.device.type == "cpu" else GPU_FRAMES_AT_ONCE
    predicted = retry_with_smaller_batch(
        lambda frames: class_probabilities(model.segnet, inputs, frames_at_once=frames), at_once
    )
    frames = predicted.movedim(2, 1).cpu()
    probabilities = torch.empty(frames.shape)
    for cleaned, frame in zip(probabilities, frames, strict=True):
        cleaned.copy_(keep_largest_component(frame))
    return probabilities


def retry_with_smaller_batch(run: Callable[[int], Tensor], at_once: int) -> Tensor:
    """Call a function of a batch size, and halve the batch size as long as the GPU's memory is exhausted.

    Args:
        run: The function.
        at_once: The batch size to begin with.

    Raises:
        CaseError: The memory does not suffice for a batch of one.
    """
    while True:
        try:
            return run(at_once)
        except torch.cuda.OutOfMemoryError as error:
            if at_once == 1:
                raise CaseError(
                    f"The GPU's memory does not suffice for one frame: {error}",
                    hint="Use a GPU with more memory, fewer workers per GPU, or --device cpu.",
                    code=ErrorCode.OUT_OF_MEMORY,
                ) from error
        # The memory can be released only here, after the error and its references to tensors are gone.
        torch.cuda.empty_cache()
        at_once //= 2


def keep_largest_component(probabilities: Float[Tensor, "k z y x"]) -> Float[Tensor, "k z y x"]:
    """Remove separate components from the segmentation of one frame.

    All voxels outside of the heart's largest component become background. Within it, components of a ventricle that are
    smaller than :data:`MIN_COMPONENT_FRACTION` of its largest component take the next most probable class.
    """
    outside = _small_components(_most_probable(probabilities) != Label.BACKGROUND, fraction=1.0)
    probabilities = probabilities.clone()
    probabilities[:, outside] = 0.0
    probabilities[Label.BACKGROUND, outside] = 1.0
    for ventricle in (Label.LV, Label.RV):
        small = _small_components(_most_probable(probabilities) == ventricle, fraction=MIN_COMPONENT_FRACTION)
        probabilities[ventricle, small] = 0.0
    return probabilities


def _most_probable(probabilities: Float[Tensor, "k z y x"]) -> Int64[Tensor, "z y x"]:
    """Return the most probable class; on a CPU, argmax over the first axis is seven times as slow as max."""
    return probabilities.max(0).indices


def _small_components(mask: Bool[Tensor, "z y x"], *, fraction: float) -> Bool[Tensor, "z y x"]:
    """Return the connected components that are smaller than a fraction of the largest one (26-connectivity)."""
    components, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    small = sizes < fraction * sizes.max(initial=0)
    small[0] = False
    return torch.from_numpy(small[components])


def _phases(cine: CineSequence, probabilities: Float[Tensor, "t k z y x"], spacing: Spacing) -> tuple[int, int]:
    """Return ED and ES as given; where they are not, the frames of SegNet's largest and smallest LV volume."""
    if cine.ed is not None and cine.es is not None:
        return cine.ed, cine.es
    labels: UInt8[Tensor, "t z y x"] = probabilities.argmax(1).to(torch.uint8)
    ed, es = find_phases(volumes_ml(labels, spacing).lv_ml)
    return (cine.ed if cine.ed is not None else ed), (cine.es if cine.es is not None else es)


@dataclass(frozen=True, slots=True, eq=False)
class _MotionEstimate:
    """The motion network's results: the entropy in the order of the input, all else from the frame after ED on."""

    velocities: Float[Tensor, "t 3 z yh xh"]
    entropy: Float[Tensor, "t z y x"]
    log_sd: Float[Tensor, "t z yc xc"]
    factor: Float[Tensor, "t 3 r z yc xc"]


@torch.no_grad()
def _estimate_motion(
    model: Model,
    voxels: Sequence[Float[Tensor, "z y x"]],
    probabilities: Sequence[Float[Tensor, "k z y x"]],
    ed: int,
) -> _MotionEstimate:
    """Apply the motion network to the cycle from ED on; return the means, the entropies and the pooled posterior."""
    inputs = (
        torch.cat([image[None], frame[1:]])[: frame_channels(model.sizes)]
        for image, frame in zip(voxels, probabilities, strict=True)
    )
    frames = [frame.movedim(0, 1).to(model.device).contiguous(memory_format=torch.channels_last) for frame in inputs]
    velocities, entropies, pooled = [], [], []
    for cycle_step in iterate_cycle(model.motion, frames, Stacks((len(voxels[0]),)), None):
        motion = cycle_step.output.motion
        velocities.append(motion.mean.movedim(0, 1).cpu())
        entropies.append(upsample(motion.entropy[:, None], factor=model.motion.scale)[:, 0].cpu())
        pooled.append(pool_posterior(motion))
    log_sd, factor = (torch.stack(values).cpu() for values in zip(*pooled, strict=True))
    entropy = torch.stack(entropies).roll(ed + 1, dims=0)
    return _MotionEstimate(torch.stack(velocities), entropy, log_sd, factor)


def _cycle_consistency_error_mm(
    velocities: Float[Tensor, "t 3 z yh xh"], ed: Float[Tensor, "k z y x"], spacing: Spacing, sizes: MotionSizes
) -> float:
    """Return the mean length in mm, in the heart at ED, of the motion once round the cycle; 0 without a heart."""
    heart = ed[Label.BACKGROUND] < 0.5
    round_trip = fields_to_ed(velocities, spacing, ed=0, sizes=sizes)[-1]
    return float(round_trip.displacement_mm.norm(dim=0)[heart].mean()) if bool(heart.any()) else 0.0
