"""Calibrate: values of a case, their spread over samples of the posterior, and the known values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.tracking import open_tracking
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.indices import CaseRows, indices_case
from cmnet_cli.stages.intervals import SamplingSettings
from cmnet_cli.stages.reference_values import Row, reference_rows
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.uncertainty.conformal import CalibrationPair

NAME = "calibrate"


@dataclass(frozen=True, slots=True)
class KnownValue:
    """A value of a case or of one of its segments whose true value is known.

    Attributes:
        table: ``indices`` or ``segments``.
        column: Column of the table.
        pair: The value, its spread and the known value.
    """

    table: str
    column: str
    pair: CalibrationPair


@dataclass(frozen=True, slots=True)
class CalibrateStage:
    """Collect the known values of every case of a run.

    Attributes:
        root: The run folder.
        draws: Number and seed of the posterior samples.
    """

    root: Path
    draws: SamplingSettings
    name: str = NAME

    def open(self) -> Callable[[Case], list[KnownValue]]:
        """Return the function of a case; there is nothing to load."""
        run = RunFolder(self.root)
        return lambda case: known_values(case, run, self.draws)


def known_values(case: Case, run: RunFolder, draws: SamplingSettings) -> list[KnownValue]:
    """Compare every value of a case that has an interval with its known value.

    Args:
        case: The row of a manifest that names the reference masks.
        run: The run folder.
        draws: Number and seed of the posterior samples, of which only the spreads are used.

    Raises:
        CaseError: Infer has not been run for the case, or its masks cannot be used.
    """
    folder = run.case(case.case_id)
    rows = indices_case(case, folder, reference=(), draws=draws)
    true, true_segments = reference_rows(case, open_tracking(folder))
    return list(_pairs(case.subject_id, rows, true, true_segments))


def _pairs(subject: str, rows: CaseRows, true: Row, true_segments: list[Row]) -> Iterator[KnownValue]:
    found = [("indices", rows.indices, rows.spreads.case, true)]
    found += [
        ("segments", row, spreads, known)
        for row, spreads, known in zip(rows.segments, rows.spreads.segments, true_segments, strict=True)
    ]
    for table, row, spreads, known in found:
        for column in DECLARED[table]:
            value, truth = row.get(column.name), known.get(column.name)
            if column.interval is not None and value is not None and truth is not None:
                pair = CalibrationPair(subject, value, truth, spreads.get(column.name))
                yield KnownValue(table, column.name, pair)
