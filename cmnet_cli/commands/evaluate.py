"""The command evaluate: rows of every subject, and their summary over all and by group."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cmnet_cli.cases import Case
from cmnet_cli.commands.going import Job, Summary, at_work, go, plan_after, select_cases, summarise, summarise_dry_run
from cmnet_cli.commands.opening import OpenRun, open_run, record_command
from cmnet_cli.config import EvaluateConfig
from cmnet_cli.manifest import read_manifest
from cmnet_cli.screen import Screen
from cmnet_cli.sidecar import write_text
from cmnet_cli.stages.evaluate import AT_ED, AT_ES, ED_TO_ES, ES_TO_ED, POOLED, EvaluateStage, Evaluation, has_reference
from cmnet_cli.tables import write_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.metrics import agreement

Row = dict[str, Any]

ALL = "all"
_SHORT_HEAD = ("method", "figure", "n", "DSC % LV / myo / RV", "HD95 mm")
_HEAD = ("method", "figure", "structure", "n", "DSC %", "JAC %", "HD95 mm", "MSD mm", "failures")
_AGREEMENT_HEAD = ("index", "n", "bias", "limits of agreement", "RMSE", "r")
_FOLDING_HEAD = ("figure", "n", "NJD field", "NJD field %", "NJD heart", "NJD heart %")


def evaluate(run: Path, manifest: Path | None, config: EvaluateConfig, job: Job) -> Summary:
    """Compare a run with the reference masks that its manifest, or another one, names.

    Raises:
        ManifestError: There is no such run, or no subject has reference masks of both phases.
    """
    opened = open_run(run.absolute())
    cases = read_manifest(manifest.absolute()).cases if manifest else opened.cases
    chosen = select_cases(cases, job.who)
    plan = plan_after("infer", opened, _with_reference(chosen, job.screen))
    left_out = len(plan.judged) - len(plan.todo)
    if job.how.dry_run:
        return summarise_dry_run("evaluate", opened.folder, plan)
    found: list[Evaluation] = []
    with at_work(opened.folder, "evaluate", job) as site:
        record_command(opened.folder, "evaluate", settings=asdict(config))
        tally = go(EvaluateStage(opened.folder.root, config), plan, opened, site, keep=found.append)
        if found:
            write_evaluation(opened, found, job.screen)
    return replace(summarise("evaluate", opened, plan, tally), left_out=left_out)


def _with_reference(cases: Sequence[Case], screen: Screen) -> list[Case]:
    compared = [case for case in cases if has_reference(case)]
    if not compared:
        raise ManifestError(
            "No subject of the manifest has reference masks of both phases.",
            hint="Name them in the columns labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    if len(compared) < len(cases):
        screen.note(f"{len(cases) - len(compared)} of {len(cases)} subjects have no reference masks: not evaluated")
    return compared


def write_evaluation(opened: OpenRun, found: Sequence[Evaluation], screen: Screen) -> None:
    """Write the rows and their summaries, and show the summary over all subjects."""
    rows = [row for item in found for row in item.overlaps]
    folding = [row for item in found for row in item.folding]
    pairs = [row for item in found for row in item.agreement]
    summary = list(summarise_overlaps(rows))
    limits = list(summarise_agreement(pairs))
    tables = {
        "evaluation": rows,
        "folding": folding,
        "agreement": pairs,
        "evaluation_summary": summary,
        "agreement_summary": limits,
    }
    for name, listed in tables.items():
        write_table(opened.folder.table(name), name, listed)
    write_text(opened.folder.evaluation_page, _markdown(_sections(summary, limits, folding)))
    _show(summary, limits, folding, screen)
    screen.result(f"With every figure, by group: {opened.folder.evaluation_page}")


def _show(summary: Sequence[Row], limits: Sequence[Row], folding: Sequence[Row], screen: Screen) -> None:
    """The summary over all subjects, short enough for a terminal."""
    overlaps = _in_order([row for row in summary if row["group"] == ALL])
    cells = [_short_cells(overlaps[n : n + 3]) for n in range(0, len(overlaps), 3)]
    screen.table("Against the reference masks, means", _SHORT_HEAD, cells)
    agreements = [_agreement_cells(row) for row in limits if row["group"] == ALL]
    screen.table("Clinical indices, estimate - reference", _AGREEMENT_HEAD, agreements)
    screen.table("Folded voxels, means", _FOLDING_HEAD, list(_folding_cells(folding)))


def _short_cells(structures: Sequence[Row]) -> list[str]:
    """One line for the three structures of a method and figure."""
    first = structures[0]
    means = ("dsc_mean_pct", "hd95_mean_mm")
    dsc, hd95 = (" / ".join(_shown(row[name], 1) or "-" for row in structures) for name in means)
    return [first["method"], first["figure"], str(first["n"]), dsc, hd95]


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """All rows, then those of each group where the manifest names groups."""
    yield ALL, list(rows)
    for group in sorted({row["group"] for row in rows if row["group"]}):
        yield group, [row for row in rows if row["group"] == group]


def summarise_overlaps(rows: Sequence[Row]) -> Iterator[Row]:
    """Mean and standard deviation over subjects of each method, figure and structure, for all and by group."""
    for group, members in _groups(rows):
        cells: dict[tuple[str, str, str], list[Row]] = {}
        for row in members:
            cells.setdefault((row["method"], row["figure"], row["structure"]), []).append(row)
        for (method, figure, structure), listed in cells.items():
            dsc = _known(listed, "dsc_pct")
            yield {
                "group": group,
                "method": method,
                "figure": figure,
                "structure": structure,
                "n": len(dsc),
                "failures": sum(row["failure"] == "empty-prediction" for row in listed),
                "dsc_mean_pct": _mean(dsc),
                "dsc_sd_pct": stdev(dsc) if len(dsc) > 1 else None,
                "jac_mean_pct": _mean(_known(listed, "jac_pct")),
                "hd95_mean_mm": _mean(_known(listed, "hd95_mm")),
                "msd_mean_mm": _mean(_known(listed, "msd_mm")),
            }


def summarise_agreement(rows: Sequence[Row]) -> Iterator[Row]:
    """Bias, limits of agreement and RMSE of each clinical index, for all and by group."""
    for group, members in _groups(rows):
        for index in dict.fromkeys(row["index"] for row in members):
            listed = [row for row in members if row["index"] == index]
            found = agreement([row["estimate"] for row in listed], [row["reference"] for row in listed])
            yield {"group": group, "index": index, **asdict(found)}


def _known(rows: Iterable[Row], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


Section = tuple[str, Sequence[str], list[list[str]]]


def _sections(summary: Sequence[Row], limits: Sequence[Row], folding: Sequence[Row]) -> Iterator[Section]:
    """Title, head and body of every table that people read."""
    for group, rows in _groups(list(folding)):
        overlaps = [row for row in summary if row["group"] == group]
        agreements = [row for row in limits if row["group"] == group]
        yield f"Against the reference masks: {group}", _HEAD, [_overlap_cells(row) for row in _in_order(overlaps)]
        yield f"Clinical indices: {group}", _AGREEMENT_HEAD, [_agreement_cells(row) for row in agreements]
        yield f"Folded voxels, mean: {group}", _FOLDING_HEAD, list(_folding_cells(rows))


def _in_order(rows: Sequence[Row]) -> list[Row]:
    figures = (ED_TO_ES, ES_TO_ED, AT_ED, AT_ES, POOLED)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(rows, key=lambda row: (methods.index(row["method"]), figures.index(row["figure"])))


def _overlap_cells(row: Row) -> list[str]:
    spread = "" if row["dsc_sd_pct"] is None else f" ± {row['dsc_sd_pct']:.2f}"
    return [
        row["method"],
        row["figure"],
        row["structure"],
        str(row["n"]),
        _shown(row["dsc_mean_pct"]) + spread,
        _shown(row["jac_mean_pct"]),
        _shown(row["hd95_mean_mm"]),
        _shown(row["msd_mean_mm"]),
        str(row["failures"]),
    ]


def _agreement_cells(row: Row) -> list[str]:
    limits = "" if row["lower"] is None else f"{row['lower']:.2f} to {row['upper']:.2f}"
    return [row["index"], str(row["n"]), _shown(row["bias"]), limits, _shown(row["rmse"]), _shown(row["r"])]


def _folding_cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    for figure in (ED_TO_ES, ES_TO_ED):
        listed = [row for row in rows if row["figure"] == figure]
        names = ("njd_field", "njd_field_pct", "njd_heart", "njd_heart_pct")
        means = [_mean([row[name] for row in listed if row.get(name) is not None]) for name in names]
        yield [figure, str(len(listed)), *(_shown(value) for value in means)]


def _shown(value: float | None, decimals: int = 2) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _markdown(sections: Iterable[Section]) -> str:
    lines = ["# Evaluation", ""]
    for title, head, body in sections:
        lines += [f"## {title}", "", _line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
