"""Displacement and velocity fields: warping, exponential, composition, inversion, Jacobian.

Inside the networks a displacement field is a batch ``[b 3 z y x]`` in voxels; everywhere else it is a
:class:`~cmnet_core.types.MotionField` in millimetres with the two frames that it connects. All fields are pull-backs:
``moving(p + u(p)) ≈ fixed(p)``.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.labels import Label
from cmnet_core.types import MotionField, Spacing

# ── in voxels, batched: for the networks ─────────────────────────────────────────────────────────────────────────


def identity_grid(shape: tuple[int, int, int], like: Tensor) -> Float[Tensor, "3 z y x"]:
    """Coordinates of every voxel centre, in voxels."""
    axes = [torch.arange(size, dtype=like.dtype, device=like.device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample_at(
    image: Float[Tensor, "b c z y x"], points: Float[Tensor, "b 3 z2 y2 x2"]
) -> Float[Tensor, "b c z2 y2 x2"]:
    """Interpolate an image linearly at points given in voxels; the border value is replicated."""
    last = torch.tensor([max(size - 1, 1) for size in image.shape[2:]], dtype=points.dtype, device=points.device)
    normalised = 2.0 * points / last.view(1, 3, 1, 1, 1) - 1.0
    # grid_sample expects the coordinates in the last axis, in the order x, y, z.
    grid = normalised.flip(1).movedim(1, -1)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp(image: Float[Tensor, "b c z y x"], displacement: Float[Tensor, "b 3 z y x"]) -> Float[Tensor, "b c z y x"]:
    """Warp an image, ``out(p) = image(p + u(p))``, with a displacement in voxels."""
    shape = (int(image.shape[2]), int(image.shape[3]), int(image.shape[4]))
    return sample_at(image, identity_grid(shape, displacement) + displacement)


def compose_displacements(
    outer: Float[Tensor, "b 3 z y x"], inner: Float[Tensor, "b 3 z y x"]
) -> Float[Tensor, "b 3 z y x"]:
    """Compose two displacements in voxels: ``u(p) = outer(p) + inner(p + outer(p))``."""
    return outer + warp(inner, outer)


def exponential(velocity: Float[Tensor, "b 3 z y x"], *, steps: int) -> Float[Tensor, "b 3 z y x"]:
    """Integrate a stationary velocity over unit time by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: Stationary velocity in voxels.
        steps: Number of squarings; with 0 the velocity itself is the displacement.

    Returns:
        The displacement in voxels; ``exponential(-velocity)`` is its inverse.
    """
    displacement: Tensor = velocity / 2.0**steps
    for _ in range(steps):
        displacement = compose_displacements(displacement, displacement)
    return displacement


def volume_change(displacement: Float[Tensor, "1 3 z y x"]) -> Float[Tensor, "z y x"]:
    """Jacobian determinant det F of a displacement in voxels, which equals that in millimetres.

    Derivatives are central differences, one-sided at the border, and 0 along an axis of one voxel.
    """
    columns = [_derivative(displacement[0], axis, 1.0) for axis in range(3)]
    # Written out, since cross products along an axis of three cost several times as much.
    (a, d, g), (b, e, h), (c, f, i) = columns
    a, e, i = a + 1.0, e + 1.0, i + 1.0
    determinant: Tensor = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return determinant


def surely_unfolded(velocity: Float[Tensor, "3 z y x"], *, steps: int) -> bool:
    """Whether the differences between neighbouring velocities prove that the motion has no fold.

    This is much cheaper than det F. Let M be the matrix of max |∂_j v_i|. A squaring takes a bound B of the
    displacement's differences to (I + B)² - I, so that exp(M) - I bounds the differences of the whole motion, entry by
    entry. If the spectral radius of that bound is below 1, I + t (F - I) is regular for every t from 0 to 1, hence
    det F > 0. The condition is sufficient, not necessary: False proves nothing.

    Args:
        velocity: Stationary velocity in voxels of its own grid.
        steps: Number of squarings of its exponential; with 0 it is the displacement itself.
    """
    steepest = torch.zeros(3, 3, dtype=torch.float64)
    for axis in range(3):
        if velocity.shape[axis + 1] > 1:
            steepest[:, axis] = torch.diff(velocity, dim=axis + 1).abs().amax(dim=(1, 2, 3))
    radius = float(torch.linalg.eigvals(steepest).abs().max())
    return radius < (math.log(2.0) if steps else 1.0)


# ── in millimetres, with frames: for everything else ─────────────────────────────────────────────────────────────


def _per_axis(spacing: Spacing, like: Tensor) -> Float[Tensor, "3 1 1 1"]:
    return torch.tensor(spacing.zyx, dtype=like.dtype, device=like.device).view(3, 1, 1, 1)


def to_voxels(field: MotionField) -> Float[Tensor, "1 3 z y x"]:
    """Convert a motion field to a displacement in voxels, as a batch of one."""
    return (field.displacement_mm / _per_axis(field.spacing, field.displacement_mm))[None]


def from_voxels(displacement: Float[Tensor, "3 z y x"], spacing: Spacing, *, fixed: int, moving: int) -> MotionField:
    """Convert a displacement in voxels to a motion field in mm between two frames."""
    return MotionField(displacement * _per_axis(spacing, displacement), spacing, fixed=fixed, moving=moving)


def propagate(values: Float[Tensor, "c z y x"], field: MotionField) -> Float[Tensor, "c z y x"]:
    """Warp values from the field's moving frame to its fixed frame by one linear interpolation.

    Raises:
        GeometryError: Values and field are on different grids.
    """
    _require_same_grid(tuple(values.shape[1:]), field)
    return warp(values[None], to_voxels(field))[0]


def propagate_probabilities(probabilities: Float[Tensor, "k z y x"], field: MotionField) -> Float[Tensor, "k z y x"]:
    """Propagate class probabilities from the field's moving frame to its fixed frame.

    As the base descends, the most basal slice shows at ES tissue that was above the stack at ED. A voxel that points
    one slice distance or more outside the stack points to tissue that was not imaged, and becomes background: with
    replicated border values the basal tissue would appear twice. Rows and columns of which no voxel points to the heart
    become background as a whole.

    Raises:
        GeometryError: Probabilities and field are on different grids.
    """
    shape = (int(probabilities.shape[1]), int(probabilities.shape[2]), int(probabilities.shape[3]))
    _require_same_grid(shape, field)
    points = identity_grid(shape, probabilities) + to_voxels(field)[0]
    heart = (probabilities[Label.BACKGROUND + 1 :] > probabilities[Label.BACKGROUND]).any(0)
    near = torch.ones_like(heart)
    for axis in (1, 2):
        shown = heart.movedim(axis, 0).flatten(1).any(1).nonzero()
        first, last = (int(shown[0]), int(shown[-1])) if len(shown) else (0, -1)
        near &= (points[axis] > first - 1.0) & (points[axis] < last + 1.0)
    rows, columns = near.any(2).any(0), near.any(1).any(0)
    propagated = torch.zeros_like(probabilities)
    propagated[Label.BACKGROUND] = 1.0
    if not bool(near.any()):
        return propagated
    part = (slice(None), slice(None), _range_of(rows), _range_of(columns))
    propagated[part] = sample_at(probabilities[None], points[part][None])[0]
    outside = (points[0] <= -1.0) | (points[0] >= shape[0])
    propagated[:, outside] = 0.0
    propagated[Label.BACKGROUND, outside] = 1.0
    return propagated


def _range_of(shown: Bool[Tensor, " n"]) -> slice:
    found = shown.nonzero()
    return slice(int(found[0]), int(found[-1]) + 1)


def compose(first: MotionField, then: MotionField) -> MotionField:
    """Compose two pull-backs: ``first`` points into the frame at which ``then`` is fixed.

    Raises:
        GeometryError: The fields do not meet in one frame, or are on different grids.
    """
    if first.moving != then.fixed:
        raise GeometryError(
            f"The first field points into frame {first.moving}, the second is fixed at frame {then.fixed}.",
            hint="Compose fields that meet: first.moving must equal then.fixed.",
            code=ErrorCode.GEOMETRY,
        )
    _require_same_grid(tuple(then.displacement_mm.shape[1:]), first)
    displacement = compose_displacements(to_voxels(first), to_voxels(then))[0]
    return from_voxels(displacement, first.spacing, fixed=first.fixed, moving=then.moving)


def compose_sequence(steps: Sequence[MotionField]) -> list[MotionField]:
    """Compose consecutive steps, each pointing into the frame where the one before it is fixed.

    Returns:
        For each step, the field that is fixed where the step is fixed and points into the frame that the first step
        points into, so that a mask of that frame is propagated to any other by one interpolation.

    Raises:
        GeometryError: Two steps do not meet.
    """
    composed: list[MotionField] = []
    for step in steps:
        composed.append(compose(step, composed[-1]) if composed else step)
    return composed


def compose_between(steps: Sequence[MotionField], *, moving: int, fixed: int) -> MotionField:
    """Compose the steps of a cycle between two frames: on the grid of ``fixed``, pointing into ``moving``.

    Equal frames mean the whole cycle.

    Raises:
        GeometryError: A necessary step is missing.
    """
    start = next((index for index, step in enumerate(steps) if step.moving == moving), None)
    from_moving = [*steps[start:], *steps[:start]] if start is not None else []
    stop = next((index for index, step in enumerate(from_moving) if step.fixed == fixed), None)
    if stop is None:
        raise GeometryError(
            f"The motion from frame {moving} to frame {fixed} is not among the {len(steps)} stored steps.",
            hint="Run 'cmnet infer' again for this subject with its motion kept in full.",
            code=ErrorCode.GEOMETRY,
        )
    return compose_sequence(from_moving[: stop + 1])[-1]


def invert(field: MotionField, *, iterations: int = 30) -> MotionField:
    """Invert a field by fixed-point iteration ``w ← −u(p + w)`` (Chen et al., Med. Phys. 35(1), 2008).

    The iteration converges where the Lipschitz constant of the displacement is below 1. The exponential of a
    velocity is better inverted by negating the velocity.
    """
    forward = to_voxels(field)
    inverse = -forward
    for _ in range(iterations):
        inverse = -warp(forward, inverse)
    return from_voxels(inverse[0], field.spacing, fixed=field.moving, moving=field.fixed)


def deformation_gradient(field: MotionField) -> Float[Tensor, "3 3 z y x"]:
    """Deformation gradient ``F = I + ∂u/∂X`` with ``F[i, j] = δ_ij + ∂u_i/∂X_j``, both in millimetres.

    Derivatives are central differences, one-sided at the border, and 0 along an axis of one voxel.
    """
    derivatives = [_derivative(field.displacement_mm, axis, mm) for axis, mm in enumerate(field.spacing.zyx)]
    gradient = torch.stack(derivatives, dim=1)
    identity = torch.eye(3, dtype=gradient.dtype, device=gradient.device).view(3, 3, 1, 1, 1)
    return gradient + identity


def _derivative(values: Float[Tensor, "c z y x"], axis: int, step_mm: float) -> Float[Tensor, "c z y x"]:
    if values.shape[axis + 1] == 1:
        return torch.zeros_like(values)
    return torch.gradient(values, spacing=step_mm, dim=axis + 1)[0]


def jacobian_determinant(field: MotionField) -> Float[Tensor, "z y x"]:
    """Jacobian determinant det F of a motion field; the field folds where it is not positive."""
    return volume_change(to_voxels(field))


def green_lagrange(gradient: Float[Tensor, "3 3 z y x"]) -> Float[Tensor, "3 3 z y x"]:
    """Green–Lagrange strain ``E = ½(FᵀF − I)`` of a deformation gradient."""
    right_cauchy_green = torch.einsum("kizyx,kjzyx->ijzyx", gradient, gradient)
    identity = torch.eye(3, dtype=gradient.dtype, device=gradient.device).view(3, 3, 1, 1, 1)
    return 0.5 * (right_cauchy_green - identity)


def _require_same_grid(shape: tuple[int, ...], field: MotionField) -> None:
    if shape != tuple(field.displacement_mm.shape[1:]):
        raise GeometryError(
            f"Values of shape {shape} and a field of shape {tuple(field.displacement_mm.shape[1:])} do not fit.",
            hint="Resample both to one grid first.",
            code=ErrorCode.GEOMETRY,
        )
