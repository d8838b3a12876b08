"""The tables of a run as columns, so that 100,000 subjects are read, counted and summed in seconds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cmnet_cli.report.formatting import is_warning
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import DECLARED
from cmnet_core.errors import ErrorCode, ManifestError

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

NOBODY = -1
"""The stratum of a subject that belongs to none."""


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """The subjects, divided by one column of the manifest.

    Attributes:
        column: ``sex``, ``group``, …
        names: Its values, the largest stratum first.
        of: The stratum of each subject by its place in ``names``; ``NOBODY`` where the manifest does not tell.
    """

    column: str
    names: tuple[str, ...]
    of: Places

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many subjects each stratum has."""
        return tuple(int(n) for n in np.bincount(self.of[self.of != NOBODY], minlength=len(self.names)))


@dataclass(frozen=True, slots=True, eq=False)
class Flagged:
    """Which subjects have which quality flag; a subject and a flag stand together once.

    Attributes:
        flags: The flags that occur, the most frequent first.
        subjects: The places of the subjects that have each of them.
    """

    flags: tuple[str, ...]
    subjects: tuple[Places, ...]

    def warnings(self, subjects: int) -> Places:
        """How many flags that ask for a look each of so many subjects has."""
        counts = np.zeros(subjects, np.int64)
        for flag, places in zip(self.flags, self.subjects, strict=True):
            if is_warning(flag):
                counts[places] += 1
        return counts


@dataclass(frozen=True, eq=False)
class Population:
    """Everyone with indices, in the order of the cohort, and how everyone else fared.

    Attributes:
        folder: Where everything lies.
        indices: One row a subject.
        status: One row a subject, those without indices included; empty where it was not written.
        motion: The rows of the table motion, one for each row of ``indices``; null where there is none.
    """

    folder: RunFolder
    indices: Any
    status: Any
    motion: Any

    @property
    def size(self) -> int:
        """How many subjects have indices."""
        return int(self.indices.num_rows)

    @cached_property
    def case_ids(self) -> list[str]:
        """Subject and visit, in the order of the cohort."""
        listed: list[str] = self.indices["case_id"].to_pylist()
        return listed

    def has(self, column: str) -> bool:
        """Whether the indices have a column with at least one value."""
        return column in self.indices.column_names and self.indices[column].null_count < self.size

    def numbers(self, column: str) -> Numbers:
        """A column of the indices; NaN where there is no value."""
        if column not in self.indices.column_names:
            return np.full(self.size, np.nan)
        return as_numbers(self.indices[column])

    def strata(self, column: str) -> Strata:
        """The subjects divided by a column of text."""
        if column not in self.indices.column_names:
            return Strata(column, (), np.full(self.size, NOBODY))
        encoded = pc.dictionary_encode(self.indices[column].combine_chunks())
        codes = pc.fill_null(encoded.indices, NOBODY).to_numpy(zero_copy_only=False).astype(np.int64)
        counts = np.bincount(codes[codes != NOBODY], minlength=len(encoded.dictionary))
        order = np.argsort(-counts, kind="stable")
        rank = np.append(np.argsort(order), NOBODY)
        return Strata(column, tuple(encoded.dictionary[int(n)].as_py() for n in order), rank[codes])

    @cached_property
    def flagged(self) -> Flagged:
        """The quality flags of indices and motion."""
        parents, words = zip(*(_flattened(table) for table in (self.indices, self.motion)), strict=True)
        encoded = pc.dictionary_encode(pa.concat_arrays(words))
        pairs = np.column_stack([encoded.indices.to_numpy(zero_copy_only=False), np.concatenate(parents)])
        pairs = np.unique(pairs, axis=0)
        flags: list[str] = encoded.dictionary.to_pylist()
        places = [pairs[pairs[:, 0] == code, 1] for code in range(len(flags))]
        order = sorted(range(len(flags)), key=lambda code: (-len(places[code]), flags[code]))
        return Flagged(tuple(flags[code] for code in order), tuple(places[code] for code in order))

    @cached_property
    def warnings(self) -> Places:
        """How many flags that ask for a look each subject has."""
        return self.flagged.warnings(self.size)

    def places(self, case_ids: Any) -> Places:
        """Where subjects stand among the rows of ``indices``; ``NOBODY`` for who has none."""
        found = pc.index_in(case_ids, value_set=self.indices["case_id"].combine_chunks())
        return np.asarray(pc.fill_null(found, NOBODY).to_numpy(), dtype=np.int64)


def read_population(folder: RunFolder) -> Population:
    """Read what the cohort page shows of every subject.

    Raises:
        ManifestError: This is no run folder, or nothing has run in it.
    """
    indices, status = read_columns(folder, "indices"), read_columns(folder, "status")
    if not indices.num_rows and not status.num_rows:
        raise ManifestError(
            f"{folder.root} holds neither tables/indices.parquet nor tables/status.parquet: nothing can be reported.",
            hint="Name the folder that cmnet infer wrote to, and run cmnet indices first.",
            code=ErrorCode.RUN,
        )
    motion = read_columns(folder, "motion")
    rows = pc.index_in(indices["case_id"], value_set=motion["case_id"].combine_chunks())
    return Population(folder, indices, status, motion.take(rows))


def read_columns(folder: RunFolder, table: str, columns: Iterable[str] | None = None) -> Any:
    """Some columns of a table, those that the file has; an empty table where there is no file.

    Args:
        folder: The run.
        table: Its name.
        columns: Which ones; all that today's schema declares where none are named.
    """
    path = folder.table(table)
    wanted = [column.name for column in DECLARED[table]] if columns is None else list(columns)
    if not path.exists():
        return pa.table({name: pa.array([], _EMPTY.get(name, pa.string())) for name in wanted})
    known = pq.read_schema(path).names
    return pq.read_table(path, columns=[name for name in wanted if name in known])


_EMPTY = {"qc_flags": pa.list_(pa.string())}


def as_numbers(column: Any) -> Numbers:
    """A column of numbers; NaN where there is none."""
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def _flattened(table: Any) -> tuple[Places, Any]:
    """The quality flags of a table one below the other, each with its row."""
    if "qc_flags" not in table.column_names:
        return np.zeros(0, np.int64), pa.array([], pa.string())
    flags = table["qc_flags"].combine_chunks()
    rows = np.asarray(pc.list_parent_indices(flags).to_numpy(), dtype=np.int64)
    return rows, pc.list_flatten(flags)


def most_flagged(population: Population, places: Sequence[int] | Places) -> list[int]:
    """Places of subjects, those with the most warnings first and otherwise in the order of the cohort."""
    chosen = np.asarray(places, dtype=np.int64)
    order = np.argsort(-population.warnings[chosen], kind="stable")
    return [int(place) for place in chosen[order]]
