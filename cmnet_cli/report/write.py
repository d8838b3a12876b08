"""Write a report: one page for the cohort and one for each selected subject, from the run folder alone."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier
from cmnet_cli.report.cohort.page import render_cohort
from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import read_population
from cmnet_cli.report.data.load_results import Row, RunResults, read_run_results
from cmnet_cli.report.data.page_selection import NONE, choose_pages
from cmnet_cli.report.data.worklist import make_worklist
from cmnet_cli.report.export.formats import Formats, save_animation, save_figures, save_pdf
from cmnet_cli.report.subject.page import SubjectPage, make_subject_page
from cmnet_cli.report.subject.review import list_places, make_review
from cmnet_cli.report.templating import open_templates
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.verdicts import Reading, read_verdicts, store_verdicts
from cmnet_cli.seals import recording
from cmnet_core.io.atomic import write_text

# Number of subjects whose table rows are read at once.
_BATCH = 200

# Tables from which a subject's page is made.
_TABLES = ("indices", "frames", "segments", "motion")

_PAGES_ALONE = Formats()


@dataclass(frozen=True, slots=True)
class Request:
    """The contents of a report.

    Attributes:
        pages: Subjects that get a page: ``all``, ``flagged``, ``none`` or ids; empty for the default.
        share_safe: Whether the report may be shared outside the institution.
        formats: Files that are written beside the pages.
        verdicts: Verdicts of readers to keep in the run; None for those that it has.
    """

    pages: tuple[str, ...] = ()
    share_safe: bool = False
    formats: Formats = _PAGES_ALONE
    verdicts: Path | None = None


_EVERYTHING = Request()


def write_report(
    run: Path, request: Request = _EVERYTHING, *, progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Path:
    """Write the cohort page and the pages of the selected subjects.

    Args:
        run: A run folder.
        request: The contents of the report.
        progress: Wraps the subjects while their pages are made, for instance in a progress bar.

    Returns:
        The path of the cohort page.

    Raises:
        ManifestError: This is no run folder, nothing has run in it, the verdicts cannot be used, or a requested file
            cannot be made.
    """
    request.formats.require_tools()
    folder = RunFolder(run)
    population = read_population(folder)
    readings = read_verdicts(folder, population.all_case_ids, request.verdicts)
    if request.verdicts is not None:
        store_verdicts(folder, readings)
    if request.share_safe:
        # A reader's name and remark may identify a person.
        readings = {case_id: Reading(reading.verdict) for case_id, reading in readings.items()}
    deidentifier = open_deidentifier(folder.share_key if request.share_safe else None, share_safe=request.share_safe)
    index, worklist = folder.shared_report if request.share_safe else folder.report, make_worklist(population)
    chosen = choose_pages(worklist, request.pages or ((NONE,) if request.share_safe else ()))
    names = {row: f"{deidentifier.name(name)}.html" for row, name in enumerate(population.case_ids)}
    kept = {} if request.share_safe else _pages_up_to_date(folder, names)
    pages = kept | {row: names[row] for row in chosen}
    context = CohortContext(population, deidentifier, pages, readings)
    places = list_places(worklist, pages)
    with recording(index.parent):
        _remove_pages(index, keep=set(pages.values()))
        templates, case_ids = open_templates(), [population.case_ids[row] for row in chosen]
        subjects = zip(progress(case_ids), chosen, _rows(folder, case_ids, deidentifier), strict=True)
        for case_id, number, (results, row) in subjects:
            page = folder.report_page(deidentifier.name(case_id), share_safe=request.share_safe)
            review = make_review(worklist, number, places[number], readings.get(case_id))
            _write_subject(templates, page, make_subject_page(templates, results, row, review), request.formats)
        write_text(index, render_cohort(templates, context, worklist))
        if request.formats.pdf:
            save_pdf(index)
    return index


def is_up_to_date(folder: RunFolder) -> bool:
    """Whether there is a report that was written after the tables."""
    tables = [folder.table(name).stat().st_mtime for name in _TABLES if folder.table(name).exists()]
    return folder.report.exists() and folder.report.stat().st_mtime > max(tables, default=0.0)


def update_report(
    run: Path, changed: Collection[str], *, progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Path:
    """Write the cohort page and the pages of some subjects; the other pages remain as they are.

    Args:
        run: A run folder whose report was up to date before the rows of these subjects changed.
        changed: Ids of the subjects whose rows changed.
        progress: Wraps the subjects while their pages are made.

    Returns:
        The path of the cohort page.
    """
    folder = RunFolder(run)
    own = {folder.report_page(name).name for name in changed}
    for page in folder.report.parent.glob("sub-*.html"):
        if page.name not in own:
            # By its time it would count as older than the tables, whose rows of its subject are the same as before.
            page.touch()
    _remove_pages(folder.report, keep={page.name for page in folder.report.parent.glob("sub-*.html")} - own)
    return write_report(run, Request(tuple(sorted(changed)) or (NONE,)), progress=progress)


def _write_subject(templates: Environment, path: Path, page: SubjectPage, formats: Formats) -> None:
    write_text(path, page.html)
    save_figures(templates, path, page.figures, formats.figures)
    if formats.animation and page.views:
        save_animation(page.views, path, frame_ms=page.frame_ms, file_format=formats.animation)
    if formats.pdf:
        save_pdf(path)


def _pages_up_to_date(folder: RunFolder, names: Mapping[int, str]) -> dict[int, str]:
    """Return the pages of an earlier report that are newer than the tables."""
    if not folder.table("indices").exists():
        return {}
    changed = max(path.stat().st_mtime for name in _TABLES if (path := folder.table(name)).exists())
    newer = {page.name for page in folder.report.parent.glob("sub-*.html") if page.stat().st_mtime > changed}
    return {row: name for row, name in names.items() if name in newer}


def _remove_pages(index: Path, *, keep: Collection[str]) -> None:
    """Remove pages of an earlier report, which would show outdated results, and the files exported from them."""
    for page in index.parent.glob("sub-*.html"):
        if page.name not in keep:
            page.unlink()
            exported = [*index.parent.glob(f"{page.stem}.*"), *(index.parent / "figures").glob(f"{page.stem}_*.*")]
            for file in exported:
                file.unlink()


def _rows(folder: RunFolder, case_ids: Sequence[str], deidentifier: Deidentifier) -> Iterator[tuple[RunResults, Row]]:
    for start in range(0, len(case_ids), _BATCH):
        results = read_run_results(folder, case_ids[start : start + _BATCH], deidentifier)
        for row in results.indices:
            yield results, row
