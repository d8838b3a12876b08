"""The integrity of a run: every file that is missing or damaged, and what makes each of them again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.execution.attempt_log import read_attempts
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.runs.paths import CohortStage, RunFolder
from cmnet_cli.runs.provenance import State, damaged_outputs, read_sidecar, sha256_of
from cmnet_cli.runs.run_folder import read_record
from cmnet_cli.seals import (
    DIGESTS,
    differing_files,
    is_whole_parquet,
    is_whole_text,
    open_key,
    read_digests,
    read_lines,
    read_sealed_json,
)
from cmnet_cli.slurm.submission import read_submission
from cmnet_cli.stages.indices import TABLES_OF_INDICES
from cmnet_cli.tables.parts import list_parts
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.errors import CmnetError

STORED_STAGES = (CohortStage.PREPROCESS, CohortStage.INFER)


class Remedy(StrEnum):
    """What makes a damaged file again, as it is printed after the file."""

    RESTORE = "restored from its second copy"
    REWRITE = "written again"
    INFER = "made again by cmnet infer"
    PREPROCESS = "made again by cmnet preprocess"
    CORRECT = "made again by cmnet correct"
    INDICES = "made again by cmnet indices"
    EVALUATE = "made again by cmnet evaluate"
    BENCHMARK = "made again by cmnet benchmark"
    COMPARE = "made again by cmnet compare"
    REPORT = "made again by cmnet report"
    LINES = "read without its damaged lines"
    ACCEPT = "kept as it is, since no command makes it again"
    SUBMIT = "given up with its submission, once none of its tasks is active; submit again for what is missing"


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a run that is missing or damaged.

    Attributes:
        path: The file.
        problem: What is wrong with it.
        remedy: What makes it again.
        case: The case that it belongs to, or None.
    """

    path: Path
    problem: str
    remedy: Remedy
    case: Case | None = None


@dataclass(frozen=True, slots=True)
class Integrity:
    """What a check of all files of a run found.

    Attributes:
        sidecars: Number of sidecars that were checked with their outputs.
        damage: Files that are missing or damaged.
    """

    sidecars: int
    damage: tuple[Damage, ...]


def check_integrity(folder: RunFolder) -> Integrity:
    """Compute every digest of a run again, and find the files that are damaged or missing."""
    cases = cases_of(folder)
    done = _stages_done(folder, cases)
    sidecars, damage = 0, [*_damaged_copies(folder), *_damaged_records(folder), *_damaged_tables(folder)]
    for case in cases:
        for stage in STORED_STAGES:
            checked, found = _check_case(folder, case, stage, is_done=stage in done.get(case.case_id, ()))
            sidecars += checked
            damage += found
        checked, found = _check_correction(folder, case)
        sidecars += checked
        damage += found
    damage += [*_damaged_logs(folder), *_damaged_submissions(folder), *_damaged_pages(folder)]
    return Integrity(sidecars, tuple(damage))


def cases_of(folder: RunFolder) -> tuple[Case, ...]:
    """Return the cohort of a run, from the second copy where the first is damaged; none where both are."""
    for path in (folder.cohort, folder.copy_of(folder.cohort)):
        if path.exists() and is_whole_parquet(path):
            return read_manifest(path).cases
    return ()


def is_whole_copy(file: Path) -> bool:
    """Whether a file that has a second copy, or such a copy, exists and matches its seal."""
    if not file.exists():
        return False
    if file.suffix == ".parquet":
        return is_whole_parquet(file)
    if file.suffix == ".json":
        values = read_sealed_json(file, required=True)
        return values is not None and (file.name != "run.json" or isinstance(values.get("commands"), dict))
    return open_key(file.read_bytes(), required=True) is not None


def _damaged_copies(folder: RunFolder) -> Iterator[Damage]:
    for file in folder.copied:
        copy = folder.copy_of(file)
        if (file.exists() or copy.exists()) and not is_whole_copy(file):
            yield Damage(file, _problem(file), Remedy.RESTORE)
        # A command that was interrupted leaves no copy; the next one makes it.
        if copy.exists() and not is_whole_copy(copy):
            yield Damage(copy, _problem(copy), Remedy.RESTORE)


def _problem(path: Path) -> str:
    return "damaged" if path.exists() else "missing"


def _damaged_records(folder: RunFolder) -> Iterator[Damage]:
    for path in (folder.description, folder.data_dictionary):
        if path.exists() and read_sealed_json(path, required=True) is None:
            yield Damage(path, "damaged", Remedy.REWRITE)
    if not folder.description.exists():
        yield Damage(folder.description, "missing", Remedy.REWRITE)


def _remedy_of_table(name: str) -> Remedy:
    if name in TABLES_OF_INDICES:
        return Remedy.INDICES
    if name == "comparison":
        return Remedy.COMPARE
    if name.startswith("benchmark"):
        return Remedy.BENCHMARK
    return Remedy.REWRITE if name == "status" else Remedy.EVALUATE


def _damaged_tables(folder: RunFolder) -> Iterator[Damage]:
    commands = read_record(folder)["commands"]
    # A command that was interrupted has not written all of its tables; the same command writes them.
    ended = {
        remedy
        for remedy in (Remedy.INDICES, Remedy.EVALUATE, Remedy.BENCHMARK)
        if commands.get(remedy.name.lower(), {}).get("ended")
    }
    required = {name for name in DECLARED if _remedy_of_table(name) in ended}
    for name in DECLARED:
        path = folder.table(name)
        if (path.exists() or name in required) and not is_whole_parquet(path):
            yield Damage(path, _problem(path), _remedy_of_table(name))
    for part in list_parts(folder):
        if not is_whole_parquet(part):
            yield Damage(part, "damaged", Remedy.INDICES)


def _stages_done(folder: RunFolder, cases: Sequence[Case]) -> Mapping[str, set[str]]:
    """Return the stages whose last attempt succeeded, by case id."""
    keys = [path for path in (folder.share_key, folder.copy_of(folder.share_key)) if is_whole_copy(path)]
    attempts = read_attempts(folder.all_outcomes) if keys else []
    if not attempts:
        return {}
    deidentifier = open_deidentifier(keys[0], share_safe=False)
    case_ids = {deidentifier.pseudonym(case.case_id): case.case_id for case in cases}
    done: dict[str, set[str]] = {}
    for attempt in attempts:
        stages = done.setdefault(case_ids.get(attempt.pseudonym, ""), set())
        (stages.add if attempt.state == State.DONE else stages.discard)(attempt.stage)
    return done


def _check_case(run: RunFolder, case: Case, stage: CohortStage, *, is_done: bool) -> tuple[bool, list[Damage]]:
    """Check the sidecar of a stage and its outputs; return whether there is one, and what is damaged."""
    folder = run.case(case.case_id)
    path = folder.sidecar(stage)
    # Infer stores the window too, where the networks have located the heart.
    remedy = Remedy.INFER if run.is_done(case.case_id, CohortStage.INFER) else Remedy[stage.name]
    if not path.exists():
        return False, [Damage(path, "missing", remedy, case)] if is_done else []
    sidecar = read_sidecar(path, sealed=True)
    if sidecar is None or (sidecar.case_id, sidecar.stage) != (case.case_id, stage):
        return True, [Damage(path, "damaged", remedy, case)]
    files = (folder.folder / name for name in damaged_outputs(path, sidecar))
    return True, [Damage(file, _problem(file), remedy, case) for file in files]


def _check_correction(run: RunFolder, case: Case) -> tuple[bool, list[Damage]]:
    """Check the correction of a case; one that was interrupted has edited masks and no sidecar."""
    folder = run.case(case.case_id).correction
    path = folder.tracking_sidecar
    if not path.exists():
        is_interrupted = bool(folder.edited_labels)
        return False, [Damage(path, "missing", Remedy.CORRECT, case)] if is_interrupted else []
    sidecar = read_sidecar(path, sealed=True)
    if sidecar is None or (sidecar.case_id, sidecar.stage) != (case.case_id, path.stem.rpartition("-")[2]):
        return True, [Damage(path, "damaged", Remedy.CORRECT, case)]
    files = (folder.folder / name for name in damaged_outputs(path, sidecar))
    return True, [Damage(file, _problem(file), Remedy.CORRECT, case) for file in files]


def _damaged_logs(folder: RunFolder) -> Iterator[Damage]:
    for path in folder.all_outcomes:
        _, lines = read_lines(path)
        if lines:
            yield Damage(path, f"damaged in line {', '.join(map(str, lines[:5]))}", Remedy.LINES)
    for path in sorted(folder.logs.glob("*.txt")):
        if not is_whole_text(path):
            yield Damage(path, "damaged", Remedy.ACCEPT)
    yield from _damaged_by_digests(folder.logs, {})


def _damaged_by_digests(folder: Path, remedies: Mapping[str, Remedy]) -> Iterator[Damage]:
    """Check the files that ``digests.json`` of a folder lists, and that file itself."""
    record = folder / DIGESTS
    if record.exists() and read_digests(folder) is None:
        yield Damage(record, "damaged", Remedy.ACCEPT)
    for name in differing_files(folder):
        yield Damage(folder / name, _problem(folder / name), remedies.get(Path(name).suffix, Remedy.ACCEPT))


def _damaged_pages(folder: RunFolder) -> Iterator[Damage]:
    for damage in _damaged_by_digests(folder.evaluation_page.parent, {}):
        is_record = damage.path.name == DIGESTS
        yield replace(damage, remedy=damage.remedy if is_record else _remedy_of_table(damage.path.stem))
    for index in (folder.report, folder.shared_report):
        for damage in _damaged_by_digests(index.parent, {}):
            yield Damage(damage.path, damage.problem, Remedy.REPORT)


def _damaged_submissions(folder: RunFolder) -> Iterator[Damage]:
    for path in sorted(folder.root.glob("slurm/*/events/*.jsonl")):
        _, lines = read_lines(path)
        if lines:
            yield Damage(path, f"damaged in line {', '.join(map(str, lines[:5]))}", Remedy.LINES)
    for name in folder.submissions:
        submitted = folder.submission(name)
        yield from _damaged_by_digests(submitted.folder, {})
        try:
            submission = read_submission(submitted)
        except CmnetError:
            continue
        frozen = [(submitted.shard(shard.number), shard.sha256) for shard in submission.shards]
        if submission.reference is not None:
            frozen.append((submitted.reference(submission.reference.name), submission.reference.sha256))
        for path, digest in frozen:
            if not path.exists() or sha256_of(path) != digest:
                yield Damage(path, _problem(path), Remedy.SUBMIT)
