"""The tables of a run: fixed, versioned Parquet schemas whose columns are documented in their metadata."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.seals import is_whole_parquet, write_sealed_json, write_sealed_parquet
from cmnet_cli.tables.columns import benchmark, case, evaluation
from cmnet_cli.tables.columns.column import Column, with_intervals
from cmnet_cli.tables.columns.mechanics import BULLSEYE, EXPERIMENTAL, SEGMENTS
from cmnet_core.errors import ErrorCode, ManifestError

__all__ = [
    "DECLARED",
    "SCHEMA_VERSION",
    "TABLES",
    "Column",
    "has_this_schema",
    "name_in_table",
    "read_rows",
    "require_whole_tables",
    "schema_of",
    "to_json",
    "write_arrow",
    "write_data_dictionary",
    "write_table",
]

SCHEMA_VERSION = 7
"""Raised whenever a column is added, removed or renamed; tables of another version are computed again."""

_ARROW: Mapping[str, Any] = {
    "text": pa.string(),
    "number": pa.float64(),
    "integer": pa.int64(),
    "text_list": pa.list_(pa.string()),
    # One value per frame, in the order of the input.
    "curve": pa.list_(pa.float32()),
}

DECLARED: Mapping[str, tuple[Column, ...]] = {
    "indices": case.INDICES,
    "frames": case.FRAMES,
    "segments": (*case.IDENTITY, *SEGMENTS),
    "motion": case.MOTION,
    "bullseye": (*case.IDENTITY, *BULLSEYE),
    "experimental": (*case.IDENTITY, *EXPERIMENTAL),
    "status": case.STATUS,
    "evaluation": evaluation.EVALUATION,
    "folding": evaluation.FOLDING,
    "agreement": evaluation.AGREEMENT,
    "evaluation_subjects": evaluation.EVALUATION_SUBJECTS,
    "evaluation_summary": evaluation.EVALUATION_SUMMARY,
    "evaluation_quantities": evaluation.EVALUATION_QUANTITIES,
    "evaluation_tests": evaluation.EVALUATION_TESTS,
    "agreement_summary": evaluation.AGREEMENT_SUMMARY,
    "correction_overlaps": evaluation.CORRECTION_OVERLAPS,
    "correction_indices": evaluation.CORRECTION_INDICES,
    "comparison": evaluation.COMPARISON,
    "benchmark": evaluation.EVALUATION,
    "benchmark_motions": benchmark.MOTIONS,
    "benchmark_methods": benchmark.METHODS,
    "benchmark_summary": evaluation.EVALUATION_SUMMARY,
    "benchmark_tests": evaluation.EVALUATION_TESTS,
}
"""Declared columns of every table, without the columns of intervals."""

TABLES: Mapping[str, tuple[Column, ...]] = {name: with_intervals(columns) for name, columns in DECLARED.items()}
"""Columns of every table, including the columns of intervals."""


_RESERVED = frozenset(column.name for column in TABLES["indices"])
_MANIFEST = "manifest_"


def name_in_table(column: str) -> str:
    """Return the name under which a column of the manifest is copied into the table of indices.

    A column with the name of a result is copied as ``manifest_<name>``; one that already has such a name gets the
    prefix once more, so that two columns of a manifest are never copied to one.

    >>> name_in_table("clinic"), name_in_table("lvef_pct"), name_in_table("manifest_lvef_pct")
    ('clinic', 'manifest_lvef_pct', 'manifest_manifest_lvef_pct')
    """
    base = column
    while base not in _RESERVED and base.startswith(_MANIFEST):
        base = base.removeprefix(_MANIFEST)
    return f"{_MANIFEST}{column}" if base in _RESERVED else column


def schema_of(table: str, *, extra: Sequence[str] = ()) -> Any:
    """Return the Arrow schema of a table.

    Args:
        table: Name of the table in a run folder.
        extra: Columns of the manifest that are copied into the table as text.
    """
    columns = [*TABLES[table], *(Column(name_in_table(name), "text", "Copied from the manifest") for name in extra)]
    fields = [pa.field(column.name, _ARROW[column.kind], metadata=_describe(column)) for column in columns]
    return pa.schema(fields, metadata={"cmnet_table": table, "cmnet_schema_version": str(SCHEMA_VERSION)})


def _describe(column: Column) -> dict[str, str]:
    metadata = {
        "meaning": column.meaning,
        "unit": column.unit,
        "formula": column.formula,
        "source": column.source,
        "ukb_field": column.ukb_field,
    }
    return {name: text for name, text in metadata.items() if text}


def write_table(path: Path, table: str, rows: Iterable[Mapping[str, Any]], *, extra: Sequence[str] = ()) -> None:
    """Write rows as a Parquet table; the file appears only when it is complete.

    Args:
        path: File to write.
        table: Name of the table, which determines the schema.
        rows: One mapping per row; a column that a row lacks is null.
        extra: Columns of the manifest that are copied into the table as text.

    Raises:
        ValueError: A row has a column that the schema lacks.
    """
    write_arrow(path, to_arrow(table, rows, extra=extra))


def to_arrow(table: str, rows: Iterable[Mapping[str, Any]], *, extra: Sequence[str] = ()) -> Any:
    """Convert rows into an Arrow table with the schema of their table.

    Raises:
        ValueError: A row has a column that the schema lacks; pyarrow would drop it silently.
    """
    schema = schema_of(table, extra=extra)
    listed = list(rows)
    unknown = {name for row in listed for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"The table {table} has no column {sorted(unknown)}.")
    return pa.Table.from_pylist(listed, schema=schema)


def write_arrow(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet; the file appears only when it is complete."""
    write_sealed_parquet(path, table)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a Parquet table, each as a mapping from column to value."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def has_this_schema(path: Path) -> bool:
    """Whether a table was written with the current version of the schemas."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return metadata.get(b"cmnet_schema_version") == str(SCHEMA_VERSION).encode()


def require_whole_tables(folder: RunFolder, tables: Iterable[str]) -> None:
    """Make sure that no table of a run is damaged; tables that do not exist yet are not.

    Raises:
        ManifestError: A table does not match its seal.
    """
    for name in tables:
        path = folder.table(name)
        if path.exists() and not is_whole_parquet(path):
            raise ManifestError(
                f"{path} is damaged, or cmnet 0.1.0 wrote it.",
                hint=f"cmnet verify --repair --run {folder.root} makes it again.",
                code=ErrorCode.RUN,
            )


def write_data_dictionary(path: Path) -> None:
    """Write the data dictionary: type, unit, formula and source of every column of every table."""
    dictionary = {
        name: {column.name: {"type": column.kind, **_describe(column)} for column in columns}
        for name, columns in TABLES.items()
    }
    write_sealed_json(path, {"schema_version": SCHEMA_VERSION, "tables": dictionary})


def to_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """Serialise rows as a JSON array with one line per row; indented JSON is several times slower to write."""
    lines = (json.dumps(dict(row), default=str, allow_nan=False) for row in rows)
    return "[\n" + ",\n".join(lines) + "\n]"
