"""Merge of parts into tables: one set of rows per case, the newest, in the order of the cohort."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables import parts
from cmnet_cli.tables.parts import PartWriter, merge_parts, new_part_folder
from cmnet_cli.tables.schema import read_rows

ORDER = {f"sub-99000{n:02d}": n for n in range(20)}


def _rows(case_id: str, value: float, *, frames: int = 3) -> dict[str, list[dict[str, object]]]:
    who = {"case_id": case_id, "subject_id": case_id[4:]}
    return {
        "indices": [who | {"lvef_pct": value, "clinic": "north"}],
        "frames": [who | {"frame": frame, "lv_ml": value} for frame in range(frames)],
    }


def _write(run: RunFolder, value: float, *positions: int, cases_per_part: int | None = None) -> None:
    ids = list(ORDER)
    writer = PartWriter(new_part_folder(run), "test", extra=["clinic"], cases_per_part=cases_per_part)
    for position in positions:
        writer.add(_rows(ids[position], value))
    writer.close()


def _merged(run: RunFolder) -> list[tuple[int, float]]:
    merge_parts(run, ORDER, extra=["clinic"], verdicts={})
    frames = read_rows(run.table("frames"))
    assert [row["frame"] for row in frames] == [0, 1, 2] * (len(frames) // 3)
    found = [(ORDER[row["case_id"]], row["lvef_pct"]) for row in read_rows(run.table("indices"))]
    assert [(ORDER[row["case_id"]], row["lv_ml"]) for row in frames[::3]] == found
    return found


@pytest.mark.parametrize("rows_per_group", [2, 50_000])
def test_merge_of_overlapping_parts_with_an_older_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_group: int
) -> None:
    monkeypatch.setattr(parts, "_ROWS_PER_GROUP", rows_per_group)
    run = RunFolder(tmp_path)
    _write(run, 1.0, 3, 1, 0, 2, 19)
    assert _merged(run) == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0), (19, 1.0)]
    _write(run, 2.0, 10, 2, 11, 4, cases_per_part=2)
    _write(run, 3.0, 11, 18)
    assert _merged(run) == [
        (0, 1.0), (1, 1.0), (2, 2.0), (3, 1.0), (4, 2.0), (10, 2.0), (11, 3.0), (18, 3.0), (19, 1.0)
    ]  # fmt: skip
    assert list(run.parts.iterdir()) == []
    assert pq.read_schema(run.table("indices")).field("clinic") is not None


def test_merge_drops_cases_outside_the_cohort(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _write(run, 1.0, 0, 1)
    merge_parts(run, {"sub-9900001": 0}, extra=[], verdicts={})
    assert [row["case_id"] for row in read_rows(run.table("indices"))] == ["sub-9900001"]


def test_part_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, "test", extra=[])
    writer.add({"motion": [{"case_id": "sub-9900001", "speed": 1.0}]})
    with pytest.raises(ValueError, match="speed"):
        writer.close()
