"""The shards of a submission: rows of the manifest, frozen. A digest keeps tasks from working on an edited list."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest, write_manifest
from cmnet_cli.runs.paths import SubmissionFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.slurm.submission import Shard, Submission
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_json


def cut(cases: Sequence[Case], size: int) -> list[Sequence[Case]]:
    """The cases in shards of a size, in their order."""
    return [cases[start : start + size] for start in range(0, len(cases), size)]


def freeze(folder: SubmissionFolder, submission: Submission, shards: Iterable[Sequence[Case]]) -> Submission:
    """Write the shards of a submission and then its record, with their digests.

    Returns:
        The submission with its shards.
    """
    frozen = []
    for number, cases in enumerate(shards):
        path = folder.shard(number)
        write_manifest(path, cases)
        path.chmod(0o444)
        frozen.append(Shard(number, len(cases), sha256_of(path)))
    whole = replace(submission, shards=tuple(frozen))
    write_json(folder.record, asdict(whole))
    return whole


def read_shard(folder: SubmissionFolder, submission: Submission, number: int) -> tuple[Case, ...]:
    """The cases of a shard, as they were when it was frozen.

    Raises:
        ManifestError: It is missing or was changed.
    """
    path = folder.shard(number)
    if number >= len(submission.shards) or not path.exists():
        raise ManifestError(
            f"The shard {path} is missing.", hint="Submit again: only what is missing is sent.", code=ErrorCode.SHARD
        )
    if sha256_of(path) != submission.shards[number].sha256:
        raise ManifestError(
            f"The shard {path} is not the one that was submitted: its digest differs.",
            hint="Submit again: only what is missing is sent.",
            code=ErrorCode.SHARD,
        )
    return read_manifest(path).cases
