"""The frozen input of a submission: shards of the manifest and the reference ranges, each with its digest.

A task refuses a file that was edited after the submission.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest, write_manifest
from cmnet_cli.runs.paths import SubmissionFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.seals import write_sealed_json
from cmnet_cli.slurm.submission import FrozenFile, Shard, Submission
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_bytes


def split_into_shards(cases: Sequence[Case], size: int) -> list[Sequence[Case]]:
    """Split the cases, in their order, into shards of ``size`` cases."""
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def freeze_reference(folder: SubmissionFolder, source: Path) -> FrozenFile:
    """Copy a table of reference ranges into the folder of a submission; its name may name the table."""
    copy = folder.reference(source.name)
    write_bytes(copy, source.read_bytes())
    copy.chmod(0o444)
    return FrozenFile(source.name, sha256_of(copy))


def freeze_submission(folder: SubmissionFolder, submission: Submission, shards: Iterable[Sequence[Case]]) -> Submission:
    """Write the shards of a submission with their digests, and then its record.

    Returns:
        The submission with its shards.
    """
    frozen = []
    for number, cases in enumerate(shards):
        path = folder.shard(number)
        write_manifest(path, cases)
        path.chmod(0o444)
        frozen.append(Shard(number, len(cases), sha256_of(path)))
    complete = replace(submission, shards=tuple(frozen))
    write_sealed_json(folder.record, asdict(complete))
    return complete


def read_shard(folder: SubmissionFolder, submission: Submission, number: int) -> tuple[Case, ...]:
    """Read the cases of a shard, as they were at the submission.

    Raises:
        ManifestError: The shard is missing or was changed.
    """
    path = folder.shard(number)
    digest = submission.shards[number].sha256 if number < len(submission.shards) else ""
    _require_unchanged(path, digest)
    return read_manifest(path).cases


def frozen_reference(folder: SubmissionFolder, frozen: FrozenFile) -> Path:
    """Return the path of the frozen reference ranges.

    Raises:
        ManifestError: The file is missing or was changed.
    """
    path = folder.reference(frozen.name)
    _require_unchanged(path, frozen.sha256)
    return path


def _require_unchanged(path: Path, digest: str) -> None:
    if not digest or not path.exists():
        problem = "is missing"
    elif sha256_of(path) != digest:
        problem = "is not the one that was submitted: its digest differs"
    else:
        return
    raise ManifestError(
        f"The frozen file {path} {problem}.",
        hint="Submit again: only what is missing is submitted.",
        code=ErrorCode.SHARD,
    )
