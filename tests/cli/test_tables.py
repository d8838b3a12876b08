"""Tables keep their schema, and every column says what it is."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmnet_cli.tables.schema import TABLES, read_rows, schema_of, write_data_dictionary, write_table

# A quantity whose name ends in one of these has that unit.
UNITS = {"ml": "mL", "g": "g", "mm": "mm", "ms": "ms", "pct": "%", "nats": "nats", "mb": "MB", "cm": "cm", "kg": "kg"}


def test_a_missing_column_is_null_and_extra_ones_are_carried_through(tmp_path: Path) -> None:
    path = tmp_path / "indices.parquet"
    write_table(path, "indices", [{"case_id": "sub-9900001", "lvedv_ml": 120.5, "cohort": "a"}], extra=["cohort"])
    [row] = read_rows(path)
    assert (row["lvedv_ml"], row["lvef_pct"], row["cohort"]) == (120.5, None, "a")
    assert [file.name for file in tmp_path.iterdir()] == ["indices.parquet"]


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvedv"):
        write_table(tmp_path / "indices.parquet", "indices", [{"lvedv": 1.0}])
    assert not any(tmp_path.iterdir())


def test_the_schema_carries_unit_formula_and_field(tmp_path: Path) -> None:
    path = tmp_path / "indices.parquet"
    write_table(path, "indices", [])
    told = pq.read_schema(path).field("lvef_pct").metadata
    assert (told[b"unit"], told[b"ukb_field"]) == (b"%", b"24103")
    assert pq.read_schema(path).metadata[b"cmnet_schema_version"] == b"3"


def test_an_interval_stands_beside_its_quantity() -> None:
    names = [column.name for column in TABLES["indices"]]
    place = names.index("lvef_pct")
    assert names[place : place + 3] == ["lvef_pct", "lvef_pct_lo", "lvef_pct_hi"]
    limits = {column.name: column for column in TABLES["indices"]}["lvef_pct_hi"]
    assert (limits.unit, limits.ukb_field) == ("%", "")
    assert "97.5" in limits.formula


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_a_meaning_and_the_unit_of_its_name(table: str) -> None:
    columns = TABLES[table]
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert column.meaning
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
        name = re.sub("_(lo|hi)$", "", column.name)
        # What follows "per" is a denominator.
        ending = "" if re.search(r"_per_\w+$", name) else name.rsplit("_", 1)[-1]
        if column.kind == "number":
            assert column.unit, column.name
            assert column.formula, column.name
        if ending in UNITS and column.kind == "number":
            assert column.unit == UNITS[ending], column.name


def test_the_data_dictionary_has_every_column(tmp_path: Path) -> None:
    path = tmp_path / "data_dictionary.json"
    write_data_dictionary(path)
    told = json.loads(path.read_text())["tables"]
    assert {name: list(columns) for name, columns in told.items()} == {
        name: sorted(schema_of(name).names) for name in TABLES
    }
