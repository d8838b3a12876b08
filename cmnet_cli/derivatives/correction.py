"""The correction of a case on disk: edited label maps, and the results that follow from them.

``cmnet correct`` stores in the folder ``corrected`` within the folder of a case:

- ``desc-edited_frame-NNN_dseg.nii.gz``: the edited label map of a frame, as it was given; its time of modification is
  that of the file that was given;
- ``desc-corrected_dseg.nii.gz``: the label maps of all frames;
- the other files of :mod:`cmnet_cli.derivatives.tracking` but the posterior;
- ``desc-correct.json``: the sidecar, with the facts of the tracking and the :class:`Correction`.

The automatic results remain as they are beside it. They count again as soon as the folder is gone.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cmnet_cli.runs.paths import CaseFolder, CorrectionFolder
from cmnet_cli.runs.provenance import read_sidecar, sha256_of
from cmnet_core.errors import CaseError, ErrorCode, ImageError, LabelError
from cmnet_core.io.nifti import inspect, read_label_map, read_own, write_image


@dataclass(frozen=True, slots=True)
class Correction:
    """The edited label maps of a case, by which its row and its page are marked.

    Attributes:
        frames: The edited frames, from 0.
        mask_sha256: Digest of the edited label maps.
        mask_date: When the latest of them was edited, in UTC.
    """

    frames: tuple[int, ...]
    mask_sha256: str
    mask_date: str


def describe_edits(edited: Mapping[int, Path]) -> Correction:
    """Return digest and date of edited label maps.

    Args:
        edited: Files by frame.
    """
    frames = tuple(sorted(edited))
    digests = "".join(f"{frame} {sha256_of(edited[frame])}\n" for frame in frames)
    latest = max(edited[frame].stat().st_mtime for frame in frames)
    date = datetime.fromtimestamp(latest, UTC).isoformat(timespec="seconds")
    return Correction(frames, hashlib.sha256(digests.encode()).hexdigest(), date)


def read_correction(folder: CaseFolder) -> Correction | None:
    """Return the complete correction of a case, or None.

    Args:
        folder: The folder of the case, or that of its correction.
    """
    of_case = folder if isinstance(folder, CorrectionFolder) else folder.correction
    sidecar = read_sidecar(of_case.tracking_sidecar)
    return None if sidecar is None else _correction_from_json(sidecar.facts["correction"])


def _correction_from_json(values: dict[str, Any]) -> Correction:
    return Correction(**values | {"frames": tuple(values["frames"])})


def current_results(folder: CaseFolder) -> CaseFolder:
    """Return the results of a case that count: those of its correction, or the automatic ones.

    Raises:
        ImageError: The sidecar of the correction is damaged.
        LabelError: Infer has run again since the correction was made.
    """
    path = folder.correction.tracking_sidecar
    corrected = read_sidecar(path)
    if corrected is None:
        if path.exists():
            hint = "cmnet verify --repair makes it again from the stored edited masks."
            raise ImageError(f"{path}: the sidecar is damaged.", hint=hint, code=ErrorCode.FILE_DAMAGED)
        return folder
    automatic = read_sidecar(folder.tracking_sidecar)
    outputs = {record.path: record.sha256 for record in automatic.outputs} if automatic else {}
    name = folder.segnet_labels.name
    used = next((record.sha256 for record in corrected.inputs if Path(record.path).name == name), None)
    if used != outputs.get(name):
        raise LabelError(
            f"The correction of {folder.case_id} was made from other automatic results than are stored now.",
            hint="cmnet correct applies the stored edited masks again; cmnet correct --undo ID drops them.",
            code=ErrorCode.CORRECTION,
        )
    return folder.correction


def remove_correction(folder: CaseFolder) -> bool:
    """Remove the correction of a case at once; return whether there was one."""
    corrected = folder.correction
    found = corrected.folder.exists()
    shutil.rmtree(corrected.removed, ignore_errors=True)
    if found:
        corrected.folder.rename(corrected.removed)
        shutil.rmtree(corrected.removed, ignore_errors=True)
    return found


def restore_edits(folder: CaseFolder, damaged: Collection[Path]) -> tuple[int, ...]:
    """Restore damaged edited masks from the corrected label maps, which have them unchanged, or remove them.

    Args:
        folder: The folder of the case.
        damaged: Its files that are damaged or missing.

    Returns:
        The frames whose edited mask is lost, since neither of its two copies is whole.
    """
    correction = folder.correction
    known = read_correction(folder)
    names = {path.name for path in damaged}
    frames = [frame for frame in (known.frames if known else ()) if correction.edited(frame).name in names]
    if known is None:
        # Without a sidecar no digest is known; what can be read is whole by the checksum of gzip.
        frames = [frame for frame, path in correction.edited_labels.items() if not _is_readable(path)]
    whole = correction.segnet_labels.exists() and correction.segnet_labels.name not in names and known is not None
    lost = []
    for frame in frames:
        path = correction.edited(frame)
        if whole and known is not None:
            maps, affine = read_own(correction.segnet_labels)
            write_image(path, torch.from_numpy(maps[frame]), affine=torch.from_numpy(affine), frame_ms=None)
            edited_s = datetime.fromisoformat(known.mask_date).timestamp()
            os.utime(path, (edited_s, edited_s))
        else:
            path.unlink(missing_ok=True)
            lost.append(frame)
    correction.tracking_sidecar.unlink(missing_ok=True)
    return tuple(lost)


def _is_readable(path: Path) -> bool:
    try:
        read_label_map(path, image=inspect(path))
    except CaseError:
        return False
    return True
