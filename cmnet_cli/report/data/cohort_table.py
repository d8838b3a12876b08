"""The tables of a run as columns, so that 100,000 subjects are read, counted and summed in seconds."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cmnet_cli.report.formatting import by_severity, is_warning, severity_of
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import DECLARED, require_whole_tables
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.qc.flags import Severity

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FEWEST_IN_COHORT = 10
"""With fewer subjects, nothing is compared with the cohort."""

SHARED_FRACTION = 0.9
"""A flag that at least this fraction of the subjects has is a remark about the data set."""

UNASSIGNED = -1
"""Stratum of a subject that belongs to none, and row number of a subject without indices."""


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """The subjects, divided by one column of the manifest.

    Attributes:
        column: ``sex``, ``group``, …
        names: Its values, the largest stratum first.
        codes: The stratum of each subject as an index into ``names``; ``UNASSIGNED`` where the manifest has no value.
    """

    column: str
    names: tuple[str, ...]
    codes: IntArray

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of subjects in each stratum."""
        return tuple(int(n) for n in np.bincount(self.codes[self.codes != UNASSIGNED], minlength=len(self.names)))


@dataclass(frozen=True, slots=True, eq=False)
class FlaggedSubjects:
    """The subjects of each quality flag; a subject is listed once per flag.

    Attributes:
        flags: The flags that occur, the most frequent first.
        subjects: The row numbers of the subjects with each of them.
    """

    flags: tuple[str, ...]
    subjects: tuple[IntArray, ...]

    def shared(self, subjects: int) -> frozenset[str]:
        """Return the flags that nearly all of so many subjects share, apart from those of values not to be used.

        What all subjects share does not distinguish them: it is a property of the data set or of the method.
        """
        if subjects < FEWEST_IN_COHORT:
            return frozenset()
        found = zip(self.flags, self.subjects, strict=True)
        return frozenset(
            flag
            for flag, rows in found
            if len(rows) >= SHARED_FRACTION * subjects and severity_of(flag) is not Severity.DO_NOT_USE
        )

    def count(self, subjects: int, flags: Collection[str]) -> IntArray:
        """Count those of some flags that each of so many subjects has."""
        counts = np.zeros(subjects, np.int64)
        for flag, rows in zip(self.flags, self.subjects, strict=True):
            if flag in flags:
                counts[rows] += 1
        return counts


@dataclass(frozen=True, eq=False)
class Population:
    """All subjects with indices, in the order of the cohort, and the status of every subject.

    Attributes:
        folder: The run folder.
        indices: One row per subject.
        status: One row per subject, those without indices included; empty where the table does not exist.
        motion: The rows of the table motion, one for each row of ``indices``; null where there is none.
    """

    folder: RunFolder
    indices: Any
    status: Any
    motion: Any

    @property
    def size(self) -> int:
        """Number of subjects with indices."""
        return int(self.indices.num_rows)

    @cached_property
    def case_ids(self) -> list[str]:
        """Subject and visit, in the order of the cohort."""
        listed: list[str] = self.indices["case_id"].to_pylist()
        return listed

    @property
    def all_case_ids(self) -> list[str]:
        """Subject and visit of all subjects, those without indices included."""
        return list(dict.fromkeys([*self.case_ids, *self.status["case_id"].to_pylist()]))

    def has(self, column: str) -> bool:
        """Return whether the indices have a column with at least one value."""
        return column in self.indices.column_names and self.indices[column].null_count < self.size

    def numbers(self, column: str) -> FloatArray:
        """Return a column of the indices; NaN where there is no value."""
        if column not in self.indices.column_names:
            return np.full(self.size, np.nan)
        return as_numbers(self.indices[column])

    def strata(self, column: str) -> Strata:
        """Divide the subjects by a column of text."""
        if column not in self.indices.column_names:
            return Strata(column, (), np.full(self.size, UNASSIGNED))
        encoded = pc.dictionary_encode(self.indices[column].combine_chunks())
        codes = pc.fill_null(encoded.indices, UNASSIGNED).to_numpy(zero_copy_only=False).astype(np.int64)
        counts = np.bincount(codes[codes != UNASSIGNED], minlength=len(encoded.dictionary))
        order = np.argsort(-counts, kind="stable")
        rank = np.append(np.argsort(order), UNASSIGNED)
        return Strata(column, tuple(encoded.dictionary[int(n)].as_py() for n in order), rank[codes])

    @cached_property
    def flagged(self) -> FlaggedSubjects:
        """The quality flags of indices and motion."""
        parents, names = zip(*(_flags_with_rows(table) for table in (self.indices, self.motion)), strict=True)
        encoded = pc.dictionary_encode(pa.concat_arrays(names))
        pairs = np.column_stack([encoded.indices.to_numpy(zero_copy_only=False), np.concatenate(parents)])
        pairs = np.unique(pairs, axis=0)
        flags: list[str] = encoded.dictionary.to_pylist()
        rows = [pairs[pairs[:, 0] == code, 1] for code in range(len(flags))]
        order = sorted(range(len(flags)), key=lambda code: (-len(rows[code]), flags[code]))
        return FlaggedSubjects(tuple(flags[code] for code in order), tuple(rows[code] for code in order))

    @cached_property
    def shared(self) -> frozenset[str]:
        """The flags that nearly all subjects share, apart from those of values that should not be used."""
        return self.flagged.shared(self.size)

    @cached_property
    def warnings(self) -> IntArray:
        """Number of flags of each subject for which it should be checked; those that nearly all share do not count."""
        own = {flag for flag in self.flagged.flags if is_warning(flag) and flag not in self.shared}
        return self.flagged.count(self.size, own)

    @cached_property
    def unusable(self) -> IntArray:
        """Number of flags of each subject by which some of its values should not be used."""
        severe = {flag for flag in self.flagged.flags if severity_of(flag) is Severity.DO_NOT_USE}
        return self.flagged.count(self.size, severe)

    def flags_of(self, row: int) -> list[str]:
        """Return the flags of a subject, the most severe first, each once."""
        listed = [table["qc_flags"][row].as_py() or () for table in (self.indices, self.motion) if _has_flags(table)]
        return by_severity(dict.fromkeys(flag for flags in listed for flag in flags))

    def without(self, case_ids: Collection[str]) -> "Population":
        """Return the population without some subjects, whose status remains."""
        if not case_ids:
            return self
        kept = np.flatnonzero([case_id not in case_ids for case_id in self.case_ids])
        return Population(self.folder, self.indices.take(kept), self.status, self.motion.take(kept))

    def rows_of(self, case_ids: Any) -> IntArray:
        """Return the row numbers of subjects in ``indices``; ``UNASSIGNED`` for a subject without indices."""
        found = pc.index_in(case_ids, value_set=self.indices["case_id"].combine_chunks())
        return np.asarray(pc.fill_null(found, UNASSIGNED).to_numpy(), dtype=np.int64)


def read_population(folder: RunFolder) -> Population:
    """Read the columns that the cohort page shows of every subject.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    require_whole_tables(folder, DECLARED)
    indices, status = read_columns(folder, "indices"), read_columns(folder, "status")
    if not indices.num_rows and not status.num_rows:
        raise ManifestError(
            f"{folder.root} holds neither tables/indices.parquet nor tables/status.parquet: nothing can be reported.",
            hint="Give the folder that cmnet infer wrote to, and run cmnet indices first.",
            code=ErrorCode.RUN,
        )
    motion = read_columns(folder, "motion")
    rows = pc.index_in(indices["case_id"], value_set=motion["case_id"].combine_chunks())
    return Population(folder, indices, status, motion.take(rows))


def read_columns(folder: RunFolder, table: str, columns: Iterable[str] | None = None) -> Any:
    """Read those of some columns of a table that the file has; an empty table where there is no file.

    Args:
        folder: The run folder.
        table: Name of the table.
        columns: Names of the columns; all that the current schema declares where none are given.
    """
    path = folder.table(table)
    wanted = [column.name for column in DECLARED[table]] if columns is None else list(columns)
    if not path.exists():
        return pa.table({name: pa.array([], _EMPTY.get(name, pa.string())) for name in wanted})
    known = pq.read_schema(path).names
    return pq.read_table(path, columns=[name for name in wanted if name in known])


_EMPTY = {"qc_flags": pa.list_(pa.string())}


def as_numbers(column: Any) -> FloatArray:
    """Return a column of numbers; NaN where there is none."""
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def _has_flags(table: Any) -> bool:
    return "qc_flags" in table.column_names


def _flags_with_rows(table: Any) -> tuple[IntArray, Any]:
    """Flatten the quality flags of a table; return the row number of each flag, and the flags."""
    if not _has_flags(table):
        return np.zeros(0, np.int64), pa.array([], pa.string())
    flags = table["qc_flags"].combine_chunks()
    rows = np.asarray(pc.list_parent_indices(flags).to_numpy(), dtype=np.int64)
    return rows, pc.list_flatten(flags)


def most_flagged(population: Population, rows: Sequence[int] | IntArray) -> list[int]:
    """Sort subjects by their number of warnings, the most first; ties stay in the order of the cohort."""
    chosen = np.asarray(rows, dtype=np.int64)
    order = np.argsort(-population.warnings[chosen], kind="stable")
    return [int(row) for row in chosen[order]]
