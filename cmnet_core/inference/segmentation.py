"""Segmentation at inference: the heart is located, and SegNet's probabilities are freed from separate components."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import ndimage
from torch import Tensor, nn

from cmnet_core.errors import CaseError, CmnetError, ErrorCode
from cmnet_core.imaging import preprocess
from cmnet_core.imaging.preprocess import Window
from cmnet_core.labels import Label
from cmnet_core.models.segnet import class_probabilities
from cmnet_core.types import CineSequence

GPU_FRAMES_AT_ONCE = 8
"""Number of frames that SegNet processes at once on a GPU; a CPU is fastest with one, which its caches hold."""

FRAMES_FOR_CENTRE = 2
"""Number of frames, evenly spread over the cycle, in which the heart is located."""

MIN_COMPONENT_FRACTION = 0.1
"""Fraction of a ventricle's largest component below which a separate component counts as an error."""


def find_window(segnet: nn.Module, cine: CineSequence, *, spacing_mm: float, size: tuple[int, int]) -> Window:
    """Centre the networks' window on the heart, without a mask.

    The temporal changes of the images give a first estimate of the centre, and SegNet's probabilities in a window
    around it give the centre itself. Where SegNet finds no heart in this window, it is applied to the whole field of
    view.

    Args:
        segnet: SegNet.
        cine: A cine of normalised intensities.
        spacing_mm: In-plane voxel spacing of the window in mm.
        size: In-plane size (y, x) of the window in voxels.

    Raises:
        ImageError: SegNet finds no heart in the whole field of view either.
    """
    count = min(cine.frames, FRAMES_FOR_CENTRE)
    frames = cine.voxels[torch.arange(count) * cine.frames // count]
    guess = preprocess.window_around(cine, preprocess.heart_centre_from_motion(cine), spacing_mm=spacing_mm, size=size)
    try:
        centre = _heart_centre(segnet, frames, guess)
    except CmnetError as error:
        if error.code is not ErrorCode.HEART_NOT_FOUND:
            raise
        centre = _heart_centre(segnet, frames, preprocess.wide_window(cine, spacing_mm=spacing_mm))
    return preprocess.window_around(cine, centre, spacing_mm=spacing_mm, size=size)


def _heart_centre(segnet: nn.Module, frames: Float[Tensor, "t z y x"], window: Window) -> tuple[float, float]:
    probabilities = segment(segnet, preprocess.extract(frames, window))
    return preprocess.centre_of_probability(1.0 - probabilities[:, Label.BACKGROUND].mean(0), window)


def segment(segnet: nn.Module, voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t k z y x"]:
    """Compute SegNet's class probabilities of every frame, without separate components, on the CPU.

    Args:
        segnet: SegNet, on any device.
        voxels: Normalised intensities in a window.

    Raises:
        CaseError: The GPU's memory does not suffice for one frame.
    """
    device = next(segnet.parameters()).device
    inputs = voxels.to(device)
    at_once = 1 if device.type == "cpu" else GPU_FRAMES_AT_ONCE
    probabilities = torch.empty(len(voxels), len(Label), *voxels.shape[1:])

    def fill(frames_at_once: int) -> Tensor:
        """Batch after batch, so that nothing but the result grows with the number of frames."""
        parts = (torch.split(values, frames_at_once) for values in (probabilities, inputs))
        for results, batch in zip(*parts, strict=True):
            predicted = class_probabilities(segnet, batch, frames_at_once=frames_at_once)
            for result, frame in zip(results, predicted.movedim(2, 1).cpu(), strict=True):
                result.copy_(keep_largest_component(frame))
        return probabilities

    return retry_with_smaller_batch(fill, at_once)


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
    probabilities = probabilities.clone()
    labels = _most_probable(probabilities)
    heart = labels != Label.BACKGROUND
    if not bool(heart.any()):
        return probabilities
    # Components are searched in the box of the heart, which is a fraction of the window.
    box = tuple(preprocess.bounding_slice(heart, axis) for axis in range(3))
    cut, labels = probabilities[:, *box], labels[box]
    outside = _small_components(heart[box], fraction=1.0)
    cut[:, outside] = 0.0
    cut[Label.BACKGROUND, outside] = 1.0
    labels[outside] = Label.BACKGROUND
    for ventricle in (Label.LV, Label.RV):
        small = _small_components(labels == ventricle, fraction=MIN_COMPONENT_FRACTION)
        cut[ventricle, small] = 0.0
        labels[small] = cut[:, small].max(0).indices
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
