"""The calibration of the shipped weights: its card on the page of validation, and known values that are kept."""

from pathlib import Path

from benchmarks.coverage import VALIDATION_PAGE, known_values_once, with_card
from cmnet_cli.stages.calibrate import KnownValue
from cmnet_core.models.checkpoint import find_weights, load_checkpoint
from cmnet_core.uncertainty.calibration import find_calibration
from cmnet_core.uncertainty.conformal import CalibrationPair


def test_validation_page_has_the_card_of_the_shipped_calibration() -> None:
    calibration = find_calibration(load_checkpoint(find_weights("default")).digest)
    assert calibration is not None
    page = VALIDATION_PAGE.read_text(encoding="utf-8")
    assert with_card(page, calibration.quantities) == page, "run make calibration"


def test_known_values_of_a_subject_are_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> list[KnownValue]:
        calls.append(1)
        return [KnownValue("indices", "lvef_pct", CalibrationPair("1", 50.0, 51.0, None))]

    path = tmp_path / "cohort" / "sub-1.json"
    path.parent.mkdir()
    first = known_values_once(path, compute)
    assert known_values_once(path, compute) == first
    assert calls == [1]
    # Two cohorts may have subjects of the same name.
    assert first[0].pair == CalibrationPair("cohort/sub-1", 50.0, 51.0, None)
