"""Tracking by a method that returns displacement fields and may have neither a segmentation nor a posterior."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging import preprocess
from cmnet_core.inference.composition import StoredDisplacements
from cmnet_core.inference.segmentation import find_window, segment
from cmnet_core.inference.tracking import Model, Tracking, find_ed_and_es, restored
from cmnet_core.io.orientation import standard_orientation
from cmnet_core.methods.interface import FramePair, MotionEstimate
from cmnet_core.qc.result_checks import check_confidence
from cmnet_core.registration.displacement import jacobian_determinant, propagate_probabilities, to_voxels
from cmnet_core.stats.metrics import folded_voxels
from cmnet_core.types import CineSequence, LabelSequence, MotionField

Estimate = Callable[[CineSequence, Sequence[FramePair]], MotionEstimate]
"""The estimation of the motion of pairs of frames, see :class:`cmnet_core.methods.interface.Method`."""


def track_displacements(estimate: Estimate, model: Model, cine: CineSequence) -> Tracking:
    """Estimate the motion of every frame into ED, and store it as displacements.

    The heart is located, and where the method has no segmentation of its own also segmented, by the SegNet of a model
    of cmnet, so that all methods are given the same window, the same label maps and the standard orientation.

    Args:
        estimate: Estimates the motion of pairs of frames in a window.
        model: Networks of cmnet.
        cine: A cine on the subject's own grid; where ED or ES is None it is determined by SegNet's LV volume.

    Raises:
        ImageError: The images have no contrast, or show no heart.
    """
    orientation = standard_orientation(cine.affine, cine.flags)
    return restored(_track_displacements(estimate, model, orientation.orient_cine(cine)), orientation, cine)


def _track_displacements(estimate: Estimate, model: Model, cine: CineSequence) -> Tracking:
    """Track a cine in the standard orientation."""
    normalised = replace(cine, voxels=preprocess.normalise(cine.voxels))
    window = find_window(model.segnet, normalised, spacing_mm=model.card.spacing_mm, size=model.card.window)
    voxels = preprocess.extract(normalised.voxels, window)
    probabilities = segment(model.segnet, voxels)
    ed, es = find_ed_and_es(cine, probabilities, window.spacing)
    affine = preprocess.window_affine(cine.affine, window)
    windowed = CineSequence(voxels, window.spacing, affine, cine.frame_ms, ed, es, cine.flags)
    pairs = [FramePair((ed + step) % cine.frames, ed) for step in range(1, cine.frames)]
    estimated = estimate(windowed, pairs)
    if estimated.probabilities is not None:
        probabilities = estimated.probabilities
    fields = [estimated.fields[pair] for pair in pairs]
    labels = LabelSequence(
        preprocess.restore_labels(probabilities, window), tuple(range(cine.frames)), cine.spacing, cine.affine
    )
    propagated, folds = labels.labels.clone(), [0] * cine.frames
    for field in fields:
        warped = propagate_probabilities(probabilities[ed], field)
        propagated[field.fixed] = preprocess.restore_labels(warped[None], window)[0]
        folds[field.fixed] = folded_voxels(jacobian_determinant(field)).count
    still = MotionField(torch.zeros_like(fields[0].displacement_mm), window.spacing, fixed=ed, moving=ed)
    to_es = next((field for field in fields if field.fixed == es), still)
    entropy = estimated.entropy
    return Tracking(
        cine=windowed,
        window=window,
        segmentation=labels,
        propagated=replace(labels, labels=propagated),
        velocities=torch.stack([_at_half_resolution(field) for field in (*fields, still)]),
        integration=StoredDisplacements(),
        ed_to_es=preprocess.restore_motion(to_es, window),
        entropy=None if entropy is None else preprocess.restore(entropy, window, outside=0.0),
        posterior=None,
        cycle_consistency_error_mm=None,
        folded_voxels=tuple(folds),
        flags=(*cine.flags, *check_confidence(probabilities[[ed, es]])),
        own_masks=estimated.probabilities is not None,
    )


def _at_half_resolution(field: MotionField) -> Float[Tensor, "3 z yh xh"]:
    """Average a displacement over 2 × 2 voxels, and convert it to voxels of that grid."""
    coarse = functional.avg_pool2d(to_voxels(field)[0].movedim(1, 0), 2).movedim(0, 1)
    return coarse * torch.tensor([1.0, 0.5, 0.5]).view(3, 1, 1, 1)
