"""A cine in, labels, motion and doubt out: one subject through trained networks."""

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
from cmnet_core.registration.displacement import jacobian_determinant, propagate_probabilities
from cmnet_core.stats.metrics import folded_voxels
from cmnet_core.types import CineSequence, LabelSequence, MotionField, Spacing
from cmnet_core.uncertainty.posterior import Posterior, pool_posterior

FRAMES_AT_ONCE = 8
"""Frames that SegNet takes in one pass on a GPU; a processor is fastest with one, which its caches hold."""

FRAMES_FOR_CENTRE = 4
"""Frames, spread over the cycle, in which the heart is looked for."""

MIN_COMPONENT_FRACTION = 0.1
"""A separate piece of a ventricle smaller than this share of the largest is taken for an error."""

CLOSING_ROUNDS = 3
"""Rounds in which drift is spread over a cycle: what is left after them is far below a voxel."""

FRAMES_TO_CLOSE = 8
"""Shorter cycles are not closed: what a few long steps miss is an error of each, not drift in equal shares. Where every
frame's motion is asked for from ED, nothing drifts."""

AS_ESTIMATED = Refinement(iterations=0)
"""The network's motion as it is."""

PRIOR_ENTROPY = 0.5 * 3.0 * math.log(2.0 * math.pi * math.e)
"""Entropy of p(D) = N(0, I) in nats, in voxels of the motion's grid: what is known where nothing was estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Networks ready for inference on one device.

    Attributes:
        segnet: What is where.
        motion: What moves.
        card: What the weights say of themselves.
        digest: SHA-256 of the weights file.
        device: Where the networks live.
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
    """Load a shipped model by name, or any weights file that ``cmnet train --stage motion`` wrote.

    Raises:
        CheckpointError: There is no such model, the file is damaged, or it holds SegNet only.
    """
    checkpoint = load_checkpoint(find_weights(source))
    if checkpoint.motion is None:
        raise CheckpointError(
            f"The weights file {source} holds SegNet only, without the motion network.",
            hint="Train the second stage with 'cmnet train --stage motion --init FILE', or name a shipped model.",
            code=ErrorCode.CHECKPOINT,
        )
    segnet, motion = checkpoint.segnet.to(device), checkpoint.motion.to(device)
    return Model(segnet, motion, checkpoint.card, checkpoint.digest, device)


@dataclass(frozen=True, slots=True, eq=False)
class Tracking:
    """What inference knows of one subject. Frames are numbered as in the input.

    Attributes:
        cine: What the networks saw: normalised, at their spacing, in their window, with ED and ES.
        window: The way back to the subject's own grid.
        segmentation: SegNet's label maps of all frames, on the subject's own grid.
        propagated: SegNet's ED mask carried to all frames by the motion, on the subject's own grid.
        velocities: Of the motion of every frame of the closed cycle from the one after ED on, ED being the last, on the
            motion's own grid, in its voxels; :mod:`cmnet_core.inference.composition` makes fields of them.
        ed_to_es: The ED→ES motion on the subject's own grid: fixed at ES, pointing into ED.
        entropy: Differential entropy of each step's posterior in nats, in voxels of the motion's grid, shown on the
            subject's own grid; frame t holds the step into t.
        cycle_consistency_error_mm: Mean distance, inside the heart, by which the estimated motion fails to close,
            before it is made to.
        folded_voxels: Of every frame, how many voxels of the window the motion from ED into it folds; ED's own is the
            motion once round the cycle.
        flags: Quality flags.
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
        assert self.cine.ed is not None, "a tracked cine knows its ED"
        return self.cine.ed

    @property
    def es(self) -> int:
        """End-systolic frame."""
        assert self.cine.es is not None, "a tracked cine knows its ES"
        return self.cine.es


def track(model: Model, cine: CineSequence, *, refinement: Refinement = AS_ESTIMATED, close: bool = False) -> Tracking:
    """Find the heart, label every frame, follow the motion round the cycle, and bring all of it back.

    Args:
        model: Trained networks.
        cine: A cine on the subject's own grid; where ED and ES are None they are found.
        refinement: How far the network's motion is fitted to this subject's shapes.
        close: Whether the drift round the cycle is spread over its steps, so that the motion closes.

    Raises:
        ImageError: No contrast, or no heart.
    """
    window, voxels = _look(model, cine)
    shapes = _shapes(model, voxels)
    ed, es = _phases(cine, shapes, window.spacing)
    from_ed = [shapes[frame] for frame in _round(cine.frames, ed)]
    followed = _follow(model, [voxels[frame] for frame in _round(cine.frames, ed)], from_ed, ed)
    unfolded = without_folds(followed.velocities, sizes=model.sizes)
    velocities = refine(unfolded, from_ed, window.spacing, sizes=model.sizes, settings=refinement)
    drift_mm = _drift_mm(velocities, from_ed[0], window.spacing, model.sizes)
    drifts = not model.sizes.ed_referenced and cine.frames >= FRAMES_TO_CLOSE
    rounds = CLOSING_ROUNDS if close and drifts else 0
    velocities = close_cycle(velocities, sizes=model.sizes, rounds=rounds)
    to_ed = {field.fixed: field for field in fields_to_ed(velocities, window.spacing, ed=ed, sizes=model.sizes)}
    labels = LabelSequence(
        preprocess.restore_labels(shapes, window), tuple(range(cine.frames)), cine.spacing, cine.affine
    )
    carried = (
        shapes[ed] if frame == ed else propagate_probabilities(shapes[ed], to_ed[frame]) for frame in range(cine.frames)
    )
    return Tracking(
        cine=CineSequence(
            voxels, window.spacing, preprocess.window_affine(cine.affine, window), cine.frame_ms, ed, es, cine.flags
        ),
        window=window,
        segmentation=labels,
        propagated=replace(labels, labels=torch.cat([preprocess.restore_labels(one[None], window) for one in carried])),
        velocities=velocities,
        ed_to_es=preprocess.restore_motion(to_ed[es], window),
        entropy=preprocess.restore(followed.entropy, window, outside=PRIOR_ENTROPY),
        posterior=Posterior(shapes[[ed, es]], followed.log_sd, followed.factor),
        cycle_consistency_error_mm=drift_mm,
        folded_voxels=tuple(folded_voxels(jacobian_determinant(to_ed[frame])).count for frame in range(cine.frames)),
        flags=cine.flags,
    )


def _look(model: Model, cine: CineSequence) -> tuple[Window, Float[Tensor, "t z y x"]]:
    """Find the heart, and look at all frames through the networks' window."""
    bright = replace(cine, voxels=preprocess.normalise(cine.voxels))
    window = find_window(model, bright)
    return window, preprocess.extract(bright.voxels, window)


def _round(frames: int, ed: int) -> list[int]:
    """The frames of the cycle from ED on."""
    return [(ed + step) % frames for step in range(frames)]


def find_window(model: Model, cine: CineSequence) -> Window:
    """Place the networks' window around the heart, without any mask.

    What changes once a cycle gives a first guess; SegNet's view of it gives the centre. Where SegNet sees no heart
    there, it looks at the whole field.

    Raises:
        ImageError: There is no heart in the whole field either.
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
    shapes = _shapes(model, preprocess.extract(frames, window))
    return preprocess.centre_of_probability(1.0 - shapes[:, Label.BACKGROUND].mean(0), window)


def _shapes(model: Model, voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t k z y x"]:
    seen = voxels.to(model.device)
    at_once = 1 if model.device.type == "cpu" else FRAMES_AT_ONCE
    found = retry_with_smaller_batch(
        lambda frames: class_probabilities(model.segnet, seen, frames_at_once=frames), at_once
    )
    frames = found.movedim(2, 1).cpu()
    shapes = torch.empty(frames.shape)
    for shape, frame in zip(shapes, frames, strict=True):
        shape.copy_(keep_largest_component(frame))
    return shapes


def retry_with_smaller_batch(run: Callable[[int], Tensor], at_once: int) -> Tensor:
    """What a function of a batch size gives at the largest size that fits into the GPU's memory.

    Args:
        run: Works on so many at once.
        at_once: To begin with; halved as long as memory runs out.

    Raises:
        CaseError: Not even one fits.
    """
    while True:
        try:
            return run(at_once)
        except torch.cuda.OutOfMemoryError as error:
            if at_once == 1:
                raise CaseError(
                    f"The GPU's memory does not hold one frame: {error}",
                    hint="Use a GPU with more memory, fewer workers a GPU, or --device cpu.",
                    code=ErrorCode.OUT_OF_MEMORY,
                ) from error
        # Only here, after the error has let go of what it held, can the memory be given back.
        torch.cuda.empty_cache()
        at_once //= 2


def keep_largest_component(shape: Float[Tensor, "k z y x"]) -> Float[Tensor, "k z y x"]:
    """Take away what cannot be heart, in one frame.

    Everything that does not hang together with the largest body is background. Within it, a piece of a ventricle
    smaller than a tenth of that ventricle's largest gives way to the class that is next in probability.
    """
    outside = _strays(_most_probable(shape) != Label.BACKGROUND, smaller_than=1.0)
    shape = shape.clone()
    shape[:, outside] = 0.0
    shape[Label.BACKGROUND, outside] = 1.0
    for ventricle in (Label.LV, Label.RV):
        shape[ventricle, _strays(_most_probable(shape) == ventricle, smaller_than=MIN_COMPONENT_FRACTION)] = 0.0
    return shape


def _most_probable(shape: Float[Tensor, "k z y x"]) -> Int64[Tensor, "z y x"]:
    """The class of every voxel; on a processor argmax across the first axis takes seven times as long."""
    return shape.max(0).indices


def _strays(mask: Bool[Tensor, "z y x"], *, smaller_than: float) -> Bool[Tensor, "z y x"]:
    """Bodies of a mask smaller than this share of its largest; voxels that touch at a corner are one body."""
    bodies, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3, 3)))
    sizes = np.bincount(bodies.ravel())
    sizes[0] = 0
    small = sizes < smaller_than * sizes.max(initial=0)
    small[0] = False
    return torch.from_numpy(small[bodies])


def _phases(cine: CineSequence, shapes: Float[Tensor, "t k z y x"], spacing: Spacing) -> tuple[int, int]:
    """ED and ES as given; where they are not, where SegNet's LV is largest and smallest."""
    if cine.ed is not None and cine.es is not None:
        return cine.ed, cine.es
    labels: UInt8[Tensor, "t z y x"] = shapes.argmax(1).to(torch.uint8)
    ed, es = find_phases(volumes_ml(labels, spacing).lv_ml)
    return (cine.ed if cine.ed is not None else ed), (cine.es if cine.es is not None else es)


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """What the motion network says of the steps of the cycle from ED on; the entropy is in the order of the input."""

    velocities: Float[Tensor, "t 3 z yh xh"]
    entropy: Float[Tensor, "t z y x"]
    log_sd: Float[Tensor, "t z yc xc"]
    factor: Float[Tensor, "t 3 r z yc xc"]


@torch.no_grad()
def _follow(
    model: Model, voxels: Sequence[Float[Tensor, "z y x"]], shapes: Sequence[Float[Tensor, "k z y x"]], ed: int
) -> _Followed:
    """Walk round the cycle from ED on and keep the means, the entropies and the pooled posterior."""
    seen = (
        torch.cat([image[None], shape[1:]])[: frame_channels(model.sizes)]
        for image, shape in zip(voxels, shapes, strict=True)
    )
    frames = [frame.movedim(0, 1).to(model.device).contiguous(memory_format=torch.channels_last) for frame in seen]
    velocities, entropies, image_flags = [], [], []
    for cycle_step in iterate_cycle(model.motion, frames, Stacks((len(voxels[0]),)), None):
        step = cycle_step.output
        velocities.append(step.motion.mean.movedim(0, 1).cpu())
        entropies.append(upsample(step.motion.entropy[:, None], factor=model.motion.scale)[:, 0].cpu())
        image_flags.append(pool_posterior(step.motion))
    log_sd, factor = (torch.stack(values).cpu() for values in zip(*image_flags, strict=True))
    in_input_order = torch.stack(entropies).roll(ed + 1, dims=0)
    return _Followed(torch.stack(velocities), in_input_order, log_sd, factor)


def _drift_mm(
    velocities: Float[Tensor, "t 3 z yh xh"], ed: Float[Tensor, "k z y x"], spacing: Spacing, sizes: MotionSizes
) -> float:
    """Mean length, inside the heart at ED, of the motion composed once round the cycle; 0 where it closes."""
    heart = ed[Label.BACKGROUND] < 0.5
    round_trip = fields_to_ed(velocities, spacing, ed=0, sizes=sizes)[-1]
    return float(round_trip.displacement_mm.norm(dim=0)[heart].mean()) if bool(heart.any()) else 0.0
