"""Free-form deformation by B-splines with elastix.

Rueckert et al., IEEE TMI 18 (1999) 712; Klein et al., IEEE TMI 29 (2010) 196.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import Spacing

GRID_MM = 10.0
"""Distance of the control points at the finest level, in mm."""

LEVELS, ITERATIONS = 3, 200
"""Number of levels of the pyramid, and of iterations at each."""

BENDING_WEIGHT = 0.01
"""Weight of the bending energy beside normalised correlation."""


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    import itk

    target, source = (_to_itk(image, spacing) for image in (fixed, moving))
    settings = itk.ParameterObject.New()
    settings.AddParameterMap(_parameters(fixed.shape[0]))
    _, transform = itk.elastix_registration_method(
        target, source, parameter_object=settings, log_to_console=False, number_of_threads=torch.get_num_threads()
    )
    # It also writes the field to a file, by default in the working folder.
    with tempfile.TemporaryDirectory() as folder:
        field = itk.transformix_deformation_field(
            source, transform, log_to_console=False, output_directory=f"{folder}/"
        )
    vectors = itk.array_from_image(field)[..., ::-1].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(vectors, -1, 0)))


def _to_itk(image: Float[Tensor, "z y x"], spacing: Spacing) -> Any:
    import itk

    converted = itk.image_from_array(np.ascontiguousarray(image.cpu().numpy()))
    converted.SetSpacing(spacing.zyx[::-1])
    return converted


def _parameters(slices: int) -> dict[str, tuple[str, ...]]:
    """Return the settings of elastix, in-plane with a pyramid and through-plane without."""
    factors = [str(2**level) for level in range(LEVELS - 1, -1, -1)]
    schedule = tuple(text for factor in factors for text in (factor, factor, "1"))
    return {
        "FixedInternalImagePixelType": ("float",),
        "MovingInternalImagePixelType": ("float",),
        "Registration": ("MultiMetricMultiResolutionRegistration",),
        "Metric": ("AdvancedNormalizedCorrelation", "TransformBendingEnergyPenalty"),
        "Metric0Weight": ("1.0",),
        "Metric1Weight": (str(BENDING_WEIGHT),),
        "Transform": ("RecursiveBSplineTransform",),
        "FinalGridSpacingInPhysicalUnits": (str(GRID_MM),),
        "Optimizer": ("AdaptiveStochasticGradientDescent",),
        "MaximumNumberOfIterations": (str(ITERATIONS),),
        "NumberOfResolutions": (str(LEVELS),),
        "FixedImagePyramid": ("FixedSmoothingImagePyramid",),
        "MovingImagePyramid": ("MovingSmoothingImagePyramid",),
        "ImagePyramidSchedule": schedule,
        "ImageSampler": ("RandomCoordinate",),
        "NumberOfSpatialSamples": (str(2048 * max(1, slices // 4)),),
        "NewSamplesEveryIteration": ("true",),
        "Interpolator": ("LinearInterpolator",),
        "ResampleInterpolator": ("FinalLinearInterpolator",),
        "Resampler": ("DefaultResampler",),
        "RandomSeed": ("1",),
        "WriteResultImage": ("false",),
    }
