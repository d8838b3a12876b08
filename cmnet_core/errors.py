"""Every deliberate error of cmnet, with the closed list of codes that reach the user.

An error says what was expected, what was found and where (``message``), and what to do about it (``hint``).
"""

from enum import StrEnum
from functools import partial


class ErrorCode(StrEnum):
    """The codes that appear on screen, in ``status.parquet`` and in the documentation."""

    MANIFEST_UNREADABLE = "manifest-unreadable"
    MANIFEST_EMPTY = "manifest-empty"
    MANIFEST_COLUMN = "manifest-column"
    MANIFEST_ROW = "manifest-row"
    CONFIG = "config"
    REFERENCE_RANGES = "reference-ranges"
    OUTSIDE_TABLE = "outside-table"
    RUN = "run"
    TOOL = "tool"
    CHECKPOINT = "checkpoint"
    RESUME = "resume"
    TRAINING_CASES = "training-cases"
    FILE_MISSING = "file-missing"
    FILE_DAMAGED = "file-damaged"
    IMAGE_DIMENSIONS = "image-dimensions"
    IMAGE_VALUES = "image-values"
    IMAGE_QUALITY = "image-quality"
    DICOM = "dicom"
    GEOMETRY = "geometry"
    LABEL_VALUES = "label-values"
    LABEL_GEOMETRY = "label-geometry"
    LABEL_CLASS = "label-class"
    HEART_NOT_FOUND = "heart-not-found"
    WORKER_DIED = "worker-died"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    ENGINE = "engine"
    SHARD = "shard"
    DEFECT = "defect"


class CmnetError(Exception):
    """The root of all deliberate errors.

    Args:
        message: What was expected, what was found, and in which file, row or frame.
        hint: What the user can do about it.
        code: One of the closed list.
    """

    def __init__(self, message: str, *, hint: str, code: ErrorCode) -> None:
        super().__init__(message, hint, code)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the usual pickling, and errors travel between processes.
        return (partial(type(self), hint=self.hint, code=self.code), (self.message,))


class ManifestError(CmnetError):
    """The manifest, the configuration or the run folder is not usable; nothing ran."""


class CheckpointError(CmnetError):
    """A weights file is missing, damaged or made for something else; nothing ran."""


class EngineError(CmnetError):
    """What the cases ran on was lost on the way; what is done stays done."""


class CaseError(CmnetError):
    """One subject cannot be processed; all others can."""


class GeometryError(CaseError):
    """Spacing, affine or shapes make no sense, or two records do not fit each other."""


class LabelError(CaseError):
    """A reference mask has unknown values or does not fit its image."""


class ImageError(CaseError):
    """An image cannot be read, or what it holds is not a cine."""
