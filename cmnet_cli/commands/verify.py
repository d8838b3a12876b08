"""The command verify: it checks the digest of every file of a run and, with --repair, makes damaged files again."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.config import EvaluateConfig, IndicesConfig, InferConfig, PreprocessConfig, load_config
from cmnet_cli.console import Messages
from cmnet_cli.derivatives.correction import remove_correction, restore_edits
from cmnet_cli.execution.build_stage import build_infer_stage
from cmnet_cli.execution.integrity import Damage, Integrity, Remedy, cases_of, check_integrity, is_whole_copy
from cmnet_cli.execution.plan import CasePlan, ExecutionSettings
from cmnet_cli.execution.runner import open_execution, run_stage, write_status
from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.runs.paths import CohortStage, RunFolder, require_run
from cmnet_cli.runs.provenance import State, remove_path
from cmnet_cli.runs.run_folder import locked_run, open_run, read_record, write_description
from cmnet_cli.seals import (
    DIGESTS,
    accept_files,
    copy_file,
    read_lines,
    sealed_line,
    sealed_text,
    write_sealed_json,
)
from cmnet_cli.slurm.array_tasks import count_active_tasks
from cmnet_cli.slurm.submission import give_up_submission
from cmnet_cli.stages.preprocess import PreprocessStage
from cmnet_cli.tables.schema import write_data_dictionary
from cmnet_core.errors import CmnetError
from cmnet_core.io.atomic import write_text

_LEFTOVER_AGE_S = 600.0
# Files of these kinds have no seal of their own.
_WITHOUT_SEAL = (".log", ".md", ".csv", ".sh")


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of all digests of a run found, after the repair if there was one.

    Attributes:
        checked: Number of sidecars whose outputs were checked.
        damaged: Paths of the files that are damaged or missing.
    """

    checked: int
    damaged: tuple[str, ...]


def verify_run(run: Path, messages: Messages, *, repair: bool = False, as_json: bool = False) -> Verification:
    """Compute every digest of a run again, and list the files that are damaged or missing.

    Args:
        run: The run folder.
        messages: The console.
        repair: Whether to make damaged files again, each by the smallest step.
        as_json: Whether to print what was found as JSON, after the repair if there was one.

    Raises:
        ManifestError: There is no such run, or another command works on it.
    """
    if as_json:
        verification = verify_run(run, replace(messages, quiet=True), repair=repair)
        messages.data(messages.deidentifier.text(json.dumps(dataclasses.asdict(verification), indent=2)))
        return verification
    folder = RunFolder(run.absolute())
    if not folder.copy_of(folder.cohort).exists():
        require_run(run)
    found = check_integrity(folder)
    _print_damage(found, messages)
    if repair:
        _remove_leftovers(folder, messages)
        if found.damage:
            _repair(folder, found.damage, messages)
            found = check_integrity(folder)
            messages.note("After the repair:")
            _print_damage(found, messages)
    return Verification(found.sidecars, tuple(str(damage.path) for damage in found.damage))


def _print_damage(found: Integrity, messages: Messages) -> None:
    for damage in found.damage:
        messages.result(f"{damage.problem}: {damage.path} ({damage.remedy})")
    messages.result(f"{found.sidecars} sidecars checked, {len(found.damage)} files damaged or missing")


def _remove_leftovers(folder: RunFolder, messages: Messages) -> None:
    """Remove the temporary files of commands that were killed; those of running reports are younger."""
    with locked_run(folder, "verify --repair"):
        old = time.time() - _LEFTOVER_AGE_S
        leftovers = [path for path in folder.root.rglob(".tmp-*") if path.stat().st_mtime < old]
        for path in leftovers:
            remove_path(path)
    if leftovers:
        messages.note(f"{len(leftovers)} temporary files of interrupted commands removed")


def _repair(folder: RunFolder, damage: Sequence[Damage], messages: Messages) -> None:
    """Make damaged files again: first what other steps read, last what is made from the results of others."""
    with locked_run(folder, "verify --repair"):
        _restore_edits(folder, damage, messages)
        for item in damage:
            if item.remedy != Remedy.CORRECT:
                _mend(folder, item)
    by_remedy = {remedy: [item for item in damage if item.remedy == remedy] for remedy in Remedy}
    for remedy, stage in ((Remedy.PREPROCESS, CohortStage.PREPROCESS), (Remedy.INFER, CohortStage.INFER)):
        cases = tuple({item.case.case_id: item.case for item in by_remedy[remedy] if item.case}.values())
        if cases:
            with _print_failure(f"cmnet {stage}", messages):
                _run_again(folder, stage, cases, messages)
    inferred = [item.case.case_id for item in by_remedy[Remedy.INFER] if item.case]
    if by_remedy[Remedy.CORRECT] or any(folder.case(case_id).correction.edited_labels for case_id in inferred):
        with _print_failure("cmnet correct", messages):
            _correct(folder, messages)
    tables: tuple[tuple[Remedy, Callable[[], None]], ...] = (
        (Remedy.INDICES, partial(_compute_indices, folder, messages)),
        (Remedy.EVALUATE, partial(_evaluate, folder, messages)),
        (Remedy.REPORT, partial(_report, folder, by_remedy[Remedy.REPORT], messages)),
    )
    for remedy, make_again in tables:
        if by_remedy[remedy]:
            with _print_failure(f"cmnet {remedy.name.lower()}", messages):
                make_again()
    for remedy in (Remedy.BENCHMARK, Remedy.COMPARE):
        if by_remedy[remedy]:
            messages.note(f"The comparison is made again by the same command cmnet {remedy.name.lower()}.")


@contextmanager
def _print_failure(command: str, messages: Messages) -> Iterator[None]:
    """Let the other steps of a repair be done where one cannot."""
    try:
        yield
    except CmnetError as error:
        messages.failure(command, error.message, error.hint)


def _mend(folder: RunFolder, damage: Damage) -> None:
    """Restore, rewrite or remove a damaged file, so that the command that makes it again does so."""
    path = damage.path
    if damage.remedy == Remedy.RESTORE:
        _restore(folder, path)
    elif damage.remedy == Remedy.REWRITE:
        _rewrite(folder, path)
    elif damage.remedy == Remedy.LINES:
        write_text(path, "".join(sealed_line(values) + "\n" for values in read_lines(path)[0]))
    elif damage.remedy == Remedy.ACCEPT:
        _accept(path)
    elif damage.case is not None:
        for stage in (CohortStage.PREPROCESS, CohortStage[damage.remedy.name]):
            folder.case(damage.case.case_id).sidecar(stage).unlink(missing_ok=True)
    elif damage.remedy == Remedy.SUBMIT:
        name = path.relative_to(folder.root).parts[1]
        if name in folder.submissions and not count_active_tasks(folder, name):
            give_up_submission(folder.submission(name))
    elif damage.remedy in (Remedy.INDICES, Remedy.EVALUATE, Remedy.BENCHMARK, Remedy.COMPARE, Remedy.REPORT):
        path.unlink(missing_ok=True)


def _restore_edits(folder: RunFolder, damage: Sequence[Damage], messages: Messages) -> None:
    """Restore the edited masks of damaged corrections; a correction of which none is left is removed."""
    damaged: dict[str, list[Path]] = {}
    for item in damage:
        if item.remedy == Remedy.CORRECT and item.case is not None:
            damaged.setdefault(item.case.case_id, []).append(item.path)
    for case in cases_of(folder):
        if case.case_id not in damaged:
            continue
        of_case = folder.case(case.case_id)
        lost = restore_edits(of_case, damaged[case.case_id])
        if lost:
            frames = ", ".join(map(str, lost))
            messages.note(
                f"row {case.row}: the edited masks of frames {frames} are lost; give them to cmnet correct again."
            )
        if not of_case.correction.edited_labels:
            remove_correction(of_case)


def _restore(folder: RunFolder, path: Path) -> None:
    """Restore a file from its second copy, or the copy from the file."""
    file = next((item for item in folder.copied if path in (item, folder.copy_of(item))), None)
    if file is None:
        # Its submission was given up a moment ago.
        path.unlink(missing_ok=True)
        return
    whole = next((item for item in (file, folder.copy_of(file)) if is_whole_copy(item)), None)
    if whole is not None:
        copy_file(whole, path)
    elif file == folder.record:
        write_sealed_json(path, read_record(folder))
    elif file == folder.share_key:
        # The pseudonyms in the logs can no longer be resolved; the next command makes a new key.
        path.unlink(missing_ok=True)
    elif file != folder.cohort:
        give_up_submission(folder.submission(file.parent.name))


def _rewrite(folder: RunFolder, path: Path) -> None:
    if path == folder.description:
        write_description(folder)
    elif path == folder.data_dictionary:
        write_data_dictionary(path)
    else:
        opened = open_run(folder.root)
        write_status(opened, _states(folder, opened.cases))


def _accept(path: Path) -> None:
    """Give a file that no command makes again a new seal, or a new digest in the record of its folder."""
    if path.suffix == ".txt":
        write_text(path, sealed_text(path.read_text(encoding="utf-8", errors="replace")))
        return
    folder = next(parent for parent in path.parents if (parent / DIGESTS).exists())
    files = [path]
    if path.name == DIGESTS:
        files = [item for item in folder.rglob("*") if item.suffix in _WITHOUT_SEAL]
    accept_files(folder, [str(item.relative_to(folder)) for item in files])


def _run_again(folder: RunFolder, stage: CohortStage, cases: Sequence[Case], messages: Messages) -> None:
    """Run a stage that stores files again on some cases, with the settings that ``run.json`` records."""
    settings = read_record(folder)["commands"].get(stage, {}).get("settings")
    if settings is None:
        messages.note(f"run.json does not record cmnet {stage}: run the same command again for {len(cases)} subjects.")
        return
    built = (
        build_infer_stage(folder.root, load_config(InferConfig, None, **settings), "auto")
        if stage == CohortStage.INFER
        else PreprocessStage(folder.root, load_config(PreprocessConfig, None, **settings))
    )
    opened = open_run(folder.root)
    wanted = {case.case_id for case in cases}
    plan = CasePlan(tuple(case for case in opened.cases if case.case_id in wanted), _states(folder, opened.cases))
    with open_execution(folder, stage, ExecutionSettings(), messages) as context:
        run_stage(built, plan, opened, context)


def _states(folder: RunFolder, cases: Sequence[Case]) -> dict[str, tuple[State, str]]:
    """Return the cases as done whose sidecar proves it, since the log of attempts may be damaged."""
    recorded = read_record(folder)["commands"]
    stage = CohortStage.INFER if CohortStage.INFER in recorded else CohortStage.PREPROCESS
    done = (case.case_id for case in cases if folder.is_done(case.case_id, stage))
    return dict.fromkeys(done, (State.DONE, ""))


def _correct(folder: RunFolder, messages: Messages) -> None:
    from cmnet_cli.commands.correct import correct

    correct(folder.root, None, ExecutionSettings(), messages, device="auto")


def _compute_indices(folder: RunFolder, messages: Messages) -> None:
    from cmnet_cli.commands.process import indices

    settings = read_record(folder)["commands"].get("indices", {}).get("settings", {})
    config = load_config(IndicesConfig, None, **{name: value for name, value in settings.items() if value != ""})
    indices(folder.root, config, ExecutionSettings(), messages)


def _evaluate(folder: RunFolder, messages: Messages) -> None:
    from cmnet_cli.commands.accuracy.evaluate import evaluate

    record = read_record(folder)["commands"].get("evaluate", {})
    manifest = Path(record["manifest"]) if record.get("manifest") else None
    config = load_config(EvaluateConfig, None, **record.get("settings", {}))
    evaluate(folder.root, manifest, config, ExecutionSettings(), messages)


def _report(folder: RunFolder, damage: Sequence[Damage], messages: Messages) -> None:
    """Write the damaged pages again, and those that are older than the tables.

    Damaged figures are written again with all of those pages. Other files that were exported from the pages need
    Chromium or ffmpeg.
    """
    from cmnet_cli.commands.report import report
    from cmnet_cli.report.data.page_selection import NONE
    from cmnet_cli.report.export.file_formats import AnimationFormat, FigureFormat
    from cmnet_cli.report.export.formats import Formats
    from cmnet_cli.report.write import Request

    shared = open_deidentifier(folder.share_key, share_safe=True)
    for index, name_of in ((folder.report, str), (folder.shared_report, shared.name)):
        damaged = [item.path for item in damage if index.parent in item.path.parents]
        if not damaged:
            continue
        case_ids = {f"{name_of(case.case_id)}.html": case.case_id for case in cases_of(folder)}
        is_shared = index == folder.shared_report
        tables_ns = folder.table("indices").stat().st_mtime_ns if folder.table("indices").exists() else 0
        pages = index.parent.glob("sub-*.html")
        names = {page.name for page in pages if is_shared or page.stat().st_mtime_ns < tables_ns}
        # The name of an exported file begins with that of its page.
        names |= {page for page in case_ids for path in damaged if _is_of_page(path, page)}
        chosen = tuple(case_ids[name] for name in sorted(names) if name in case_ids)
        kinds = {path.suffix[1:] for path in damaged}
        figures = next((kind for kind in FigureFormat if kind in kinds), None)
        animation = next((kind for kind in AnimationFormat if kind in kinds), None)
        report(
            folder.root, messages, Request(chosen or (NONE,), is_shared, Formats(figures, animation, "pdf" in kinds))
        )


def _is_of_page(path: Path, page: str) -> bool:
    stem = page.removesuffix(".html")
    return path.stem == stem or path.stem.startswith(f"{stem}_")
