"""Parts of tables, written by any number of processes, and the merge of parts into the tables.

A part is a Parquet file with the rows of some cases for one table. Parts are stored in numbered folders: rows of a case
in a later folder replace rows in an earlier folder, and both replace rows in the table. The merge reads parts and
table in the order of the cohort and keeps only overlapping row groups in memory, so that its memory does not grow with
the cohort.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.seals import is_whole_parquet, open_parquet_writer, seal_parquet
from cmnet_cli.tables.schema import has_this_schema, schema_of, to_arrow, write_arrow
from cmnet_core.io.atomic import replacing

__all__ = ["PartWriter", "TableRows", "list_parts", "merge_parts", "new_part_folder", "remove_damaged"]

TableRows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows that a case adds, by table."""

_BUFFERED_ROWS = 4096  # rows as dictionaries take ten times the memory of Arrow columns
_ROWS_PER_GROUP = 50_000


def new_part_folder(run: RunFolder) -> Path:
    """Create the next numbered folder of parts; concurrent callers get different folders."""
    run.parts.mkdir(parents=True, exist_ok=True)
    used = [path.name for path in run.parts.iterdir()] + list(run.submissions)
    number = max((int(name) for name in used if name.isdigit()), default=0) + 1
    while True:
        folder = run.parts / f"{number:05d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


class PartWriter:
    """Collects the rows of cases and writes them as parts.

    Args:
        folder: Folder of the parts.
        name: Prefix of the files; a second writer with the same prefix replaces the parts of the first.
        extra: Columns of the manifest that are copied into the table ``indices``.
        cases_per_part: Number of cases after which a part is written, or None to write one part at the end.
    """

    def __init__(self, folder: Path, name: str, *, extra: Sequence[str], cases_per_part: int | None = None) -> None:
        self._folder = folder
        self._name = name
        self._extra = extra
        self._cases_per_part = cases_per_part
        self._cases = 0
        self._closed = 0
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._blocks: dict[str, list[Any]] = {}

    def add(self, rows: TableRows) -> None:
        """Add the rows of one case."""
        for table, listed in rows.items():
            waiting = self._rows.setdefault(table, [])
            waiting += listed
            if len(waiting) >= _BUFFERED_ROWS:
                self._pack(table)
        self._cases += 1
        if self._cases_per_part is not None and self._cases >= self._cases_per_part:
            self.close()

    def close(self) -> None:
        """Write the collected rows, one part per table; each file appears only when it is complete."""
        for table in list(self._rows):
            self._pack(table)
            part = self._folder / f"{self._name}-{self._closed:05d}.{table}.parquet"
            write_arrow(part, pa.concat_tables(self._blocks.pop(table)))
        self._rows.clear()
        self._closed += self._cases > 0
        self._cases = 0

    def _pack(self, table: str) -> None:
        packed = to_arrow(table, self._rows[table], extra=self._extra if table == "indices" else ())
        self._blocks.setdefault(table, []).append(packed)
        self._rows[table] = []


def merge_parts(
    run: RunFolder, order: Mapping[str, int], *, extra: Sequence[str], verdicts: Mapping[str, str]
) -> dict[str, int]:
    """Merge all parts into the tables of a run, and delete the parts.

    Args:
        run: The run folder.
        order: Position of every case in the cohort; rows of other cases are dropped.
        extra: Columns of the manifest that are copied into the table ``indices``.
        verdicts: The column ``verdict`` of the table ``indices``, by case id.

    Returns:
        Number of rows of each merged table.
    """
    # Parts that are written while the merge runs are left for the next merge.
    folders = [path for path in sorted(run.parts.glob("*")) if path.name.isdigit()]
    parts = list_parts(run)
    tables = sorted({part.name.split(".")[-2] for part in parts})
    counts = {}
    for table in tables:
        sources = [part for part in parts if part.name.split(".")[-2] == table]
        schema = schema_of(table, extra=extra if table == "indices" else ())
        counts[table] = _merge(run.table(table), sources, order, schema, verdicts)
    for part in parts:
        part.unlink(missing_ok=True)
    for folder in folders:
        if not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
    return counts


def list_parts(run: RunFolder) -> list[Path]:
    """Return all parts of a run, those of later folders last."""
    return [part for folder in sorted(run.parts.glob("[0-9]*")) for part in sorted(folder.glob("[!.]*.parquet"))]


def remove_damaged(run: RunFolder, tables: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Remove damaged parts and tables, whose rows cannot be trusted and have to be computed again.

    Args:
        run: The run folder, locked by this process.
        tables: Names of the tables to check.

    Returns:
        The removed parts and the removed tables.
    """
    parts = [part for part in list_parts(run) if not is_whole_parquet(part)]
    damaged = [path for name in tables if (path := run.table(name)).exists() and not is_whole_parquet(path)]
    for path in (*parts, *damaged):
        path.unlink()
    return parts, damaged


@dataclass(frozen=True, slots=True)
class _Block:
    """A row group of a part or table.

    Attributes:
        path: File that holds the row group.
        group: Index of the row group in the file.
        priority: Rows of a case with a higher priority replace those with a lower one.
        first: Smallest position in the cohort of its cases.
        last: Largest position in the cohort of its cases.
    """

    path: Path
    group: int
    priority: int
    first: int
    last: int


def _merge(
    target: Path, sources: Sequence[Path], order: Mapping[str, int], schema: Any, verdicts: Mapping[str, str]
) -> int:
    files = [target, *sources] if target.exists() else list(sources)
    blocks = [
        block
        for priority, path in enumerate(files)
        if has_this_schema(path)
        for block in _blocks_of(path, priority, order)
    ]
    written = 0
    with replacing(target) as partial:
        with open_parquet_writer(partial, schema) as writer:
            for merged in _grouped(_sweep(sorted(blocks, key=lambda block: block.first), order, schema)):
                writer.write_table(_with_verdicts(merged, verdicts))
                written += merged.num_rows
        seal_parquet(partial)
    return written


def _with_verdicts(table: Any, verdicts: Mapping[str, str]) -> Any:
    number = table.schema.get_field_index("verdict")
    if number < 0:
        return table
    column = pa.array([verdicts.get(case_id) for case_id in table["case_id"].to_pylist()], pa.string())
    return table.set_column(number, table.schema.field(number), column)


def _blocks_of(path: Path, priority: int, order: Mapping[str, int]) -> Iterator[_Block]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            places = _places(file.read_row_group(group, columns=["case_id"])["case_id"], order)
            known = places[places >= 0]
            if len(known):
                yield _Block(path, group, priority, int(known.min()), int(known.max()))


def _places(case_ids: Any, order: Mapping[str, int]) -> Any:
    """Position of each row's case in the cohort; -1 where the cohort does not have the case."""
    encoded = pc.dictionary_encode(case_ids.combine_chunks())
    known = np.array([order.get(case_id, -1) for case_id in encoded.dictionary.to_pylist()], dtype=np.int64)
    return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(known) else np.empty(0, np.int64)


def _sweep(blocks: Sequence[_Block], order: Mapping[str, int], schema: Any) -> Iterator[Any]:
    """Yield merged rows in the order of the cohort, from blocks that are sorted by their first case."""
    held: list[tuple[Any, Any, Any]] = []
    for number, block in enumerate(blocks):
        held.append(_load(block, order, schema))
        # Later blocks begin at or after the first case of the next block, so all rows before it are known now.
        until = blocks[number + 1].first if number + 1 < len(blocks) else len(order)
        ready = [_cut(item, item[1] < until) for item in held]
        held = [kept for item in held if (kept := _cut(item, item[1] >= until))[0].num_rows]
        merged = _newest_in_order([item for item in ready if item[0].num_rows])
        if merged is not None:
            yield merged


def _load(block: _Block, order: Mapping[str, int], schema: Any) -> tuple[Any, Any, Any]:
    """Rows of the cohort with their positions and priorities, in the columns of the current schema."""
    with pq.ParquetFile(block.path) as file:
        table = file.read_row_group(block.group)
    columns = [
        table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    places = _places(table["case_id"], order)
    loaded = (pa.table(columns, schema=schema), places, np.full(len(places), block.priority))
    return _cut(loaded, places >= 0)


def _cut(item: tuple[Any, Any, Any], keep: Any) -> tuple[Any, Any, Any]:
    table, places, priorities = item
    if keep.all():
        return table, places, priorities
    return table.filter(pa.array(keep)), places[keep], priorities[keep]


def _newest_in_order(items: Sequence[tuple[Any, Any, Any]]) -> Any | None:
    """One table with the rows of the source of highest priority for each case, in the order of that source."""
    if not items:
        return None
    table = pa.concat_tables([item[0] for item in items])
    places, priorities = (np.concatenate([item[number] for item in items]) for number in (1, 2))
    highest = np.zeros(int(places.max() - places.min()) + 1, dtype=np.int64)
    np.maximum.at(highest, places - places.min(), priorities)
    rows = np.argsort(places, kind="stable")
    rows = rows[priorities[rows] == highest[places[rows] - places.min()]]
    return table.take(pa.array(rows))


def _grouped(tables: Iterable[Any]) -> Iterator[Any]:
    """Concatenate tables into larger row groups: many small ones are slow to read."""
    waiting: list[Any] = []
    for table in tables:
        waiting.append(table)
        if sum(item.num_rows for item in waiting) >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
