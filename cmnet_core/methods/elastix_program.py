"""The program that registers two images by elastix, for :mod:`cmnet_core.methods.free_form`.

``python -m cmnet_core.methods.elastix_program FOLDER Z Y X THREADS`` reads ``fixed.npy`` and ``moving.npy``, whose
voxel spacing is Z, Y and X in mm, and writes ``displacement.npy`` in mm, component first.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

GRID_MM = 10.0
"""Distance of the control points at the finest level, in mm."""

LEVELS, ITERATIONS = 3, 200
"""Number of levels of the pyramid, and of iterations at each."""

BENDING_WEIGHT = 0.01
"""Weight of the bending energy beside normalised correlation."""


def main(folder: Path, spacing_zyx: tuple[float, float, float], threads: int) -> None:
    """Register the images of a folder.

    Args:
        folder: Folder with the images, in which the displacement is written.
        spacing_zyx: Voxel spacing in mm.
        threads: Number of threads.
    """
    import itk

    target, source = (_read(folder / name, spacing_zyx) for name in ("fixed.npy", "moving.npy"))
    settings = itk.ParameterObject.New()
    settings.AddParameterMap(_parameters(len(itk.array_view_from_image(target))))
    _, transform = itk.elastix_registration_method(
        target, source, parameter_object=settings, log_to_console=False, number_of_threads=threads
    )
    # It also writes the field to a file.
    field = itk.transformix_deformation_field(source, transform, log_to_console=False, output_directory=f"{folder}/")
    vectors = itk.array_from_image(field)[..., ::-1].astype(np.float32)
    np.save(folder / "displacement.npy", np.ascontiguousarray(np.moveaxis(vectors, -1, 0)))


def _read(path: Path, spacing_zyx: tuple[float, float, float]) -> Any:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(np.load(path), dtype=np.float32))
    image.SetSpacing(spacing_zyx[::-1])
    return image


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


if __name__ == "__main__":
    place, z, y, x, threads = sys.argv[1:]
    main(Path(place), (float(z), float(y), float(x)), int(threads))
