"""Preprocessing: from the subject's own voxel grid to the networks' window, and back.

Slices are never resampled; only the in-plane grid changes. In-plane positions are in millimetres from the centre of
the subject's voxel (0, 0), along the subject's own y and x axes, so that nothing here depends on the affine.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.imaging.filters import apply_in_plane, linear_weights, renormalised_gaussian
from cmnet_core.io.orientation import StackOrientation
from cmnet_core.labels import Label
from cmnet_core.types import CineSequence, MotionField, Spacing

NETWORK_MULTIPLE = 16
"""Sizes of a window are multiples of this: the networks halve the in-plane grid four times."""

FADE_MM = 20.0
"""Distance in mm over which a displacement falls to zero outside the window."""

ANTI_ALIAS_FROM = 1.5
"""If the target voxel is larger than this number of source voxels, resampling averages over the target voxel."""

# Detection of the heart by its motion. The constants were chosen on the 100 ED-ES pairs of the ACDC training set, where
# the detected centre is 11 mm (median) and 20 mm (95th percentile) from the centre of the reference masks at ED.

NOISE_MM = 3.0
"""Standard deviation in mm of the blur of the first harmonic before its magnitude is taken: noise cancels, blood pools
do not."""

NO_CHANGE = 1e-5
"""A change smaller than this fraction of the brightest voxel is rounding."""

REGION_MM = 8.0
"""Standard deviation in mm of the blur that joins moving edges into one region."""

CENTRAL_MM = 120.0
"""Standard deviation in mm of the prior for the heart's position around the centre of the field of view."""

BACKGROUND_FRACTION = 0.8
"""At least this fraction of the field of view is not heart."""

RADII_MM = (80.0, 60.0, 50.0)
"""Standard deviations in mm of the neighbourhood of the centroid, from the first estimate to the last."""

ITERATIONS = 5
"""Number of centroid updates at each radius."""


@dataclass(frozen=True, slots=True)
class Window:
    """The position of the networks' in-plane grid in the subject's stack.

    Attributes:
        source_shape: Number of voxels of the subject's stack (z, y, x).
        source_spacing: Spacing of the subject's stack in mm.
        spacing: Spacing of the window in mm; along z it is that of the subject's stack.
        origin_mm: Position (y, x) of the centre of the window's voxel (0, 0), in mm from that of the subject's.
        size: Number of voxels of the window (y, x).

    Raises:
        GeometryError: A size is not positive, or the slice distances differ.
    """

    source_shape: tuple[int, int, int]
    source_spacing: Spacing
    spacing: Spacing
    origin_mm: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source_shape, *self.size) < 1 or self.spacing.z != self.source_spacing.z:
            raise GeometryError(
                f"A window needs at least one voxel and the slice distance of its source, found {self.size} voxels "
                f"(y, x) at {self.spacing.z} mm from {self.source_shape} (z, y, x) at {self.source_spacing.z} mm.",
                hint="Use a window of at least one voxel; slices are never resampled.",
                code=ErrorCode.GEOMETRY,
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels of the window (z, y, x)."""
        return (self.source_shape[0], *self.size)


def normalise(voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t z y x"]:
    """Scale intensities so that the 1st and 99th percentile of the whole cine become 0 and 1, and clamp to that range.

    One scale for all frames and slices keeps the brightness of different frames comparable.

    Raises:
        ImageError: The two percentiles are equal: there is no contrast.
    """
    ranks = [round(q * (voxels.numel() - 1)) for q in (0.01, 0.99)]
    # numpy.partition needs no index array; that of torch.kthvalue is twice as large as a long cine itself.
    low, high = (float(value) for value in np.partition(voxels.cpu().numpy(), ranks, axis=None)[ranks])
    if high <= low:
        raise ImageError(
            f"The image has no contrast: its 1st and 99th percentiles are both {low:g}.",
            hint="Check that the file holds image intensities; convert it again or leave the subject out.",
            code=ErrorCode.IMAGE_VALUES,
        )
    return (voxels - low).div_(high - low).clamp_(0, 1)


def wide_window(cine: CineSequence, *, spacing_mm: float) -> Window:
    """The window of the whole field of view at the networks' in-plane spacing, rounded up to multiples of 16 voxels."""
    _, rows, columns = cine.voxels.shape[1:]
    field_mm = (rows * cine.spacing.y, columns * cine.spacing.x)
    height, width = (NETWORK_MULTIPLE * math.ceil(mm / spacing_mm / NETWORK_MULTIPLE - 1e-9) for mm in field_mm)
    centre_mm = ((rows - 1) / 2 * cine.spacing.y, (columns - 1) / 2 * cine.spacing.x)
    return window_around(cine, centre_mm, spacing_mm=spacing_mm, size=(height, width))


def window_around(
    cine: CineSequence, centre_mm: tuple[float, float], *, spacing_mm: float, size: tuple[int, int]
) -> Window:
    """The window of ``size`` voxels (y, x) that is centred at ``centre_mm`` (y, x)."""
    depth, rows, columns = cine.voxels.shape[1:]
    return Window(
        source_shape=(depth, rows, columns),
        source_spacing=cine.spacing,
        spacing=Spacing(z=cine.spacing.z, y=spacing_mm, x=spacing_mm),
        origin_mm=(
            centre_mm[0] - (size[0] - 1) / 2 * spacing_mm,
            centre_mm[1] - (size[1] - 1) / 2 * spacing_mm,
        ),
        size=size,
    )


def oriented_back(window: Window, orientation: StackOrientation) -> Window:
    """Return the window on the grid of the stored stack, from that on the stack in the standard orientation."""
    spacing, source_spacing = orientation.swapped(window.spacing), orientation.swapped(window.source_spacing)
    ends = (orientation.rows_reversed, orientation.columns_reversed)
    # The first voxel of a reversed axis is the last one of the oriented axis.
    origin_mm = [
        (voxels - 1) * source_mm - first_mm - (size - 1) * mm if is_reversed else first_mm
        for is_reversed, voxels, source_mm, first_mm, size, mm in zip(
            ends,
            window.source_shape[1:],
            window.source_spacing.zyx[1:],
            window.origin_mm,
            window.size,
            window.spacing.zyx[1:],
            strict=True,
        )
    ]
    (depth, rows, columns), (height, width), (y, x) = window.source_shape, window.size, origin_mm
    if orientation.transposed:
        rows, columns, height, width, y, x = columns, rows, width, height, x, y
    return Window((depth, rows, columns), source_spacing, spacing, (y, x), (height, width))


def window_affine(affine: Float64[Tensor, "4 4"], window: Window) -> Float64[Tensor, "4 4"]:
    """The affine (voxel to scanner mm, columns z, y, x, 1) of the window, from that of the subject's stack."""
    change = torch.eye(4, dtype=affine.dtype, device=affine.device)
    for axis in (1, 2):
        change[axis, axis] = window.spacing.zyx[axis] / window.source_spacing.zyx[axis]
        change[axis, 3] = window.origin_mm[axis - 1] / window.source_spacing.zyx[axis]
    return affine @ change


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a grid; voxel *i* is at ``start_mm + i · step_mm``."""

    voxels: int
    step_mm: float
    start_mm: float


def _axes(window: Window) -> tuple[tuple[_Axis, _Axis], tuple[_Axis, _Axis]]:
    """The (y, x) axes of the subject's stack and those of the window, with a common origin."""
    source = (
        _Axis(window.source_shape[1], window.source_spacing.y, 0.0),
        _Axis(window.source_shape[2], window.source_spacing.x, 0.0),
    )
    target = (
        _Axis(window.size[0], window.spacing.y, window.origin_mm[0]),
        _Axis(window.size[1], window.spacing.x, window.origin_mm[1]),
    )
    return source, target


def _positions(target: _Axis, source: _Axis) -> Float64[Tensor, " target"]:
    """Positions of the target's voxels on the source axis, in source voxels."""
    millimetres = target.start_mm + target.step_mm * torch.arange(target.voxels, dtype=torch.float64)
    return (millimetres - source.start_mm) / source.step_mm


def _sampler(source: _Axis, target: _Axis, *, extend: bool = False) -> Float64[Tensor, "target source"]:
    """The matrix that resamples one axis to another.

    A much coarser target averages several equally spaced linear interpolations over its voxel. This prevents aliasing
    and, being symmetric, still reproduces a linear ramp exactly.
    """
    ratio = target.step_mm / source.step_mm
    count = 1 if ratio <= ANTI_ALIAS_FROM else math.ceil(ratio)
    offsets = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * ratio
    centres = _positions(target, source)
    parts = [linear_weights(centres + offset, source.voxels, extend=extend) for offset in offsets]
    return torch.stack(parts).mean(0)


def _check_shape(found: tuple[int, ...], expected: tuple[int, int, int], what: str) -> None:
    if tuple(found) != expected:
        raise GeometryError(
            f"The window expects {what} of shape {expected} (z, y, x), found {tuple(found)}.",
            hint="Use the window of this subject.",
            code=ErrorCode.GEOMETRY,
        )


def extract(voxels: Float[Tensor, "n z y x"], window: Window) -> Float[Tensor, "n z out_y out_x"]:
    """Resample a stack to the window with one linear interpolation; zero outside the image.

    Raises:
        GeometryError: The stack does not have the shape of the window's source.
    """
    _check_shape(voxels.shape[1:], window.source_shape, "a stack")
    source, target = _axes(window)
    return apply_in_plane(voxels, *(_sampler(a, b) for a, b in zip(source, target, strict=True)))


def extract_labels(labels: UInt8[Tensor, "n z y x"], window: Window) -> UInt8[Tensor, "n z out_y out_x"]:
    """Resample label maps to the window: the class with the largest linearly interpolated membership.

    Raises:
        GeometryError: The maps do not have the shape of the window's source.
    """
    _check_shape(labels.shape[1:], window.source_shape, "label maps")
    source, target = _axes(window)
    samplers = [_sampler(a, b) for a, b in zip(source, target, strict=True)]
    maps = torch.zeros((len(labels), *window.shape), dtype=torch.uint8)
    # Far from the heart there is only background, which need not be resampled.
    heart = labels.amax(0)
    slices = bounding_slice(heart, 0)
    (out_rows, in_rows), (out_columns, in_columns) = (
        _reach(sampler, bounding_slice(heart, axis)) for axis, sampler in enumerate(samplers, start=1)
    )
    matrices = (samplers[0][out_rows, in_rows], samplers[1][out_columns, in_columns])
    for out, stack in zip(maps, labels[:, slices, in_rows, in_columns], strict=True):
        out[slices, out_rows, out_columns] = apply_in_plane(_one_hot(stack), *matrices).max(0).indices
    return maps


def _reach(sampler: Float64[Tensor, "target source"], part: slice) -> tuple[slice, slice]:
    """The target voxels that a part of the source reaches, and all source voxels that these depend on."""
    reached = bounding_slice(sampler[:, part], 0)
    return reached, bounding_slice(sampler[reached], 1)


def _one_hot(stack: UInt8[Tensor, "z y x"]) -> Float[Tensor, "k z y x"]:
    return torch.stack([stack == label for label in Label]).to(torch.float32)


def _restoring(window: Window, *, extend: bool) -> tuple[Tensor, Tensor]:
    """The two matrices that resample from the window to the subject's grid."""
    source, target = _axes(window)
    rows, columns = (_sampler(b, a, extend=extend) for a, b in zip(source, target, strict=True))
    return rows, columns


def restore(values: Float[Tensor, "c z out_y out_x"], window: Window, *, outside: float) -> Float[Tensor, "c z y x"]:
    """Resample values from the window to the subject's own grid; voxels outside the window get ``outside``.

    Raises:
        GeometryError: The values are not on the window's grid.
    """
    _check_shape(values.shape[1:], window.shape, "values")
    excess = values - outside if outside else values
    restored = values.new_full((len(values), *window.source_shape), outside)
    samplers = _restoring(window, extend=False)
    # Far from the heart many maps have the value of the outside, which need not be resampled.
    differs = (excess != 0).flatten(0, 1).any(0)
    parts = [bounding_slice(differs, axis) for axis in range(2)]
    inside = [bounding_slice(sampler[:, part], 0) for sampler, part in zip(samplers, parts, strict=True)]
    matrices = [sampler[out, part] for sampler, out, part in zip(samplers, inside, parts, strict=True)]
    restored[..., inside[0], inside[1]] += apply_in_plane(excess[..., parts[0], parts[1]], *matrices)
    return restored


def restore_labels(probabilities: Float[Tensor, "n 4 z out_y out_x"], window: Window) -> UInt8[Tensor, "n z y x"]:
    """Resample probabilities to the subject's own grid and take the most probable label; background outside the window.

    Raises:
        GeometryError: The probabilities are not on the window's grid.
    """
    _check_shape(probabilities.shape[2:], window.shape, "probabilities")
    samplers = _restoring(window, extend=False)
    maps = torch.zeros((len(probabilities), *window.source_shape), dtype=torch.uint8)
    for labels, frame in zip(maps, probabilities, strict=True):
        heart = (frame[1:] > frame[0]).any(0)
        if not bool(heart.any()):
            continue
        # A voxel whose neighbours in the window are all background is background, and need not be resampled.
        # Neighbours outside of the heart's box have a part in the voxels at its border.
        slices = bounding_slice(heart, 0)
        (out_rows, in_rows), (out_columns, in_columns) = (
            _reach(sampler, bounding_slice(heart, axis)) for axis, sampler in enumerate(samplers, start=1)
        )
        inside = apply_in_plane(
            frame[:, slices, in_rows, in_columns],
            samplers[0][out_rows, in_rows],
            samplers[1][out_columns, in_columns],
        )
        labels[slices, out_rows, out_columns] = inside.max(0).indices.to(torch.uint8)
    return maps


def bounding_slice(mask: Tensor, axis: int) -> slice:
    """Return the range of an axis outside of which an array is zero; empty where all of it is zero."""
    found = (mask.movedim(axis, 0).flatten(1) != 0).any(1).nonzero()[:, 0]
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def restore_motion(field: MotionField, window: Window) -> MotionField:
    """Resample a displacement field to the subject's own grid; outside the window it fades to zero over 20 mm.

    The axes of the window are parallel to the subject's, so components in mm keep their values.

    Raises:
        GeometryError: The field is not on the window's grid.
    """
    _check_shape(field.displacement_mm.shape[1:], window.shape, "a motion field")
    source, target = _axes(window)
    rows, columns = _restoring(window, extend=True)
    fade_y, fade_x = (_fade(a, b) for a, b in zip(source, target, strict=True))
    displacement = apply_in_plane(field.displacement_mm, fade_y[:, None] * rows, fade_x[:, None] * columns)
    return MotionField(displacement, window.source_spacing, fixed=field.fixed, moving=field.moving)


def _fade(source: _Axis, window: _Axis) -> Float64[Tensor, " source"]:
    """1 inside the window, then half a cosine down to 0 at :data:`FADE_MM` outside its border."""
    positions = _positions(source, window)
    beyond_mm = torch.maximum(-positions, positions - (window.voxels - 1)).clamp_min(0) * window.step_mm
    return 0.5 * (1 + torch.cos(math.pi * (beyond_mm / FADE_MM).clamp_max(1)))


def _centroid_mm(weights: Float[Tensor, "y x"], spacing: Spacing) -> tuple[float, float]:
    """Centre of mass (y, x) in mm from the centre of voxel (0, 0)."""
    total = weights.sum()
    rows = torch.arange(weights.shape[0], dtype=weights.dtype, device=weights.device)
    columns = torch.arange(weights.shape[1], dtype=weights.dtype, device=weights.device)
    y = float((weights.sum(1) * rows).sum() / total)
    x = float((weights.sum(0) * columns).sum() / total)
    return y * spacing.y, x * spacing.x


def _heart_not_found(reason: str) -> ImageError:
    return ImageError(
        f"The heart was not found: {reason}.",
        hint="Check that the file is a short-axis cine of the heart with at least two different frames.",
        code=ErrorCode.HEART_NOT_FOUND,
    )


def centre_of_probability(heart: Float[Tensor, "z out_y out_x"], window: Window) -> tuple[float, float]:
    """Centroid (y, x) in mm, in the subject's stack, of the voxels with a probability of heart above ½.

    Args:
        heart: Probability of any structure of the heart, on the window's grid.
        window: The window.

    Raises:
        ImageError: No voxel has a probability above ½.
    """
    _check_shape(heart.shape, window.shape, "probabilities")
    weights = torch.where(heart > 0.5, heart, 0.0).sum(0).double()
    if float(weights.sum()) == 0:
        raise _heart_not_found("no voxel was segmented as heart")
    y, x = _centroid_mm(weights, window.spacing)
    return y + window.origin_mm[0], x + window.origin_mm[1]


def heart_centre_from_motion(cine: CineSequence) -> tuple[float, float]:
    """Estimate the heart's centre (y, x) in mm from the voxels whose intensity changes once per cycle.

    The magnitude of the first temporal harmonic (for two frames: their absolute difference) is scaled in each slice to
    its largest change and averaged over slices. Its centroid is then updated within a neighbourhood that shrinks.

    Raises:
        ImageError: No voxel changes over the cycle.
    """
    change = _relative_change(cine)
    middle = ((change.shape[0] - 1) / 2 * cine.spacing.y, (change.shape[1] - 1) / 2 * cine.spacing.x)
    moving = _smooth(change, cine.spacing, REGION_MM) * _gaussian_window(change, cine.spacing, middle, CENTRAL_MM)
    background = torch.kthvalue(moving.flatten(), 1 + int(BACKGROUND_FRACTION * (moving.numel() - 1))).values
    weights = (moving - background).clamp_min(0)
    centre = middle
    for radius in RADII_MM:
        for _ in range(ITERATIONS):
            centre = _centroid_mm(weights * _gaussian_window(weights, cine.spacing, centre, radius), cine.spacing)
    return centre


def _relative_change(cine: CineSequence) -> Float[Tensor, "y x"]:
    """Magnitude of the first harmonic, relative to the 99th percentile of each slice, averaged over slices."""
    change = _first_harmonic(cine.voxels, cine.spacing)
    strongest = torch.kthvalue(change.flatten(1), 1 + int(0.99 * (change[0].numel() - 1)), dim=1).values
    if float(strongest.max()) <= NO_CHANGE * float(cine.voxels.abs().max()):
        raise _heart_not_found("no voxel changes over the cycle")
    return (change / strongest.clamp_min(0.01 * strongest.max())[:, None, None]).clamp_max(1).mean(0)


def _first_harmonic(voxels: Float[Tensor, "t z y x"], spacing: Spacing) -> Float[Tensor, "z y x"]:
    """Magnitude of the first temporal harmonic of every voxel."""
    frames = voxels.shape[0]
    if frames == 1:
        return torch.zeros_like(voxels[0])
    angle = 2 * math.pi * torch.arange(frames, dtype=torch.float64) / frames
    cosine, sine = (
        _smooth(torch.tensordot(wave.to(voxels), voxels, dims=1), spacing, NOISE_MM)
        for wave in (angle.cos(), angle.sin())
    )
    return torch.hypot(cosine, sine)


def _gaussian_window(
    like: Float[Tensor, "y x"], spacing: Spacing, centre_mm: tuple[float, float], sd_mm: float
) -> Float[Tensor, "y x"]:
    """A Gaussian of height 1 around a point."""
    rows = torch.arange(like.shape[0]).to(like) * spacing.y - centre_mm[0]
    columns = torch.arange(like.shape[1]).to(like) * spacing.x - centre_mm[1]
    return torch.exp(-0.5 * (rows[:, None] ** 2 + columns[None] ** 2) / sd_mm**2)


def _smooth(values: Float[Tensor, "*n y x"], spacing: Spacing, sd_mm: float) -> Float[Tensor, "*n y x"]:
    """In-plane Gaussian smoothing, renormalised at the border of the field of view."""
    rows, columns = (
        renormalised_gaussian(count, step, sd_mm)
        for count, step in zip(values.shape[-2:], (spacing.y, spacing.x), strict=True)
    )
    return apply_in_plane(values, rows, columns)
