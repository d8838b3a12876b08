"""The page of one subject: what was found, how the heart moves, and how far it can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment

from cmnet_cli.layout import CaseFolder
from cmnet_cli.report import colours
from cmnet_cli.report.charts import Chart, segment_charts, strain_chart, turn_chart, volume_chart
from cmnet_cli.report.citation import text_to_cite
from cmnet_cli.report.gather import Row, Run, read_hearts, read_origin
from cmnet_cli.report.index_table import index_lines, interval, read_ranges, reference_source
from cmnet_cli.report.moving import Moving, read_moving
from cmnet_cli.report.pictures import Pictures, draw_pictures
from cmnet_cli.report.player import Player, draw_player
from cmnet_cli.report.sights import Framing, frame_heart, look
from cmnet_cli.report.subject_bullseyes import subject_bullseyes
from cmnet_cli.report.words import flag_in_words, is_warning, named, shown
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
        pictures: Three levels at ED and ES.
        player: The beating heart.
        trouble: Why there is neither.
        still: Why displacement and uncertainty are not shown; empty where they are.
    """

    pictures: Pictures | None
    player: Player | None
    trouble: str = ""
    still: str = ""


def render_subject(pages: Environment, run: Run, row: Row) -> str:
    """The page of one subject.

    Args:
        pages: The templates.
        run: The run.
        row: The subject's row of the indices.
    """
    flags, ranges = flags_of(run, row), read_ranges(run.folder)
    segments = run.segments.get(row["case_id"], ())
    return pages.get_template("subject.html").render(
        case_id=run.sharing.name(row["case_id"]),
        described=[
            form.format(row[column])
            for column, form in _DESCRIBED
            if row.get(column) is not None and not (run.sharing.share_safe and column in _MAY_BE_SMALL)
        ],
        headlines=_headlines(row),
        warnings=[flag_in_words(flag) for flag in flags if is_warning(flag)],
        remarks=[flag_in_words(flag) for flag in flags if not is_warning(flag)],
        seen=_look(run, row),
        gradient=colours.gradient(),
        charts=_charts(run, row),
        bullseyes=subject_bullseyes(segments),
        segment_charts=segment_charts(run.frames.get(row["case_id"], ()), segments, row),
        missing=_why_no_segments(segments),
        indices=index_lines(row, ranges),
        reference=reference_source(row, ranges),
        citation=run.sharing.text(text_to_cite(run.folder, row)),
        provenance=(*read_origin(run.folder.case(row["case_id"])), *run.provenance),
    )


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


def _charts(run: Run, row: Row) -> list[Chart]:
    frames = run.frames.get(row["case_id"], ())
    if not frames:
        return []
    return [chart for draw in (volume_chart, strain_chart, turn_chart) if (chart := draw(frames, row))]


def _why_no_segments(segments: Sequence[Row]) -> list[str]:
    """Flags of segments, in words, each once."""
    return [flag_in_words(flag) for flag in dict.fromkeys(flag for row in segments for flag in row["qc_flags"] or ())]


def _look(run: Run, row: Row) -> Seen:
    folder, ed, es = run.folder.case(row["case_id"]), int(row["ed_frame"]), int(row["es_frame"])
    try:
        hearts = read_hearts(folder)
    except CaseError as error:
        # A page without pictures still holds the subject's numbers, and says what is wrong with its files.
        return Seen(None, None, run.sharing.text(str(error)))
    framing = frame_heart(hearts, ed=ed)
    if framing is None:
        return Seen(None, None, "no left ventricle was found at end-diastole.")
    moving, still = _motion_or_why_not(folder, framing)
    sights = look(hearts, moving, framing)
    player = draw_player(sights, framing, ed=ed, es=es, frame_ms=row.get("frame_ms"))
    return Seen(draw_pictures(sights, ed=ed, es=es), player, still=run.sharing.text(still))


def _motion_or_why_not(folder: CaseFolder, framing: Framing) -> tuple[Moving | None, str]:
    levels = tuple(level.index for level in framing.levels)
    try:
        moving = read_moving(folder, heart=framing.heart, levels=levels)
    except CaseError as error:
        return None, str(error)
    stored = moving.to_ed_mm is not None
    return moving, "" if stored else "its motion was not stored: run cmnet infer with --save-motion full."
