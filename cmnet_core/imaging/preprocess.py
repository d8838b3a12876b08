"""From the subject's own voxel grid to the network's, and back.

Slices are never resampled: only the in-plane grid changes. A position inside a slice is given in millimetres from
the centre of the subject's voxel (0, 0), along its own y and x axes, so that nothing here depends on the affine.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.labels import Label
from cmnet_core.types import CineSequence, MotionField, Spacing

NETWORK_MULTIPLE = 16  # the networks halve the in-plane grid four times
FADE_MM = 20.0  # over which a displacement falls to zero outside the window
ANTI_ALIAS_FROM = 1.5  # coarser target grids than this, in source voxels, average over the target voxel

# The heart by its motion. Chosen on the 100 pairs of the ACDC training set, where the centre that is found lies
# 11 mm (median) and 20 mm (95th percentile) from that of the reference masks at ED.
NOISE_MM = 3.0  # blurs the harmonic before its magnitude: noise and misregistered edges cancel, blood pools do not
STILL = 1e-5  # of the brightest voxel: a smaller change is rounding
REGION_MM = 8.0  # joins what moves into one region
CENTRAL_MM = 120.0  # the heart is seldom at the edge of the field
QUIET_SHARE = 0.8  # of the field that is not heart, at least
RADII_MM = (80.0, 60.0, 50.0)  # the neighbourhood of the centre that counts, closing in
ROUNDS = 5  # of the centroid at each radius


@dataclass(frozen=True, slots=True)
class Window:
    """Where the network's in-plane grid lies in the subject's stack.

    Attributes:
        source_shape: Voxels of the subject's stack (z, y, x).
        source_spacing: Spacing of the subject's stack in mm.
        spacing: Spacing of the window in mm; the same along z.
        origin_mm: Centre of the window's voxel (0, 0), in mm (y, x) from the centre of the subject's voxel (0, 0).
        size: Voxels of the window (y, x).

    Raises:
        GeometryError: A size is not positive, or the slices differ.
    """

    source_shape: tuple[int, int, int]
    source_spacing: Spacing
    spacing: Spacing
    origin_mm: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source_shape, *self.size) < 1 or self.spacing.z != self.source_spacing.z:
            raise GeometryError(
                f"A window needs voxels and the slices of its source, found {self.size} voxels (y, x) at "
                f"{self.spacing.z} mm from {self.source_shape} voxels (z, y, x) at {self.source_spacing.z} mm.",
                hint="Ask for a window of at least one voxel; the spacing of the slices is never changed.",
                code=ErrorCode.GEOMETRY,
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the window with its slices (z, y, x)."""
        return (self.source_shape[0], *self.size)


def normalise(voxels: Float[Tensor, "t z y x"]) -> Float[Tensor, "t z y x"]:
    """Scale the 1st to 99th percentile of the whole cine to 0 to 1 and clamp what lies beyond.

    One scale for all frames and slices keeps a frame's brightness comparable to the next one's.

    Raises:
        ImageError: The two percentiles are equal: there is no contrast.
    """
    ranks = [round(q * (voxels.numel() - 1)) for q in (0.01, 0.99)]
    # Of a long cine torch.kthvalue would also hold a place in 8 bytes for every voxel of 4.
    low, high = (float(value) for value in np.partition(voxels.cpu().numpy(), ranks, axis=None)[ranks])
    if high <= low:
        raise ImageError(
            f"The image has no contrast: its 1st and 99th percentiles are both {low:g}.",
            hint="Check that the file holds image intensities; convert it again or leave the subject out.",
            code=ErrorCode.IMAGE_VALUES,
        )
    return (voxels - low).div_(high - low).clamp_(0, 1)


def wide_window(cine: CineSequence, *, spacing_mm: float) -> Window:
    """The whole field of view at the network's in-plane spacing, rounded up to sizes that the networks take."""
    _, rows, columns = cine.voxels.shape[1:]
    field_mm = (rows * cine.spacing.y, columns * cine.spacing.x)
    height, width = (NETWORK_MULTIPLE * math.ceil(mm / spacing_mm / NETWORK_MULTIPLE - 1e-9) for mm in field_mm)
    centre_mm = ((rows - 1) / 2 * cine.spacing.y, (columns - 1) / 2 * cine.spacing.x)
    return window_around(cine, centre_mm, spacing_mm=spacing_mm, size=(height, width))


def window_around(
    cine: CineSequence, centre_mm: tuple[float, float], *, spacing_mm: float, size: tuple[int, int]
) -> Window:
    """A window of ``size`` voxels (y, x) with its middle at ``centre_mm`` (y, x)."""
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


def window_affine(affine: Float64[Tensor, "4 4"], window: Window) -> Float64[Tensor, "4 4"]:
    """Voxel → scanner mm of the window, from that of the subject's stack (columns z, y, x, 1)."""
    change = torch.eye(4, dtype=affine.dtype, device=affine.device)
    for axis in (1, 2):
        change[axis, axis] = window.spacing.zyx[axis] / window.source_spacing.zyx[axis]
        change[axis, 3] = window.origin_mm[axis - 1] / window.source_spacing.zyx[axis]
    return affine @ change


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a grid: voxel *i* lies at ``start_mm + i · step_mm``."""

    voxels: int
    step_mm: float
    start_mm: float


def _axes(window: Window) -> tuple[tuple[_Axis, _Axis], tuple[_Axis, _Axis]]:
    """The (y, x) axes of the subject's stack and those of the window, on one ruler."""
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
    """Where the target's voxels lie on the source axis, in source voxels."""
    millimetres = target.start_mm + target.step_mm * torch.arange(target.voxels, dtype=torch.float64)
    return (millimetres - source.start_mm) / source.step_mm


def _linear_weights(
    positions: Float64[Tensor, " target"], voxels: int, *, extend: bool
) -> Float64[Tensor, "target source"]:
    """Linear interpolation as a matrix. The outer half of a border voxel has that voxel's value.

    Beyond it, the border's value goes on (``extend``) or the weights are zero.
    """
    inside = (positions >= -0.5) & (positions <= voxels - 0.5)
    nearest = positions.clamp(0, voxels - 1)
    weights = (1 - (nearest[:, None] - torch.arange(voxels, dtype=torch.float64)).abs()).clamp_min(0)
    return weights if extend else weights * inside[:, None]


def _sampler(source: _Axis, target: _Axis, *, extend: bool = False) -> Float64[Tensor, "target source"]:
    """The matrix that resamples values of one axis onto another.

    A much coarser target averages several equally spaced linear interpolations over its voxel: this prevents
    aliasing and, being symmetric, still reproduces a linear ramp exactly.
    """
    ratio = target.step_mm / source.step_mm
    count = 1 if ratio <= ANTI_ALIAS_FROM else math.ceil(ratio)
    offsets = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * ratio
    centres = _positions(target, source)
    parts = [_linear_weights(centres + offset, source.voxels, extend=extend) for offset in offsets]
    return torch.stack(parts).mean(0)


def _resample(
    values: Float[Tensor, "*n y x"], rows: Float64[Tensor, "out_y y"], columns: Float64[Tensor, "out_x x"]
) -> Float[Tensor, "*n out_y out_x"]:
    """Apply one sampling matrix to each in-plane axis."""
    return rows.to(values) @ (values @ columns.to(values).T)


def _check_shape(found: tuple[int, ...], expected: tuple[int, int, int], what: str) -> None:
    if tuple(found) != expected:
        raise GeometryError(
            f"The window expects {what} of shape {expected} (z, y, x), found {tuple(found)}.",
            hint="Use the window that was made for this subject.",
            code=ErrorCode.GEOMETRY,
        )


def extract(voxels: Float[Tensor, "n z y x"], window: Window) -> Float[Tensor, "n z out_y out_x"]:
    """Resample a stack to the window with one linear interpolation; zero outside the image.

    Raises:
        GeometryError: The stack is not the one that the window was made for.
    """
    _check_shape(voxels.shape[1:], window.source_shape, "a stack")
    source, target = _axes(window)
    return _resample(voxels, *(_sampler(a, b) for a, b in zip(source, target, strict=True)))


def extract_labels(labels: UInt8[Tensor, "n z y x"], window: Window) -> UInt8[Tensor, "n z out_y out_x"]:
    """Resample label maps to the window: the class with the largest linearly resampled share wins.

    Raises:
        GeometryError: The maps are not on the grid that the window was made for.
    """
    return torch.stack([extract(_one_hot(stack), window).max(0).indices.to(torch.uint8) for stack in labels])


def _one_hot(stack: UInt8[Tensor, "z y x"]) -> Float[Tensor, "k z y x"]:
    return torch.stack([stack == label for label in Label]).to(torch.float32)


def _restoring(window: Window, *, extend: bool) -> tuple[Tensor, Tensor]:
    """The two matrices that lead from the window back to the subject's grid."""
    source, target = _axes(window)
    rows, columns = (_sampler(b, a, extend=extend) for a, b in zip(source, target, strict=True))
    return rows, columns


def restore(values: Float[Tensor, "c z out_y out_x"], window: Window, *, outside: float) -> Float[Tensor, "c z y x"]:
    """Resample values from the window to the subject's own grid, with ``outside`` beyond the window.

    Raises:
        GeometryError: The values are not on the window's grid.
    """
    _check_shape(values.shape[1:], window.shape, "values")
    return _resample(values - outside, *_restoring(window, extend=False)) + outside


def restore_labels(probabilities: Float[Tensor, "n 4 z out_y out_x"], window: Window) -> UInt8[Tensor, "n z y x"]:
    """Most probable label on the subject's own grid, after linear resampling; background beyond the window.

    Raises:
        GeometryError: The probabilities are not on the window's grid.
    """
    # Frame by frame: the indices of a long cine on its own grid would fill half a gigabyte.
    maps = [restore(frame, window, outside=0.0).max(0).indices.to(torch.uint8) for frame in probabilities]
    return torch.stack(maps)


def restore_motion(field: MotionField, window: Window) -> MotionField:
    """The motion on the subject's own grid; beyond the window it fades to zero over 20 mm.

    The window's axes are parallel to the subject's, so components in millimetres keep their values.

    Raises:
        GeometryError: The field is not on the window's grid.
    """
    _check_shape(field.displacement_mm.shape[1:], window.shape, "a motion field")
    source, target = _axes(window)
    rows, columns = _restoring(window, extend=True)
    fade_y, fade_x = (_fade(a, b) for a, b in zip(source, target, strict=True))
    displacement = _resample(field.displacement_mm, fade_y[:, None] * rows, fade_x[:, None] * columns)
    return MotionField(displacement, window.source_spacing, fixed=field.fixed, moving=field.moving)


def _fade(source: _Axis, window: _Axis) -> Float64[Tensor, " source"]:
    """1 within the window, half a cosine down to 0 at :data:`FADE_MM` beyond its border."""
    positions = _positions(source, window)
    beyond_mm = torch.maximum(-positions, positions - (window.voxels - 1)).clamp_min(0) * window.step_mm
    return 0.5 * (1 + torch.cos(math.pi * (beyond_mm / FADE_MM).clamp_max(1)))


def _centroid_mm(weights: Float[Tensor, "y x"], spacing: Spacing) -> tuple[float, float]:
    """Centre of mass in mm from the centre of voxel (0, 0), along y and x."""
    total = weights.sum()
    rows = torch.arange(weights.shape[0], dtype=weights.dtype, device=weights.device)
    columns = torch.arange(weights.shape[1], dtype=weights.dtype, device=weights.device)
    y = float((weights.sum(1) * rows).sum() / total)
    x = float((weights.sum(0) * columns).sum() / total)
    return y * spacing.y, x * spacing.x


def _no_heart(what: str) -> ImageError:
    return ImageError(
        f"The heart was not found: {what}.",
        hint="Check that the file is a short-axis cine of the heart with at least two different frames.",
        code=ErrorCode.HEART_NOT_FOUND,
    )


def centre_of_probability(heart: Float[Tensor, "z out_y out_x"], window: Window) -> tuple[float, float]:
    """Centre (y, x) in mm of the voxels that are more likely heart than not, seen through the window.

    Args:
        heart: Probability of any heart structure, on the window's grid.
        window: Where that grid lies; the centre is given on the subject's ruler.

    Raises:
        ImageError: No voxel is more likely heart than not.
    """
    _check_shape(heart.shape, window.shape, "probabilities")
    certain = torch.where(heart > 0.5, heart, 0.0).sum(0).double()
    if float(certain.sum()) == 0:
        raise _no_heart("no voxel was segmented as heart")
    y, x = _centroid_mm(certain, window.spacing)
    return y + window.origin_mm[0], x + window.origin_mm[1]


def heart_centre_from_motion(cine: CineSequence) -> tuple[float, float]:
    """First guess of the heart's centre (y, x) in mm: the middle of what changes once a cycle.

    The magnitude of the first temporal harmonic (of two frames: their absolute difference), each slice scaled to
    its own strongest change, added up over slices; then a centroid within a neighbourhood that closes in on it.

    Raises:
        ImageError: Nothing changes over the cycle.
    """
    change = _relative_change(cine)
    middle = ((change.shape[0] - 1) / 2 * cine.spacing.y, (change.shape[1] - 1) / 2 * cine.spacing.x)
    moving = _blur(change, cine.spacing, REGION_MM) * _bell(change, cine.spacing, middle, CENTRAL_MM)
    quiet = torch.kthvalue(moving.flatten(), 1 + int(QUIET_SHARE * (moving.numel() - 1))).values
    return _closing_in((moving - quiet).clamp_min(0), cine.spacing, middle)


def _relative_change(cine: CineSequence) -> Float[Tensor, "y x"]:
    """First harmonic, each slice relative to its own 99th percentile, averaged over slices."""
    change = _first_harmonic(cine.voxels, cine.spacing)
    strongest = torch.kthvalue(change.flatten(1), 1 + int(0.99 * (change[0].numel() - 1)), dim=1).values
    if float(strongest.max()) <= STILL * float(cine.voxels.abs().max()):
        raise _no_heart("no voxel changes over the cycle")
    return (change / strongest.clamp_min(0.01 * strongest.max())[:, None, None]).clamp_max(1).mean(0)


def _closing_in(weights: Float[Tensor, "y x"], spacing: Spacing, start_mm: tuple[float, float]) -> tuple[float, float]:
    centre = start_mm
    for radius in RADII_MM:
        for _ in range(ROUNDS):
            centre = _centroid_mm(weights * _bell(weights, spacing, centre, radius), spacing)
    return centre


def _first_harmonic(voxels: Float[Tensor, "t z y x"], spacing: Spacing) -> Float[Tensor, "z y x"]:
    """Magnitude of the change that has one period a cycle."""
    frames = voxels.shape[0]
    if frames == 1:
        return torch.zeros_like(voxels[0])
    angle = 2 * math.pi * torch.arange(frames, dtype=torch.float64) / frames
    cosine, sine = (
        _blur(torch.tensordot(wave.to(voxels), voxels, dims=1), spacing, NOISE_MM)
        for wave in (angle.cos(), angle.sin())
    )
    return torch.hypot(cosine, sine)


def _bell(
    like: Float[Tensor, "y x"], spacing: Spacing, centre_mm: tuple[float, float], width_mm: float
) -> Float[Tensor, "y x"]:
    """A Gaussian bell of height 1 around a point."""
    rows = torch.arange(like.shape[0]).to(like) * spacing.y - centre_mm[0]
    columns = torch.arange(like.shape[1]).to(like) * spacing.x - centre_mm[1]
    return torch.exp(-0.5 * (rows[:, None] ** 2 + columns[None] ** 2) / width_mm**2)


def _blur(values: Float[Tensor, "*n y x"], spacing: Spacing, width_mm: float) -> Float[Tensor, "*n y x"]:
    """In-plane Gaussian blur, renormalised at the edge of the field."""
    rows, columns = (
        _gaussian(count, step, width_mm) for count, step in zip(values.shape[-2:], (spacing.y, spacing.x), strict=True)
    )
    return _resample(values, rows, columns)


def _gaussian(count: int, step_mm: float, width_mm: float) -> Float64[Tensor, "n n"]:
    place = torch.arange(count, dtype=torch.float64) * step_mm
    weights = torch.exp(-0.5 * ((place[:, None] - place[None]) / width_mm) ** 2)
    return weights / weights.sum(1, keepdim=True)
