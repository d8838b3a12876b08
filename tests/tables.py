"""Comparing the tables of two runs, row for row."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

RESULTS = ("indices", "frames", "segments", "motion", "bullseye")
# When and where a subject was worked on differs from run to run.
_OF_THE_RUN = ("attempt", "host", "peak_memory_mb", "seconds_preprocess", "seconds_infer", "seconds_indices", "stage")


def table_rows(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table, without what tells of the run itself."""
    table = pq.read_table(run / "tables" / f"{name}.parquet")
    return list(table.drop_columns([c for c in _OF_THE_RUN if c in table.column_names]).to_pylist())


def require_equal_tables(run: Path, other: Path, *, names: tuple[str, ...] = (*RESULTS, "status")) -> None:
    """Fail unless two runs have the same tables."""
    for name in names:
        assert table_rows(run, name) == table_rows(other, name), name
        assert pq.read_schema(run / "tables" / f"{name}.parquet").equals(
            pq.read_schema(other / "tables" / f"{name}.parquet"), check_metadata=True
        )
