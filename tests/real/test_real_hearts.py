"""The main job on real hearts, with the shipped weights, from the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cmnet_cli.app import app
from cmnet_cli.cohort.datasets import from_acdc
from cmnet_cli.cohort.manifest import Case, write_manifest

pytestmark = pytest.mark.real

ES_OF_THE_CONTOURS = {"SC-HF-I-1": 7, "SC-HF-I-2": 6, "SC-HF-I-4": 6}
ACDC_VALIDATION = ("patient001", "patient016", "patient046", "patient066")


def cmnet(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def troughs(curve: np.ndarray, *, depth: float) -> int:
    """Minima of a closed curve that lie at least ``depth`` below the lowest of the two ridges beside them."""
    start = int(curve.argmax())
    values = np.roll(curve, -start)
    values = np.append(values, values[0])
    found, low, high, falling = 0, values[0], values[0], True
    for value in values[1:]:
        low, high = (min(low, value), high) if falling else (low, max(high, value))
        if falling and value - low >= depth:
            found, high, falling = found + 1, value, False
        elif not falling and high - value >= depth:
            low, falling = value, True
    return found


def test_troughs_are_counted() -> None:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    assert troughs(100 + 50 * np.cos(angle), depth=10) == 1
    assert troughs(100 + 50 * np.cos(2 * angle), depth=10) == 2
    assert troughs(100 + 50 * np.cos(angle) + np.cos(9 * angle), depth=10) == 1


def test_sunnybrook_zips_go_through_as_they_are(sunnybrook: Path, tmp_path: Path) -> None:
    cases = [Case(2, subject, (sunnybrook / f"{subject}.zip",)) for subject in ES_OF_THE_CONTOURS]
    write_manifest(tmp_path / "sunnybrook.csv", cases)
    cmnet("infer", "--manifest", tmp_path / "sunnybrook.csv", "--out", tmp_path / "run")
    cmnet("indices", "--run", tmp_path / "run", "--samples", "2")
    frames = pd.read_parquet(tmp_path / "run" / "tables" / "frames.parquet")
    indices = pd.read_parquet(tmp_path / "run" / "tables" / "indices.parquet").set_index("subject_id")
    for subject, contoured in ES_OF_THE_CONTOURS.items():
        curve = frames[frames.subject_id == subject].sort_values("frame").lv_ml.to_numpy(float)
        assert len(curve) == 20
        assert troughs(curve, depth=0.15 * (curve.max() - curve.min())) == 1
        assert abs(int(indices.es_frame[subject]) - contoured) <= 2


def test_acdc_hearts_are_segmented_and_followed(acdc: Path, tmp_path: Path) -> None:
    cases = [case for case in from_acdc(acdc).cases if case.subject_id in ACDC_VALIDATION]
    write_manifest(tmp_path / "acdc.csv", cases)
    run = tmp_path / "run"
    cmnet("infer", "--manifest", tmp_path / "acdc.csv", "--out", run)
    cmnet("evaluate", "--run", run)
    rows = pd.read_parquet(run / "tables" / "evaluation.parquet")
    dice = rows.pivot_table(index=["comparison", "structure"], columns="method", values="dsc_pct")
    assert dice.segnet["at-ed", "lv"] > 90
    for structure in ("lv", "myo", "rv"):
        assert dice.cardiomorphnet["ed-to-es", structure] > dice["no-motion"]["ed-to-es", structure]
