"""Result tables: schema, documentation of every column, and declared formulas against computed values."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmnet_cli.stages.intervals import limits_of
from cmnet_cli.tables.columns.column import Column
from cmnet_cli.tables.schema import (
    DECLARED,
    SCHEMA_VERSION,
    TABLES,
    name_in_table,
    read_rows,
    schema_of,
    write_data_dictionary,
    write_table,
)
from cmnet_core.uncertainty.calibration import intervals, spread
from cmnet_core.uncertainty.conformal import QuantityCalibration
from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

# A quantity whose name ends in one of these has that unit.
UNITS = {"ml": "mL", "g": "g", "mm": "mm", "ms": "ms", "pct": "%", "nats": "nats", "mb": "MB", "cm": "cm", "kg": "kg"}
FUNCTIONS = {"sqrt": math.sqrt, "max": max, "min": min}
NAME = r"[a-z][a-z0-9_]*"


def test_missing_column_is_null_and_manifest_columns_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "indices.parquet"
    write_table(path, "indices", [{"case_id": "sub-9900001", "lvedv_ml": 120.5, "cohort": "a"}], extra=["cohort"])
    [row] = read_rows(path)
    assert (row["lvedv_ml"], row["lvef_pct"], row["cohort"]) == (120.5, None, "a")
    assert [file.name for file in tmp_path.iterdir()] == ["indices.parquet"]


@pytest.mark.parametrize("name", [*(column.name for column in TABLES["indices"][::17]), "manifest_sex", "case_id"])
def test_manifest_column_with_the_name_of_a_result_is_kept_apart(tmp_path: Path, name: str) -> None:
    copied = name_in_table(name)
    assert copied == f"manifest_{name}"
    path = tmp_path / "indices.parquet"
    write_table(path, "indices", [{"case_id": "sub-9900001", copied: "theirs"}], extra=[name, f"manifest_{name}"])
    [row] = read_rows(path)
    assert (row["case_id"], row[copied]) == ("sub-9900001", "theirs")


def test_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvedv"):
        write_table(tmp_path / "indices.parquet", "indices", [{"lvedv": 1.0}])
    assert not any(tmp_path.iterdir())


def test_schema_metadata_has_unit_formula_and_ukb_field(tmp_path: Path) -> None:
    path = tmp_path / "indices.parquet"
    write_table(path, "indices", [])
    metadata = pq.read_schema(path).field("lvef_pct").metadata
    assert (metadata[b"unit"], metadata[b"ukb_field"]) == (b"%", b"24103")
    assert pq.read_schema(path).metadata[b"cmnet_schema_version"] == str(SCHEMA_VERSION).encode() == b"7"


def test_interval_columns_follow_their_quantity() -> None:
    names = [column.name for column in TABLES["indices"]]
    place = names.index("lvef_pct")
    assert names[place : place + 3] == ["lvef_pct", "lvef_pct_lo", "lvef_pct_hi"]
    limits = {column.name: column for column in TABLES["indices"]}["lvef_pct_hi"]
    assert (limits.unit, limits.ukb_field) == ("%", "")


@pytest.mark.parametrize("table", TABLES)
def test_every_column_has_a_meaning_and_the_unit_of_its_name(table: str) -> None:
    columns = TABLES[table]
    assert len({column.name for column in columns}) == len(columns)
    for column in columns:
        assert column.meaning
        assert re.fullmatch(NAME, column.name)
        name = re.sub("_(lo|hi)$", "", column.name)
        # What follows "per" is a denominator.
        ending = "" if re.search(r"_per_\w+$", name) else name.rsplit("_", 1)[-1]
        if column.kind == "number":
            assert column.unit, column.name
            assert column.formula, column.name
        if ending in UNITS and column.kind == "number":
            assert column.unit == UNITS[ending], column.name


def test_data_dictionary_has_every_column(tmp_path: Path) -> None:
    path = tmp_path / "data_dictionary.json"
    write_data_dictionary(path)
    dictionary = json.loads(path.read_text())["tables"]
    assert {name: list(columns) for name, columns in dictionary.items()} == {
        name: sorted(schema_of(name).names) for name in TABLES
    }


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """Value of a declared formula such as ``100 x lvsv_ml / lvedv_ml``."""
    expression = formula.replace(" x ", " * ").replace("^", "**")
    return float(eval(expression, {"__builtins__": {}}, {**FUNCTIONS, **values}))


def interval_columns() -> Iterator[tuple[str, Column, Column, Column]]:
    """Every quantity with an interval, and the two columns that hold its ends."""
    for table, columns in DECLARED.items():
        by_name = {column.name: column for column in TABLES[table]}
        for column in columns:
            if column.interval is not None:
                yield table, column, by_name[f"{column.name}_lo"], by_name[f"{column.name}_hi"]


@pytest.mark.parametrize("value", [2.0, 250.0, 450.0])
@pytest.mark.parametrize("declared", [*interval_columns()], ids=lambda declared: f"{declared[0]}-{declared[1].name}")
def test_declared_formula_of_an_interval_is_the_computed_one(
    declared: tuple[str, Column, Column, Column], value: float
) -> None:
    # Of times the first value clips the lower end, the last one the upper end, the second one neither.
    table, column, *ends = declared
    samples = np.random.default_rng(1).normal(value, 30.0, 20)
    calibration = {column.name: QuantityCalibration(1.3, typical_spread=25.0)}
    sd = spread([{column.name: float(sample)} for sample in samples])
    computed, _ = intervals({column.name: value}, sd, calibration, limits_of(table, cycle_ms=20.0 * 25))
    for end in ends:
        formula, _, definitions = end.formula.partition("; ")
        upper, lower = map(float, re.findall(r"([\d.]+)th", definitions))
        known = {"q": 1.3, "t": 25.0, "sd": (np.percentile(samples, upper) - np.percentile(samples, lower)) / 2}
        [half] = re.findall(r"^half = (.*) or,", definitions)
        values = {"value": value, "half": evaluate(half, known), "frame_ms": 20.0, "frames": 25}
        assert computed[end.name] == pytest.approx(evaluate(formula, values), abs=1e-2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run of one phantom with indices."""
    folder = tmp_path_factory.mktemp("formulas")
    run = folder / "run"
    assert cmnet("infer", "-m", write_cohort(folder, 1), "-o", run, "--model", tiny_model).exit_code == 0
    assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 0
    return run


@pytest.mark.parametrize("table", ["indices", "frames"])
def test_declared_arithmetic_formulas_are_the_computed_ones(run: Path, table: str) -> None:
    names = {column.name for column in TABLES[table]}
    checked = set()
    for row in rows(run, table):
        row |= {"frame_ms": rows(run, "indices")[0]["frame_ms"]}
        for column in TABLES[table]:
            used = set(re.findall(NAME, column.formula)) - {"x", *FUNCTIONS}
            if used and used <= {*names, "frame_ms"} and row[column.name] is not None:
                assert row[column.name] == pytest.approx(evaluate(column.formula, row)), column.name
                checked.add(column.name)
    expected = {
        "indices": {"lvsv_ml", "lvef_pct", "rvsv_ml", "rvef_pct", "bsa_m2", "bsa_du_bois_m2", "lvm_index_g_m2"},
        "frames": {"time_ms"},
    }
    assert checked >= expected[table]
