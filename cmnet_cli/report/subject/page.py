"""The page of one subject: what was found, how the heart moves, and how far it can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from cmnet_cli.report.data.displacement_view import Moving, read_moving
from cmnet_cli.report.data.load_results import Row, Run, read_hearts, read_origin
from cmnet_cli.report.data.slice_views import Framing, Sight, frame_heart, look
from cmnet_cli.report.export.formats import Figure
from cmnet_cli.report.formatting import flag_in_words, is_warning, named, shown
from cmnet_cli.report.plot import colours
from cmnet_cli.report.plot.cycle_charts import Chart, segment_charts, strain_chart, turn_chart, volume_chart
from cmnet_cli.report.subject.bullseyes import subject_bullseyes
from cmnet_cli.report.subject.citation import text_to_cite
from cmnet_cli.report.subject.index_table import index_lines, interval, read_ranges, reference_source
from cmnet_cli.report.subject.player import Player, draw_player
from cmnet_cli.report.subject.still_images import Pictures, draw_pictures
from cmnet_cli.runs.paths import CaseFolder
from cmnet_core.errors import CaseError

_HEADLINES = ("lvef_pct", "lvedv_ml", "lvm_g", "rvef_pct", "gcs_peak_pct")
_DESCRIBED = (
    ("sex", "{}"), ("age_years", "{:.0f} years"), ("height_cm", "{:.0f} cm"), ("weight_kg", "{:.0f} kg"),
    ("heart_rate_bpm", "{:.0f} beats a minute"), ("frames", "{} frames"), ("group", "group {}"), ("site", "site {}"),
    ("scanner", "scanner {}"),
)  # fmt: skip

# Whoever is in them may be one of a few, which a share-safe page must not tell.
_MAY_BE_SMALL = ("group", "site", "scanner")


@dataclass(frozen=True, slots=True)
class Headline:
    """An index in large type, with its 95 % interval."""

    name: str
    value: str
    unit: str
    interval: str


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The pictures of a subject, or why there are none.

    Attributes:
        sights: What they are made of; none where there are none.
        pictures: Three levels at ED and ES.
        player: The beating heart.
        trouble: Why there is neither.
        still: Why displacement and uncertainty are not shown; empty where they are.
    """

    sights: tuple[Sight, ...]
    pictures: Pictures | None
    player: Player | None
    trouble: str = ""
    still: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SubjectPage:
    """The page of a subject, and what may be saved beside it.

    Attributes:
        html: The page.
        drawings: Its figures, by name.
        sights: The slices of the beating heart.
        frame_ms: Time between two frames; None where nobody knows.
    """

    html: str
    drawings: Mapping[str, Figure]
    sights: tuple[Sight, ...]
    frame_ms: float | None


def make_subject_page(pages: Environment, run: Run, row: Row) -> SubjectPage:
    """The page of one subject.

    Args:
        pages: The templates.
        run: The run.
        row: The subject's row of the indices.
    """
    frames, segments = run.frames.get(row["case_id"], ()), run.segments.get(row["case_id"], ())
    seen, charts, eyes = _look(run, row), _charts(frames, row), subject_bullseyes(segments)
    by_segment = segment_charts(frames, segments, row)
    html = pages.get_template("subject.html").render(
        **_words(run, row),
        seen=seen,
        gradient=colours.gradient(),
        charts=charts,
        bullseyes=eyes,
        segment_charts=by_segment,
        missing=_why_no_segments(segments),
    )
    drawings = {chart.name: Figure(chart.drawing, chart.title, chart.key) for chart in (*charts, *by_segment)}
    drawings |= {eye.shown.name: Figure(eye.drawing, eye.shown.title) for eye in eyes} | _stills(seen)
    return SubjectPage(html, drawings, seen.sights, row.get("frame_ms"))


def _words(run: Run, row: Row) -> dict[str, Any]:
    """Everything on the page that is no picture."""
    flags, ranges, deidentifier = flags_of(run, row), read_ranges(run.folder), run.deidentifier
    described = [
        form.format(row[column])
        for column, form in _DESCRIBED
        if row.get(column) is not None and not (deidentifier.share_safe and column in _MAY_BE_SMALL)
    ]
    return {
        "case_id": deidentifier.name(row["case_id"]),
        "described": described,
        "headlines": _headlines(row),
        "warnings": [flag_in_words(flag) for flag in flags if is_warning(flag)],
        "remarks": [flag_in_words(flag) for flag in flags if not is_warning(flag)],
        "indices": index_lines(row, ranges),
        "reference": reference_source(row, ranges),
        "citation": deidentifier.text(text_to_cite(run.folder, row)),
        "provenance": (*read_origin(run.folder.case(row["case_id"])), *run.provenance),
    }


def _stills(seen: Seen) -> dict[str, Figure]:
    """The pictures at ED and ES, by level and column."""
    rows = seen.pictures.rows if seen.pictures else ()
    names = ("ed", "es", "es-by-motion")
    return {
        f"{row.name}-{name}": Figure(drawing) for row in rows for name, drawing in zip(names, row.drawings, strict=True)
    }


def flags_of(run: Run, row: Row) -> list[str]:
    """The flags of the indices and of the motion, each once."""
    motion = run.motion.get(row["case_id"], {})
    return list(dict.fromkeys([*(row["qc_flags"] or ()), *(motion.get("qc_flags") or ())]))


def _headlines(row: Row) -> list[Headline]:
    return [
        Headline(
            quantity.title,
            shown(row[quantity.column], decimals=0),
            quantity.unit,
            interval(row, quantity.column, decimals=0),
        )
        for quantity in named("indices", _HEADLINES)
        if row.get(quantity.column) is not None
    ]


def _charts(frames: Sequence[Row], row: Row) -> list[Chart]:
    drawn = (volume_chart, strain_chart, turn_chart) if frames else ()
    return [chart for draw in drawn if (chart := draw(frames, row))]


def _why_no_segments(segments: Sequence[Row]) -> list[str]:
    """Flags of segments, in words, each once."""
    return [flag_in_words(flag) for flag in dict.fromkeys(flag for row in segments for flag in row["qc_flags"] or ())]


def _look(run: Run, row: Row) -> Seen:
    folder, ed, es = run.folder.case(row["case_id"]), int(row["ed_frame"]), int(row["es_frame"])
    try:
        hearts = read_hearts(folder)
    except CaseError as error:
        # A page without pictures still holds the subject's numbers, and says what is wrong with its files.
        return Seen((), None, None, run.deidentifier.text(str(error)))
    framing = frame_heart(hearts, ed=ed)
    if framing is None:
        return Seen((), None, None, "no left ventricle was found at end-diastole.")
    moving, still = _motion_or_why_not(folder, framing)
    sights = look(hearts, moving, framing)
    player = draw_player(sights, framing, ed=ed, es=es, frame_ms=row.get("frame_ms"))
    return Seen(sights, draw_pictures(sights, ed=ed, es=es), player, still=run.deidentifier.text(still))


def _motion_or_why_not(folder: CaseFolder, framing: Framing) -> tuple[Moving | None, str]:
    levels = tuple(level.index for level in framing.levels)
    try:
        moving = read_moving(folder, heart=framing.heart, levels=levels)
    except CaseError as error:
        return None, str(error)
    stored = moving.to_ed_mm is not None
    return moving, "" if stored else "its motion was not stored: run cmnet infer with --save-motion full."
