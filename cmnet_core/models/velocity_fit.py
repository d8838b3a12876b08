"""The velocity fit: refines DeformNet's velocity by the texture and the segmentations of two frames.

A segmentation does not constrain motion along the wall, but texture does. The fit minimises over the velocity v, from
DeformNet's velocity v₀ on, ::

    E(v) =   near · (c/(c + m))² |texture(moving ∘ exp v) − texture(fixed)|²
           + s |segmentation(moving ∘ exp v) − segmentation(fixed)|²
           + κ m² |v − v₀|²  +  β |Δv|²  +  β_z |∂²v/∂z²|²
           + γ ventricle (|∂v_z/∂y|² + |∂v_z/∂x|²)                summed over all voxels

by Gauss-Newton steps on a sequence of resolution levels; preconditioned conjugate gradients solve each step. It is
variational optical flow with warping (Horn and Schunck, Artificial Intelligence 17, 1981; Brox et al., ECCV 2004) with
three differences. The regularisation acts on the whole velocity instead of on the update, and on its second
derivatives, so that neither a rotation nor a homogeneous stretch is penalised. The mismatch m that remains after the
first levels reduces the weight of the texture, because tissue that moves through-plane has no counterpart in the other
frame; there v₀ and the segmentations determine the motion. In the left ventricle the in-plane gradient of the
through-plane velocity is penalised: the segmentations do not constrain it, and it would add to the in-plane strain.

Nothing in the fit is learnt, and no gradient passes through it. The fit compares the images of two frames; the losses
of training (:mod:`cmnet_core.models.losses`) do not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.filters import smooth_in_plane
from cmnet_core.labels import Label
from cmnet_core.models.layers import Stacks, upsample, upsample_displacement
from cmnet_core.models.rotation_net import LVLocation, locate_lv
from cmnet_core.registration.displacement import exponential, identity_grid, sample_at


@dataclass(frozen=True, slots=True)
class FitLevel:
    """Settings of one Gauss-Newton step of the fit.

    Lengths are standard deviations of Gaussians in voxels of half the in-plane resolution, the grid of the velocity.

    Attributes:
        background: Scale of the background that is subtracted from the image to obtain its texture.
        window: Scale over which the equations of the step are averaged.
        blur: Scale by which the segmentations are smoothed.
        shear: γ, the weight of the in-plane gradient of the through-plane velocity. Through-plane motion converges
            within a few steps only while it is small.
        robust: Whether the mismatch m reduces the weight of the texture. It does not at the first levels, where the
            frames are not yet aligned.
        downsampling: Size of the frames' voxels at this level in voxels of the image: 1, 2 or 4. At 4 the update is
            computed at a quarter of the in-plane resolution, where conjugate gradients converge faster.
    """

    background: float
    window: float
    blur: float
    shear: float
    robust: bool
    downsampling: int

    @property
    def step(self) -> int:
        """Size of the update's voxels in voxels of half the in-plane resolution."""
        return max(self.downsampling // 2, 1)


FIT_LEVELS = (
    4 * (FitLevel(background=6.0, window=1.5, blur=2.0, shear=0.2, robust=False, downsampling=4),)
    + 4 * (FitLevel(background=2.5, window=0.7, blur=1.0, shear=0.2, robust=False, downsampling=2),)
    + 6 * (FitLevel(background=2.5, window=1.0, blur=1.0, shear=2.0, robust=True, downsampling=1),)
)
"""The steps of the fit in their order; each starts from the velocity that the previous one returned."""

SEGMENTATION_WEIGHT = 0.4
"""s, the weight of a squared difference of class probabilities against a squared difference of normalised texture."""

GEMAN_MCCLURE_SCALE = 0.2
"""c, the mean squared mismatch of normalised texture at which the weight of the texture is reduced to a quarter (as in
Geman and McClure, Bulletin of the ISI 52, 1987)."""

SIMILARITY_WINDOW = 4.0
"""Scale over which the mismatch m is averaged, in voxels of half the in-plane resolution."""

ATTACHMENT = 0.8
"""κ, the weight of the distance from v₀."""

BENDING = 0.03
"""β, the weight of the in-plane Laplacian of the velocity."""

BENDING_THROUGH_PLANE = 0.001
"""β_z, the weight of the second through-plane derivative. It is small because slices are far apart and may rotate
against each other."""

VENTRICLE_BORDER = 1.5
"""Scale over which the weight of the ventricle falls off at its border, in voxels of half the in-plane resolution."""

CG_ITERATIONS = 18
"""Number of conjugate-gradient iterations per Gauss-Newton step."""

MAX_SQUARINGS = 5
"""Largest number of squarings of the exponential within the fit; further ones change a displacement by 0.002 voxels in
the mean."""

MIN_CONTRAST = 0.1
"""Lower bound of the standard deviation by which texture is divided, in standard deviations of the image."""

NEIGHBOUR_SLICE_WEIGHT = 0.25
"""Weight of each of the two neighbouring slices in the average of the mismatch."""

Z_UNIT = 0.2
"""Through-plane unit of the solution, in slices: a through-plane motion of 0.2 slices is regularised as an in-plane
motion of one voxel."""

MAX_STEP = 1.5
"""Largest length of the update of one Gauss-Newton step, in voxels of the update's grid."""

TEXTURE_DECAY_START = 2.0
"""Fraction of the epicardial radius from which the weight of the texture decays as a Gaussian of the distance."""

TEXTURE_DECAY_SD = 0.8
"""Standard deviation of that Gaussian, as a fraction of the epicardial radius."""


@torch.no_grad()
def fit_velocity(
    moving: Float[Tensor, "n c y x"],
    fixed: Float[Tensor, "n c y x"],
    initial: Float[Tensor, "n 3 yh xh"],
    stacks: Stacks,
    *,
    integration_steps: int,
) -> Float[Tensor, "n 3 yh xh"]:
    """Fit a velocity to the texture and the segmentations of two frames.

    Args:
        moving: The frame into which the motion points: the image in the first channel, followed by SegNet's
            probabilities of the structures.
        fixed: The frame on which the velocity is defined, with the same channels.
        initial: The velocity v₀ at half the in-plane resolution, in its voxels.
        stacks: The stacks to which the slices belong.
        integration_steps: Number of squarings of the velocity's exponential.
    """
    lv = locate_lv(fixed, stacks)
    return torch.cat(
        [
            _fit_stack(moving[a:b], fixed[a:b], initial[a:b], lv.subset(a, b), min(integration_steps, MAX_SQUARINGS))
            for a, b in stacks.spans()
        ]
    )


def _fit_stack(moving: Tensor, fixed: Tensor, initial: Tensor, lv: LVLocation, steps: int) -> Tensor:
    moving, fixed = moving.float(), fixed.float()
    units = torch.tensor([Z_UNIT, 1.0, 1.0], device=initial.device).view(3, 1, 1)
    half = _FitInputs(_texture_weight(lv, initial), _ventricle(functional.avg_pool2d(fixed, 2)), initial / units)
    inputs = {1: half, 2: half, 4: half.downsampled()}
    # The fixed frame is averaged over the voxels of each level, the moving frame over windows of that size everywhere.
    frames = {k: (functional.avg_pool2d(moving, k, 1), functional.avg_pool2d(fixed, k)) for k in (1, 2, 4)}
    velocity = half.initial
    for level in FIT_LEVELS:
        level_moving, level_fixed = frames[level.downsampling]
        current = functional.avg_pool2d(velocity, level.step)
        warped = _warp(level_moving, current * units / _in_plane_factor(level.step, current), level, steps)
        equations = _normal_equations(warped, level_fixed, current, level, inputs[level.downsampling])
        velocity = velocity + upsample(_limit_length(_solve(equations)), factor=level.step)
    return velocity * units


def _in_plane_factor(factor: float, like: Tensor) -> Float[Tensor, "3 1 1"]:
    """Return 1 along z and a factor along y and x."""
    return torch.tensor([1.0, factor, factor], device=like.device).view(3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _FitInputs:
    """What is the same at all levels, on the grid of the velocity.

    Attributes:
        texture_weight: Weight of the texture: 1 in the heart, decaying outside of it.
        ventricle: 1 in cavity and wall of the left ventricle.
        initial: v₀ in the units of the solution, voxels of half the in-plane resolution and :data:`Z_UNIT`.
    """

    texture_weight: Float[Tensor, "n 1 y x"]
    ventricle: Float[Tensor, "n 1 y x"]
    initial: Float[Tensor, "n 3 y x"]

    def downsampled(self) -> "_FitInputs":
        """Return the same at half the in-plane resolution."""
        return _FitInputs(
            *(functional.avg_pool2d(maps, 2) for maps in (self.texture_weight, self.ventricle, self.initial))
        )


def _texture_weight(lv: LVLocation, like: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 1 y x"]:
    """Return 1 in the heart, decaying outside of it, at half the in-plane resolution."""
    y, x = (
        2.0 * torch.arange(count, device=like.device) + 0.5 - lv.centre[:, axis, None]
        for axis, count in enumerate(like.shape[2:])
    )
    distance = torch.hypot(y[:, :, None], x[:, None, :]) / lv.radius[:, None, None]
    decay = torch.exp(-0.5 * ((distance - TEXTURE_DECAY_START).clamp_min(0.0) / TEXTURE_DECAY_SD).square())
    return (decay * lv.presence[:, None, None])[:, None]


def _ventricle(frame: Float[Tensor, "n c y x"]) -> Float[Tensor, "n 1 y x"]:
    """Return 1 in the left ventricle up to its border, falling off outside of it."""
    inside = frame[:, Label.LV, None] + frame[:, Label.MYO, None]
    return (2.0 * smooth_in_plane(inside, VENTRICLE_BORDER)).clamp_max(1.0)


def _warp(
    frame: Float[Tensor, "n c yf xf"], velocity: Float[Tensor, "n 3 y x"], level: FitLevel, steps: int
) -> Float[Tensor, "n c yl xl"]:
    """Warp a stack's frame at image resolution onto the grid of a level, by a velocity in its own voxels."""
    volume = exponential(velocity.movedim(0, 1)[None], steps=steps)
    if level.downsampling == 1:
        volume = upsample_displacement(volume, factor=2)
    points = volume + identity_grid((int(volume.shape[2]), int(volume.shape[3]), int(volume.shape[4])), volume)
    to_frame = _in_plane_factor(float(level.downsampling), points)[..., None]
    return sample_at(frame.movedim(0, 1)[None], points * to_frame)[0].movedim(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _NormalEquations:
    """The linear equations of a Gauss-Newton step: (data + attachment + regularisation) · step = right side.

    Attributes:
        data: Upper triangle, row by row, of the 3×3 matrix of each voxel.
        attachment: Weight of the distance from v₀.
        regulariser: Regularisation of the velocity.
        right: Right side of the equations.
    """

    data: Float[Tensor, "n 6 y x"]
    attachment: Float[Tensor, "n 1 y x"]
    regulariser: "_Regulariser"
    right: Float[Tensor, "n 3 y x"]

    def apply(self, step: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
        """Return the left side of the equations."""
        return _symmetric_product(self.data, step) + self.attachment * step + self.regulariser.gradient(step)

    def preconditioner(self) -> Float[Tensor, "n 6 y x"]:
        """Return the inverse of each voxel's own 3×3 matrix."""
        data = self.data.clone()
        data[:, :1] += 2.0 * self.regulariser.shear
        diagonal = self.attachment + 20.0 * self.regulariser.bending + 6.0 * BENDING_THROUGH_PLANE
        return _symmetric_inverse(data, diagonal)


def _normal_equations(
    warped: Float[Tensor, "n c yl xl"],
    fixed: Float[Tensor, "n c yl xl"],
    velocity: Float[Tensor, "n 3 y x"],
    level: FitLevel,
    inputs: _FitInputs,
) -> _NormalEquations:
    """Linearise E at a velocity, with the mean gradient of the warped and the fixed frame."""
    # Voxels of the frames in one voxel of the velocity, and in one voxel of half the in-plane resolution.
    scale, fineness = level.step * 2 // level.downsampling, 2.0 / level.downsampling
    warped, fixed = _features(warped, level, fineness), _features(fixed, level, fineness)
    difference = warped - fixed
    z, y, x = _gradient(0.5 * (warped + fixed), fineness)
    segmentation_weight = torch.full_like(fixed[:, 1:], SEGMENTATION_WEIGHT)
    weight = torch.cat([_finer(inputs.texture_weight, scale), segmentation_weight], dim=1)
    attachment = torch.zeros_like(inputs.texture_weight)
    if level.robust:
        mismatch = _mismatch(_coarser(difference[:, :1].square(), scale), inputs.texture_weight, level)
        weight[:, :1] *= _finer((GEMAN_MCCLURE_SCALE / (GEMAN_MCCLURE_SCALE + mismatch)) ** 2, scale)
        attachment = ATTACHMENT * mismatch.square()
    products = [(weight * a * b).sum(1) for a, b in ((z, z), (z, y), (z, x), (y, y), (y, x), (x, x))]
    products += [(weight * a * difference).sum(1) for a in (z, y, x)]
    sums = smooth_in_plane(_coarser(torch.stack(products, dim=1), scale), level.window / level.step)
    regulariser = _Regulariser(BENDING / level.step**4, level.shear / level.step**2 * inputs.ventricle)
    right = -sums[:, 6:] - attachment * (velocity - inputs.initial) - regulariser.gradient(velocity)
    return _NormalEquations(sums[:, :6], attachment, regulariser, right)


def _finer(maps: Tensor, scale: int) -> Tensor:
    return maps if scale == 1 else functional.interpolate(maps, scale_factor=float(scale))


def _coarser(maps: Tensor, scale: int) -> Tensor:
    return maps if scale == 1 else functional.avg_pool2d(maps, scale)


def _features(frame: Float[Tensor, "n c y x"], level: FitLevel, fineness: float) -> Float[Tensor, "n c y x"]:
    """Return the texture, without background and with normalised contrast, and the smoothed segmentation."""
    texture = frame[:, :1] - smooth_in_plane(frame[:, :1], fineness * level.background)
    contrast = (smooth_in_plane(texture.square(), fineness * level.background) + MIN_CONTRAST**2).rsqrt()
    return torch.cat([texture * contrast, smooth_in_plane(frame[:, 1:], fineness * level.blur)], dim=1)


def _mismatch(
    squared: Float[Tensor, "n 1 y x"], weight: Float[Tensor, "n 1 y x"], level: FitLevel
) -> Float[Tensor, "n 1 y x"]:
    """Return m, the local weighted mean of the squared differences of the texture."""
    sums = _average_over_slices(
        smooth_in_plane(torch.cat([squared * weight, weight], dim=1), SIMILARITY_WINDOW / level.step)
    )
    return sums[:, :1] / sums[:, 1:].clamp_min(1e-3)


def _average_over_slices(maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
    """Return the weighted mean of every slice of a stack and its neighbours."""
    padded = torch.cat([maps[:1], maps, maps[-1:]])
    return (maps + NEIGHBOUR_SLICE_WEIGHT * (padded[:-2] + padded[2:])) / (1.0 + 2.0 * NEIGHBOUR_SLICE_WEIGHT)


def _gradient(maps: Float[Tensor, "n c y x"], fineness: float) -> list[Float[Tensor, "n c y x"]]:
    """Return central differences along z, y and x in units of the solution; half of one-sided ones at the border."""
    z = torch.cat([maps[:1], maps, maps[-1:]])
    padded = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    return [
        0.5 * Z_UNIT * (z[2:] - z[:-2]),
        0.5 * fineness * (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]),
        0.5 * fineness * (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Regulariser:
    """Regularisation of a velocity, which is extended by its border values.

    Attributes:
        bending: Weight of the in-plane Laplacian.
        shear: Weight of the in-plane gradient of the through-plane velocity.
    """

    bending: float
    shear: Float[Tensor, "n 1 y x"]

    def gradient(self, velocity: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
        """Return half the derivative of the regularisation."""
        # Without the image border, where a rotation would have a Laplacian.
        laplacian = functional.pad(_in_plane_laplacian(velocity)[:, :, 1:-1, 1:-1], (1, 1, 1, 1))
        through_plane = _through_plane_laplacian(_through_plane_laplacian(velocity))
        gradient = self.bending * _in_plane_laplacian(laplacian) + BENDING_THROUGH_PLANE * through_plane
        gradient[:, :1] += self._shear_gradient(velocity[:, :1])
        return gradient

    def _shear_gradient(self, through_plane: Float[Tensor, "n 1 y x"]) -> Float[Tensor, "n 1 y x"]:
        """Return half the derivative of shear · |in-plane gradient|², with the smaller weight between neighbours."""
        weight = self.shear
        y = torch.diff(through_plane, dim=2) * torch.minimum(weight[:, :, 1:], weight[:, :, :-1])
        x = torch.diff(through_plane, dim=3) * torch.minimum(weight[..., 1:], weight[..., :-1])
        return -torch.diff(functional.pad(y, (0, 0, 1, 1)), dim=2) - torch.diff(functional.pad(x, (1, 1)), dim=3)


def _in_plane_laplacian(maps: Tensor) -> Tensor:
    """Return the negative in-plane Laplacian."""
    padded = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    along_y = padded[:, :, 2:, 1:-1] + padded[:, :, :-2, 1:-1]
    along_x = padded[:, :, 1:-1, 2:] + padded[:, :, 1:-1, :-2]
    return 4.0 * maps - along_y - along_x


def _through_plane_laplacian(maps: Tensor) -> Tensor:
    """Return the negative second difference along z."""
    padded = torch.cat([maps[:1], maps, maps[-1:]])
    return 2.0 * maps - padded[2:] - padded[:-2]


def _solve(equations: _NormalEquations) -> Float[Tensor, "n 3 y x"]:
    """Solve the equations by preconditioned conjugate gradients from zero on."""
    preconditioner = equations.preconditioner()
    residual = equations.right
    step, direction = torch.zeros_like(residual), _symmetric_product(preconditioner, residual)
    energy = (residual * direction).sum()
    for _ in range(CG_ITERATIONS):
        product = equations.apply(direction)
        length = energy / (direction * product).sum().clamp_min(1e-20)
        step, residual = step + length * direction, residual - length * product
        preconditioned = _symmetric_product(preconditioner, residual)
        before, energy = energy, (residual * preconditioned).sum()
        direction = preconditioned + energy / before.clamp_min(1e-20) * direction
    return step


def _symmetric_product(matrix: Float[Tensor, "n 6 y x"], vector: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    a, b, c, d, e, f = matrix.unbind(1)
    z, y, x = vector.unbind(1)
    return torch.stack([a * z + b * y + c * x, b * z + d * y + e * x, c * z + e * y + f * x], dim=1)


def _symmetric_inverse(
    matrix: Float[Tensor, "n 6 y x"], diagonal: Float[Tensor, "n 1 y x"]
) -> Float[Tensor, "n 6 y x"]:
    """Invert each voxel's matrix plus a diagonal by cofactors, ten times as fast as ``torch.linalg.inv``."""
    a, b, c, d, e, f = matrix.unbind(1)
    a, d, f = (entry + diagonal[:, 0] for entry in (a, d, f))
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    cofactors = torch.stack([p, q, r, a * f - c * c, b * c - a * e, a * d - b * b], dim=1)
    return cofactors / (a * p + b * q + c * r)[:, None]


def _limit_length(step: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y x"]:
    length = step.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    return step * (MAX_STEP * torch.tanh(length / MAX_STEP) / length)
