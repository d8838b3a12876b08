"""All deliberate errors of cmnet, with the closed list of their codes.

An error states what was expected, what was found and where (``message``), and what the user can do (``hint``).
"""

import difflib
from collections.abc import Iterable
from enum import StrEnum
from functools import partial


class ErrorCode(StrEnum):
    """The error codes, as printed, stored in ``status.parquet`` and documented."""

    MANIFEST_UNREADABLE = "manifest-unreadable"
    MANIFEST_EMPTY = "manifest-empty"
    MANIFEST_COLUMN = "manifest-column"
    MANIFEST_ROW = "manifest-row"
    CONFIG = "config"
    REFERENCE_RANGES = "reference-ranges"
    OUTSIDE_TABLE = "outside-table"
    VERDICTS = "verdicts"
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
    CORRECTION = "correction"
    HEART_NOT_FOUND = "heart-not-found"
    WORKER_DIED = "worker-died"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    ENGINE = "engine"
    SHARD = "shard"
    DEFECT = "defect"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the beginning of a hint that has the known name most like a mistyped one; empty if none is like it."""
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{similar[0]}'? " if similar else ""


class CmnetError(Exception):
    """The base class of all deliberate errors.

    Args:
        message: What was expected, what was found, and in which file, row or frame.
        hint: What the user can do about it.
        code: Error code.
    """

    def __init__(self, message: str, *, hint: str, code: ErrorCode) -> None:
        super().__init__(message, hint, code)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are passed between processes, and the default pickling loses keyword-only arguments.
        return (partial(type(self), hint=self.hint, code=self.code), (self.message,))


class ManifestError(CmnetError):
    """The manifest, the configuration or the run folder is not usable; nothing was run."""


class CheckpointError(CmnetError):
    """A weights file is missing, damaged or for another architecture; nothing was run."""


class EngineError(CmnetError):
    """The engine was lost during a run; finished cases are kept."""


class CaseError(CmnetError):
    """One subject cannot be processed; the others are not affected."""


class GeometryError(CaseError):
    """Spacing, affine or shapes are not valid, or two records do not match."""


class LabelError(CaseError):
    """A reference mask has unknown values or does not match its image."""


class ImageError(CaseError):
    """An image cannot be read, or is not a cine."""
