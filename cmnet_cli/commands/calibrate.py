"""The command calibrate: conformal intervals from subjects with known values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.console import Messages
from cmnet_cli.evaluation.masks import cases_with_masks
from cmnet_cli.evaluation.page import markdown_line
from cmnet_cli.execution.plan import ExecutionSettings, plan_after_stage, select_cases
from cmnet_cli.execution.runner import open_execution, run_stage
from cmnet_cli.execution.summary import CommandSummary, summarise_dry_run, summarise_stage
from cmnet_cli.runs.provenance import read_sidecar
from cmnet_cli.runs.run_folder import OpenRun, open_run, record_command, record_end
from cmnet_cli.runs.timestamp import utc_now
from cmnet_cli.stages.calibrate import NAME, CalibrateStage, KnownValue
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.uncertainty.calibration import Calibration, find_calibration, write_calibration
from cmnet_core.uncertainty.conformal import (
    COMPARED_LEVEL,
    LEVEL,
    CalibrationPair,
    Coverage,
    QuantityCalibration,
    fewest_subjects,
)
from cmnet_core.uncertainty.conformal import calibrate as calibrate_quantity

Quantities = dict[str, dict[str, QuantityCalibration]]

CARD_HEAD = (
    "quantity",
    "subjects",
    "rank correlation",
    "bias",
    "RMSE",
    "ICC(2,1)",
    f"half-width at {COMPARED_LEVEL:.0%}",
    f"coverage at {COMPARED_LEVEL:.0%}",
    f"half-width at {LEVEL:.0%}",
    f"coverage at {LEVEL:.0%}",
    "population's range",
)


def calibrate(
    run: Path,
    manifest: Path | None,
    out: Path,
    draws: SamplingSettings,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    population: str | None,
) -> CommandSummary:
    """Calibrate the intervals of a run's weights on its subjects with reference masks, and print the card.

    Quantities that these subjects do not determine keep the calibration that is shipped with the weights.

    Args:
        run: The run folder.
        manifest: The manifest that names the masks; None for that of the run.
        out: The calibration file to write.
        draws: Number and seed of the posterior samples.
        settings: Selection of subjects and execution.
        messages: Where to print.
        population: The subjects, in words; None for the name of the manifest.

    Raises:
        ManifestError: There is no such run, or it has too few subjects with masks and the same weights.
    """
    opened = open_run(run.absolute())
    source = manifest.absolute() if manifest else opened.folder.cohort
    masks = read_manifest(source)
    plan = plan_after_stage("infer", opened, cases_with_masks(select_cases(masks.cases, settings), messages, NAME))
    left_out = len(plan.states) - len(plan.to_run)
    if settings.dry_run:
        return summarise_dry_run(NAME, opened.folder, plan)
    digest = _common_weights(opened, [case.case_id for case in plan.to_run])
    found: list[list[KnownValue]] = []
    with open_execution(opened.folder, NAME, settings, messages) as context:
        record_command(
            opened.folder, NAME, manifest=str(source), settings={"samples": draws.samples, "seed": draws.seed}
        )
        stage = CalibrateStage(opened.folder.root, replace(draws, spreads_only=True))
        result = run_stage(stage, plan, opened, context, on_receipt=found.append)
        named = population or f"subjects of {source.name}"
        fitted = fit_quantities((known for case in found for known in case), population=named)
        if not fitted:
            raise ManifestError(
                f"{len(found)} subjects have known values; a coverage of {LEVEL:.0%} needs {fewest_subjects(LEVEL)}.",
                hint="Add subjects with reference masks of ED and ES that were not used in training.",
                code=ErrorCode.MANIFEST_EMPTY,
            )
        shipped = find_calibration(digest)
        merged = merge_quantities(shipped.quantities if shipped else {}, fitted)
        write_calibration(out, Calibration(digest, merged, {"made": utc_now(), "by": "cmnet calibrate"}))
        record_end(opened.folder, NAME)
    for title, rows in card(fitted):
        messages.table(title, CARD_HEAD, rows)
    messages.result(str(out))
    summary = summarise_stage(NAME, opened.folder, plan, result, left_out=left_out)
    return replace(summary, unusable_rows=masks.left_out)


def _common_weights(opened: OpenRun, case_ids: Sequence[str]) -> str:
    """The digest of the weights with which all cases were inferred."""
    sidecars = [read_sidecar(opened.folder.case(case_id).sidecar("infer")) for case_id in case_ids]
    digests = {sidecar.model_digest for sidecar in sidecars if sidecar}
    if len(digests) == 1:
        return digests.pop()
    raise ManifestError(
        f"The subjects with masks in {opened.folder.root} were inferred with {len(digests)} weights; expected one.",
        hint="Run cmnet infer on them with one model, then cmnet calibrate.",
        code=ErrorCode.RUN,
    )


def fit_quantities(found: Iterable[KnownValue], *, population: str) -> Quantities:
    """Calibrate every column that has known values in enough subjects.

    Args:
        found: The known values of all subjects.
        population: The subjects, in words.
    """
    pairs: dict[tuple[str, str], list[CalibrationPair]] = {}
    for known in found:
        pairs.setdefault((known.table, known.column), []).append(known.pair)
    quantities: Quantities = {}
    for (table, column), of_column in pairs.items():
        fitted = calibrate_quantity(of_column, population=population)
        if fitted is not None:
            quantities.setdefault(table, {})[column] = fitted
    return quantities


def merge_quantities(*of_each: Mapping[str, Mapping[str, QuantityCalibration]]) -> Quantities:
    """Merge calibrations; of a column that several of them have, the last one is kept.

    Args:
        of_each: Calibrations by table and column.
    """
    merged: Quantities = {}
    for quantities in of_each:
        for table, of_table in quantities.items():
            merged[table] = merged.get(table, {}) | dict(of_table)
    return merged


def card(quantities: Mapping[str, Mapping[str, QuantityCalibration]]) -> list[tuple[str, list[list[str]]]]:
    """Return the card of a calibration: a title and the lines of :data:`CARD_HEAD` for each table and population."""
    sections: dict[tuple[str, str], list[list[str]]] = {}
    for table, of_table in quantities.items():
        for column, fitted in of_table.items():
            sections.setdefault((table, fitted.population), []).append([column, *_cells(fitted)])
    return [(f"Table {table}: {population}", rows) for (table, population), rows in sections.items()]


def _cells(fitted: QuantityCalibration) -> list[str]:
    scaled = "" if fitted.typical_spread is None else ", scales"
    correlation = "" if fitted.rank_correlation is None else f"{fitted.rank_correlation:.2f}{scaled}"
    numbers = [f"{value:.3g}" for value in (fitted.bias, fitted.rmse)]
    return [
        str(fitted.subjects),
        correlation,
        *numbers,
        "" if fitted.reliability is None else f"{fitted.reliability:.2f}",
        *_coverage_cells(fitted.at_90, fitted),
        *_coverage_cells(fitted.at_95, fitted),
        f"{fitted.population_range:.3g}",
    ]


def _coverage_cells(coverage: Coverage | None, fitted: QuantityCalibration) -> list[str]:
    """Half-width and coverage; a half-width with which the interval of most subjects is not reported is marked."""
    if coverage is None:
        return ["", ""]
    withheld = " (null)" if coverage.half_width > fitted.largest_half_width else ""
    return [f"{coverage.half_width:.3g}{withheld}", f"{coverage.held_pct:.0f} %"]


def markdown_card(quantities: Mapping[str, Mapping[str, QuantityCalibration]]) -> str:
    """Return the card of a calibration as tables in Markdown."""
    lines = []
    for title, rows in card(quantities):
        lines += [f"{title}:", "", markdown_line(CARD_HEAD), markdown_line(["---", *["---:"] * (len(CARD_HEAD) - 1)])]
        lines += [*(markdown_line(row) for row in rows), ""]
    return "\n".join(lines)
