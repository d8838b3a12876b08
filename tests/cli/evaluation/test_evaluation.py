"""The evaluation of subjects, groups and methods against reference masks."""

import csv
import math
from pathlib import Path

import pytest
import torch
from scipy import stats

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.config import EvaluateConfig
from cmnet_cli.derivatives.tracking import open_tracking, write_entropy
from cmnet_cli.evaluation.page import MAX_SUBJECTS, Summaries, markdown
from cmnet_cli.evaluation.summary import compare_methods, subject_row, summarise_overlaps, summarise_subjects
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.evaluate import Evaluation, evaluate_case
from cmnet_cli.tables.schema import TABLES
from cmnet_core.io.nifti import write_labels
from cmnet_core.labels import Label
from cmnet_core.types import LabelSequence
from tests.cli.commanding import cmnet, rows
from tests.phantoms import write_cohort

SUBJECTS = 4


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a cohort and its evaluated run."""
    folder = tmp_path_factory.mktemp("evaluation")
    manifest, run = write_cohort(folder, SUBJECTS, frames=3), folder / "run"
    assert cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model).exit_code == 0
    assert cmnet("evaluate", "-r", run).exit_code == 0
    return folder


def overlap(case: int, method: str, dsc: float, *, hd95: float | None = 4.0, group: str = "A") -> dict[str, object]:
    return {
        "case_id": f"sub-{9900001 + case}",
        "group": group,
        "method": method,
        "comparison": "at-es" if method == "segnet" else "ed-to-es",
        "structure": "lv",
        "dsc_pct": dsc,
        "jac_pct": dsc / (200 - dsc) * 100,
        "hd95_mm": hd95,
        "msd_mm": hd95 and hd95 / 3,
        "failure": None if hd95 else "empty-prediction",
    }


def test_subject_rows_have_the_metrics_of_the_long_tables(analysis: Path) -> None:
    run = analysis / "run"
    lines = {row["case_id"]: row for row in rows(run, "evaluation_subjects")}
    assert len(lines) == SUBJECTS
    for row in rows(run, "evaluation"):
        if row["method"] == "no-motion":
            continue
        start = "segnet" if row["method"] == "segnet" else "motion"
        name = f"{start}_{row['comparison'].replace('-', '_')}_{row['structure']}"
        assert lines[row["case_id"]][f"{name}_dsc_pct"] == row["dsc_pct"]
        assert lines[row["case_id"]][f"{name}_hd95_mm"] == row["hd95_mm"]
    for row in rows(run, "folding"):
        assert lines[row["case_id"]][f"njd_heart_{row['comparison'].replace('-', '_')}"] == row["njd_heart"]
    with (run / "tables" / "evaluation_subjects.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["case_id"] for row in table] == list(lines)
    assert float(table[0]["motion_pooled_lv_dsc_pct"]) == lines[table[0]["case_id"]]["motion_pooled_lv_dsc_pct"]
    page = (run / "tables" / "evaluation.md").read_text()
    assert all(f"| {case_id} | " in page for case_id in lines)
    assert "Differences between methods" in page


def test_entropy_auroc_separates_heart_and_background(analysis: Path) -> None:
    run = RunFolder(analysis / "run")
    case = read_manifest(analysis / "cohort.csv").cases[0]
    folder = run.case(case.case_id)
    stored = open_tracking(folder)
    before = folder.entropy.read_bytes()
    found = []
    for inside, outside in ((1.0, 3.0), (3.0, 1.0), (2.0, 2.0)):
        entropy = torch.where(stored.segmented > 0, inside, outside)
        write_entropy(folder.entropy, entropy, affine=stored.affine, frame_ms=None)
        found.append(evaluate_case(case, run, EvaluateConfig()).motion["entropy_auroc"])
    folder.entropy.write_bytes(before)
    # The network's labels replace the reference masks, whose border differs by a voxel in places.
    assert found[0] > 0.97
    assert found[1] < 0.03
    assert found[2] == 0.5


def test_empty_prediction_is_a_failure_without_distance(analysis: Path) -> None:
    run = RunFolder(analysis / "run")
    case = read_manifest(analysis / "cohort.csv").cases[1]
    folder = run.case(case.case_id)
    stored = open_tracking(folder)
    before = folder.segnet_labels.read_bytes()
    without_rv = stored.segmented * (stored.segmented != Label.RV)
    labels = LabelSequence(without_rv, tuple(range(len(without_rv))), stored.spacing, stored.affine)
    write_labels(folder.segnet_labels, labels, frame_ms=None)
    evaluated = evaluate_case(case, run, EvaluateConfig())
    folder.segnet_labels.write_bytes(before)
    row = subject_row(evaluated)
    assert row["failures"] == 2
    assert row["segnet_at_ed_rv_hd95_mm"] is None
    assert row["segnet_at_ed_rv_dsc_pct"] == 0
    summary = summarise_overlaps(list(evaluated.overlaps))
    [rv] = [
        item for item in summary if (item["comparison"], item["structure"], item["group"]) == ("at-es", "rv", "all")
    ]
    assert (rv["failures"], rv["hd95_mean_mm"], rv["hd95_median_mm"]) == (1, None, None)


def test_paired_tests_between_methods_with_holm_correction() -> None:
    motion = [90.0, 91.0, 88.0, 92.5, 89.0, 93.0]
    still = [60.0, 66.0, 71.0, 64.0, 58.0, 69.5]
    segnet = [91.0, 90.5, 89.0, 92.0, 90.0, 92.0]
    given = {"cardiomorphnet": motion, "no-motion": still, "segnet": segnet}
    listed = [overlap(case, method, dsc) for method, values in given.items() for case, dsc in enumerate(values)]
    tests = [row for row in compare_methods(listed) if row["group"] == "all" and row["metric"] == "dsc_pct"]
    assert {(row["first"], row["second"]) for row in tests} == {
        ("cardiomorphnet", "no-motion"),
        ("cardiomorphnet", "segnet"),
        ("no-motion", "segnet"),
    }
    for row in tests:
        first, second = given[row["first"]], given[row["second"]]
        assert row["t_test_p"] == pytest.approx(stats.ttest_rel(first, second).pvalue)
        assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(first, second).pvalue)
        assert row["t_test_p_holm"] >= row["t_test_p"]
    # Six tests in the group: three pairs by Dice, three by distance; the smallest p counts six times.
    smallest = min(tests, key=lambda row: row["t_test_p"])
    assert smallest["t_test_p_holm"] == pytest.approx(min(6 * smallest["t_test_p"], 1.0))


def test_paired_test_leaves_out_a_subject_without_distance() -> None:
    listed = [overlap(case, "cardiomorphnet", 90.0 + case, hd95=None if case == 0 else 3.0 + case) for case in range(5)]
    listed += [overlap(case, "segnet", 88.0 + 2 * case, hd95=5.0 + case**2) for case in range(5)]
    by_metric = {row["metric"]: row for row in compare_methods(listed) if row["group"] == "all"}
    assert (by_metric["dsc_pct"]["n"], by_metric["hd95_mm"]["n"]) == (5, 4)


def test_summary_medians_by_group() -> None:
    listed = [overlap(case, "segnet", dsc, group="A" if case < 3 else "B") for case, dsc in enumerate((90, 92, 97, 50))]
    found = {row["group"]: row for row in summarise_overlaps(listed)}
    assert (found["A"]["dsc_median_pct"], found["all"]["dsc_median_pct"], found["B"]["dsc_sd_pct"]) == (92, 91, None)
    subjects = [
        {"case_id": str(n), "group": "", "cycle_consistency_error_mm": value} for n, value in enumerate((0.5, 1.0, 6.0))
    ]
    error = next(row for row in summarise_subjects(subjects) if row["quantity"] == "cycle_consistency_error_mm")
    assert (error["n"], error["mean"], error["median"], error["maximum"]) == (3, 2.5, 1.0, 6.0)
    assert math.isclose(error["sd"], 3.0413812651491097)


def test_evaluation_page_names_the_table_of_all_subjects() -> None:
    columns = [column.name for column in TABLES["evaluation_subjects"]]
    subjects = [
        dict.fromkeys(columns) | {"case_id": f"sub-{n}", "group": "", "njd_field_ed_to_es": 0, "njd_field_es_to_ed": 0}
        for n in range(MAX_SUBJECTS + 1)
    ]
    page = markdown(Summaries([], [], [], [], subjects))
    assert f"The first {MAX_SUBJECTS} of {MAX_SUBJECTS + 1}" in page
    assert "| sub-199 |" in page
    assert "| sub-200 |" not in page


def test_evaluation_has_one_row_of_motion(analysis: Path) -> None:
    case = read_manifest(analysis / "cohort.csv").cases[2]
    found: Evaluation = evaluate_case(case, RunFolder(analysis / "run"), EvaluateConfig())
    facts = open_tracking(RunFolder(analysis / "run").case(case.case_id)).facts
    assert found.motion["cycle_consistency_error_mm"] == facts.cycle_consistency_error_mm
    assert 0 <= found.motion["entropy_auroc"] <= 1
