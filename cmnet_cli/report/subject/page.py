"""The page of one subject: quality, images, curves, segments and indices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import Environment

from cmnet_cli.report.data.displacement_view import DisplacementView, read_displacement_view
from cmnet_cli.report.data.load_results import Row, RunResults, read_subject_images, read_subject_provenance
from cmnet_cli.report.data.slice_views import SliceView, ViewGeometry, build_slice_views, choose_view_geometry
from cmnet_cli.report.export.formats import ExportFigure
from cmnet_cli.report.formatting import Tile, flag_text, format_number, select_quantities
from cmnet_cli.report.plot import colours
from cmnet_cli.report.subject.bullseyes import subject_bullseyes
from cmnet_cli.report.subject.citation import text_to_cite
from cmnet_cli.report.subject.cycle_charts import (
    Chart,
    circumferential_chart,
    radial_chart,
    segment_charts,
    twist_chart,
    volume_chart,
)
from cmnet_cli.report.subject.index_table import format_interval, index_table_rows, read_ranges, reference_source
from cmnet_cli.report.subject.player import Player, draw_player
from cmnet_cli.report.subject.review import Review
from cmnet_cli.report.subject.still_images import StillImages, draw_stills
from cmnet_cli.runs.paths import CaseFolder
from cmnet_core.errors import CaseError

_HEADLINES = ("lvef_pct", "lvedv_ml", "lvm_g", "rvef_pct", "gcs_line_midwall_peak_pct")
_DESCRIPTION = (
    ("sex", "{}"), ("age_years", "{:.0f} years"), ("height_cm", "{:.0f} cm"), ("weight_kg", "{:.0f} kg"),
    ("heart_rate_bpm", "{:.0f} beats per minute"), ("frames", "{} frames"), ("group", "group {}"),
    ("site", "site {}"), ("scanner", "scanner {}"),
)  # fmt: skip

# A value of these may be shared by few subjects, so that a share-safe page leaves them out.
_MAY_BE_SMALL = ("group", "site", "scanner")


@dataclass(frozen=True, slots=True, eq=False)
class SubjectPictures:
    """The images of a subject, or the reason why there are none.

    Attributes:
        views: The slices from which they are drawn; empty where there are no images.
        stills: Still images at ED and ES.
        player: The cine player.
        no_images: Why there are no images; empty where there are.
        no_displacement: Why displacement or uncertainty is not shown; empty where both are.
    """

    views: tuple[SliceView, ...] = ()
    stills: StillImages | None = None
    player: Player | None = None
    no_images: str = ""
    no_displacement: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectPage:
    """The page of a subject, and what can be exported beside it.

    Attributes:
        html: The page.
        figures: Its figures, by name.
        views: The slices of the cine.
        frame_ms: Time between two frames in ms; None where it is not known.
    """

    html: str
    figures: Mapping[str, ExportFigure]
    views: tuple[SliceView, ...]
    frame_ms: float | None


def make_subject_page(pages: Environment, run: RunResults, row: Row, review: Review) -> SubjectPage:
    """Make the page of one subject.

    Args:
        pages: The templates.
        run: The table rows of the run.
        row: The subject's row of the indices.
        review: What to check, the place in the worklist, and the verdict.
    """
    frames, segments = run.frames.get(row["case_id"], ()), run.segments.get(row["case_id"], ())
    pictures, charts, bullseyes = _read_pictures(run, row), _charts(frames, row), subject_bullseyes(segments)
    by_segment = segment_charts(frames, segments, row)
    known = {*subject_flags(run, row), *review.shared}
    of_segments = dict.fromkeys(flag for segment in segments for flag in segment["qc_flags"] or ())
    html = pages.get_template("subject.html").render(
        **_text_values(run, row),
        **_review_values(run, row, review),
        pictures=pictures,
        gradient=colours.gradient(),
        charts=charts,
        bullseyes=bullseyes,
        segment_charts=by_segment,
        segment_flags=[flag_text(flag) for flag in of_segments if flag not in known],
    )
    figures = {chart.name: ExportFigure(chart.drawing, chart.title, chart.key) for chart in (*charts, *by_segment)}
    figures |= {plot.quantity.name: ExportFigure(plot.drawing, plot.quantity.title) for plot in bullseyes}
    return SubjectPage(html, figures | _still_figures(pictures), pictures.views, row.get("frame_ms"))


def _text_values(run: RunResults, row: Row) -> dict[str, Any]:
    """Return the values of the template that are text."""
    ranges, deidentifier = read_ranges(run.folder), run.deidentifier
    description = [
        form.format(row[column])
        for column, form in _DESCRIPTION
        if row.get(column) is not None and not (deidentifier.share_safe and column in _MAY_BE_SMALL)
    ]
    return {
        "case_id": deidentifier.name(row["case_id"]),
        "description": description,
        "headlines": _headlines(row),
        "indices": index_table_rows(row, ranges),
        "reference": reference_source(row, ranges),
        "citation": deidentifier.text(text_to_cite(run.folder, row)),
        "provenance": (*read_subject_provenance(run.folder.case(row["case_id"])), *run.provenance),
    }


def _review_values(run: RunResults, row: Row, review: Review) -> dict[str, Any]:
    """Return the values of the template about the review, and what the form of the verdict needs."""
    name, reading = run.deidentifier.name(row["case_id"]), review.reading
    readings = {name: asdict(reading)} if reading else {}
    return {
        "place": review.place,
        "quality": review.quality,
        "reading": reading,
        "verdict_data": {"store": run.deidentifier.run_name(run.folder.root), "name": name, "readings": readings},
    }


def _still_figures(pictures: SubjectPictures) -> dict[str, ExportFigure]:
    """Name the still images by level and column."""
    rows = pictures.stills.rows if pictures.stills else ()
    names = ("ed", "es", "es-by-motion")
    return {
        f"{row.name}-{name}": ExportFigure(drawing)
        for row in rows
        for name, drawing in zip(names, row.drawings, strict=True)
    }


def subject_flags(run: RunResults, row: Row) -> list[str]:
    """Return the flags of a subject's indices and of its motion, each once."""
    motion = run.motion.get(row["case_id"], {})
    return list(dict.fromkeys([*(row["qc_flags"] or ()), *(motion.get("qc_flags") or ())]))


def _headlines(row: Row) -> list[Tile]:
    return [
        Tile(
            quantity.title,
            format_number(row[quantity.column], decimals=0),
            quantity.unit,
            format_interval(row, quantity.column, decimals=0),
        )
        for quantity in select_quantities("indices", _HEADLINES)
        if row.get(quantity.column) is not None
    ]


def _charts(frames: Sequence[Row], row: Row) -> list[Chart]:
    functions = (volume_chart, circumferential_chart, radial_chart, twist_chart) if frames else ()
    return [chart for draw in functions if (chart := draw(frames, row))]


def _read_pictures(run: RunResults, row: Row) -> SubjectPictures:
    folder, ed, es = run.folder.case(row["case_id"]).current, int(row["ed_frame"]), int(row["es_frame"])
    try:
        images = read_subject_images(folder)
    except CaseError as error:
        # A page without images still has the subject's numbers, and names the damaged file.
        return SubjectPictures(no_images=run.deidentifier.text(str(error)))
    geometry = choose_view_geometry(images, ed=ed)
    if geometry is None:
        return SubjectPictures(no_images="no left ventricle was found at end-diastole.")
    displacement, reason = _displacement_or_reason(folder, geometry)
    views = build_slice_views(images, displacement, geometry)
    player = draw_player(views, geometry, ed=ed, es=es, frame_ms=row.get("frame_ms"))
    return SubjectPictures(
        views, draw_stills(views, ed=ed, es=es), player, no_displacement=run.deidentifier.text(reason)
    )


def _displacement_or_reason(folder: CaseFolder, geometry: ViewGeometry) -> tuple[DisplacementView | None, str]:
    slices = tuple(level.index for level in geometry.levels)
    try:
        displacement = read_displacement_view(folder, heart=geometry.heart, slices=slices)
    except CaseError as error:
        return None, str(error)
    stored = displacement.to_ed_mm is not None
    return displacement, "" if stored else "the motion was not stored: run cmnet infer with --save-motion full."
