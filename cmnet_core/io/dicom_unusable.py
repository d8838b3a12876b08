"""Why DICOM files have no image of a cine, and what the user can do about it."""

from collections import Counter
from enum import StrEnum

from cmnet_core.errors import ErrorCode, ImageError


class Unusable(StrEnum):
    """The reason why a file has no image of a cine."""

    NOT_DICOM = "not DICOM"
    NIFTI = "NIfTI files"
    ZIP = "zip files within"
    TAR = "tar archives"
    POINTER = "pointers of git-annex or Git LFS without content"
    LINK_OUTSIDE = "links that lead out of the folder"
    LINK_BROKEN = "links without a target"
    DEFLATED = "deflated"
    COLOUR = "in colour"
    NO_POSITION = "without image position or orientation"
    NO_PIXEL_SPACING = "without pixel spacing"
    PLAIN_MULTI_FRAME = "multi-frame without the position of each frame"
    NO_IMAGE = "without an image"
    DAMAGED = "damaged"


UNREADABLE = (Unusable.DAMAGED, Unusable.DEFLATED, Unusable.LINK_BROKEN, Unusable.POINTER)
"""Reasons why a file that may belong to the series cannot be read."""

_FETCH = "Fetch their content with 'datalad get', 'git annex get' or 'git lfs pull'."
_REMEDIES = {
    Unusable.TAR: "Unpack the tar archive, and give the folder.",
    Unusable.LINK_OUTSIDE: "Give --follow-links, or 'yes' in the column follow_links, if you trust the links.",
    Unusable.LINK_BROKEN: _FETCH,
    Unusable.POINTER: _FETCH,
    Unusable.NIFTI: "These are NIfTI files: name the 4-D file itself in the manifest, or use --layout nifti.",
    Unusable.ZIP: "Unpack the inner zip files, or give the zip of one visit itself.",
    Unusable.DEFLATED: "Decompress the files, for instance with 'dcmconv --write-xfer-little' of DCMTK.",
    Unusable.COLOUR: "Export the original magnitude images instead of colour images.",
    Unusable.NO_PIXEL_SPACING: "Export the series again with PixelSpacing, or as NIfTI with voxel sizes.",
    Unusable.PLAIN_MULTI_FRAME: "Export single-frame or enhanced DICOM files, or convert the cine to NIfTI.",
}


def no_images(files: int, images: int, unusable: Counter[Unusable]) -> ImageError:
    """Return the error of files without a magnitude image, which states what was found instead.

    Args:
        files: Number of files.
        images: Number of images in them that are not magnitude images.
        unusable: How often each reason why a file has no image was found.
    """
    found = [f"{count} {reason}" for reason, count in unusable.most_common()]
    if images:
        found.insert(0, f"{images} images that are not magnitude images")
    most = unusable.most_common(1)[0][0] if unusable and not images else None
    usual = "Give the DICOM files of the short-axis cine, magnitude images, or convert it to NIfTI with dcm2niix."
    return ImageError(
        f"Expected DICOM magnitude images with a position in the patient, found {files} files: "
        f"{', '.join(found) or 'none'}.",
        hint=usual if most is None else _REMEDIES.get(most, usual),
        code=ErrorCode.DICOM,
    )
