"""Damaged files end in a documented code. ``benchmarks/fuzz.py`` tries thousands, each in little memory."""

import pytest

from benchmarks.fuzz import FILES, try_one

# What once left a traceback.
REGRESSIONS = [("layout", 239), ("layout", 320), ("manifest", 444), ("dicom", 193), ("nifti", 57)]


def test_kinds_of_the_regressions_are_tried() -> None:
    assert {kind for kind, _ in REGRESSIONS} <= set(FILES)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_leave_no_traceback(kind: str) -> None:
    seeds = [*range(20), *(seed for of_kind, seed in REGRESSIONS if of_kind == kind)]
    # The machine may be busy with other tests: benchmarks/fuzz.py holds the files to 10 s.
    failed = [ran for seed in seeds if (ran := try_one(kind, seed, longest_s=60)).problem]
    assert failed == []
