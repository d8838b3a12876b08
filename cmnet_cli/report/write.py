"""Gather, draw and write: one page for the cohort and one for each subject, from the run folder alone."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from cmnet_cli.privacy.deidentify import Deidentifier, open_deidentifier
from cmnet_cli.report.cohort.page import render_cohort
from cmnet_cli.report.data.cohort_context import Showing
from cmnet_cli.report.data.cohort_table import read_population
from cmnet_cli.report.data.load_results import Row, Run, read_run
from cmnet_cli.report.data.page_selection import NONE, choose_pages
from cmnet_cli.report.export.formats import Formats, save_animation, save_figures, save_pdf
from cmnet_cli.report.subject.page import SubjectPage, make_subject_page
from cmnet_cli.report.templating import open_templates
from cmnet_cli.runs.paths import RunFolder
from cmnet_core.io.atomic import write_text

# So many subjects are read from the tables at once.
_AT_ONCE = 200

# What a subject's page is made of.
_TABLES = ("indices", "frames", "segments", "motion")

_PAGES_ALONE = Formats()


@dataclass(frozen=True, slots=True)
class Request:
    """What a report is to hold.

    Attributes:
        pages: Who gets a page: ``all``, ``flagged``, ``none`` or ids; empty for no wish.
        share_safe: Whether the report may leave the room.
        formats: What is written beside the pages.
    """

    pages: tuple[str, ...] = ()
    share_safe: bool = False
    formats: Formats = _PAGES_ALONE


_EVERYTHING = Request()


def write_report(
    run: Path, request: Request = _EVERYTHING, *, progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Path:
    """Write the cohort page, and the pages of the subjects that get one.

    Args:
        run: A run folder.
        request: What the report is to hold.
        progress: Wraps the subjects while their pages are made, for instance in a progress bar.

    Returns:
        The cohort page.

    Raises:
        ManifestError: This is no run folder, nothing has run in it, or something is asked for that cannot be made.
    """
    request.formats.require_tools()
    folder = RunFolder(run)
    population = read_population(folder)
    deidentifier = open_deidentifier(folder.share_key if request.share_safe else None, share_safe=request.share_safe)
    index = folder.shared_report if request.share_safe else folder.report
    chosen = choose_pages(population, request.pages or ((NONE,) if request.share_safe else ()))
    names = {place: f"{deidentifier.name(name)}.html" for place, name in enumerate(population.case_ids)}
    kept = {} if request.share_safe else _pages_up_to_date(folder, names)
    pages = kept | {place: names[place] for place in chosen}
    _remove_pages(index, keep=set(pages.values()))
    templates, case_ids = open_templates(), [population.case_ids[place] for place in chosen]
    for _, (found, row) in zip(progress(case_ids), _rows(folder, case_ids, deidentifier), strict=True):
        page = folder.report_page(deidentifier.name(row["case_id"]), share_safe=request.share_safe)
        _write_subject(templates, page, make_subject_page(templates, found, row), request.formats)
    write_text(index, render_cohort(templates, Showing(population, deidentifier, pages)))
    if request.formats.pdf:
        save_pdf(index)
    return index


def _write_subject(templates: Environment, page: Path, made: SubjectPage, formats: Formats) -> None:
    write_text(page, made.html)
    save_figures(templates, page, made.drawings, formats.figures)
    if formats.animation and made.sights:
        save_animation(made.sights, page, frame_ms=made.frame_ms, wanted=formats.animation)
    if formats.pdf:
        save_pdf(page)


def _pages_up_to_date(folder: RunFolder, names: Mapping[int, str]) -> dict[int, str]:
    """Pages of an earlier report that are younger than the tables."""
    if not folder.table("indices").exists():
        return {}
    made = max(path.stat().st_mtime for name in _TABLES if (path := folder.table(name)).exists())
    young = {page.name for page in folder.report.parent.glob("sub-*.html") if page.stat().st_mtime > made}
    return {place: name for place, name in names.items() if name in young}


def _remove_pages(index: Path, *, keep: Collection[str]) -> None:
    """Pages of an earlier report would show what is no longer so."""
    for page in index.parent.glob("sub-*.html"):
        if page.name not in keep:
            page.unlink()
            made = [*index.parent.glob(f"{page.stem}.*"), *(index.parent / "figures").glob(f"{page.stem}_*.*")]
            for file in made:
                file.unlink()


def _rows(folder: RunFolder, case_ids: Sequence[str], deidentifier: Deidentifier) -> Iterator[tuple[Run, Row]]:
    for start in range(0, len(case_ids), _AT_ONCE):
        run = read_run(folder, case_ids[start : start + _AT_ONCE], deidentifier)
        for row in run.indices:
            yield run, row
