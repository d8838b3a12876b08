"""The worklist: its order and reasons, flags that all subjects share, and verdicts that leave subjects out."""

import pytest

from cmnet_cli.privacy.deidentify import open_deidentifier
from cmnet_cli.report.data.cohort_table import read_population
from cmnet_cli.report.data.worklist import FLAG_POINTS, make_worklist
from cmnet_cli.report.formatting import missing_metadata_text
from cmnet_cli.report.write import Request, write_report
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.verdicts import Reading, Verdict, read_verdicts
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.qc.flags import FLAGS, SEVERITIES, Severity
from cmnet_core.qc.result_checks import LV_TRUNCATED, RV_TRUNCATED
from tests.cli.commanding import cmnet
from tests.worklist_runs import IDS, SHARED, changed, write_rows, write_typical, write_verdicts


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A report with a subject for every kind of reason."""
    folder = write_typical(tmp_path_factory.mktemp("worklist") / "run")
    write_report(folder.root)
    return folder


def test_every_flag_has_a_severity_and_values_that_are_withheld_are_not_to_be_used():
    assert set(SEVERITIES) == set(Severity)
    assert FLAG_POINTS[Severity.DO_NOT_USE] > FLAG_POINTS[Severity.CHECK] > FLAG_POINTS[Severity.INFORMATION] == 0
    assert {FLAGS[name].severity for name in LV_TRUNCATED | RV_TRUNCATED} == {Severity.DO_NOT_USE}


def test_the_most_severe_is_first_and_each_reason_is_stated(cohort):
    worklist = make_worklist(read_population(cohort))
    listed = [IDS[row] for row in worklist.order.tolist() if worklist.score[row] > 2]
    assert listed[0] == IDS[3]
    assert set(listed) >= {IDS[3], IDS[8], IDS[11], IDS[14]}
    reasons = {IDS[row]: " ".join(reason.text for reason in worklist.reasons(row)) for row in range(len(IDS))}
    assert "a slice without LV is between slices with it" in reasons[IDS[3]]
    assert "LV ejection fraction: the 95 % interval is 4.0 times as wide" in reasons[IDS[8]]
    assert "The stroke volume of the RV differs by −45 %" in reasons[IDS[11]]
    assert "LV volume at ES by the motion and as segmented differ by" in reasons[IDS[14]]
    assert not any("voxel sizes" in text for text in reasons.values())


@pytest.mark.parametrize(
    "more",
    [{"flags": ["rvef-implausible"]}, {"flags": ["no-lv-wall"]}, {"sv_difference_pct": 60.0}, {"lvm_g": 500.0}],
)
def test_a_further_reason_raises_the_score(tmp_path, more):
    before, after = (
        make_worklist(read_population(write_rows(tmp_path / name, changed(s7={"flags": ["few-slices"]} | extra))))
        for name, extra in (("before", {}), ("after", more | {"flags": ["few-slices", *more.get("flags", ())]}))
    )
    assert after.score[6] > before.score[6]


def test_what_nearly_all_share_is_a_remark_about_the_data_set_unless_values_are_not_to_be_used(tmp_path):
    severe = {f"s{number}": {"flags": ["slices-copied"]} for number in range(1, 21)}
    population = read_population(write_rows(tmp_path, changed(**severe)))
    assert population.shared == set(SHARED)
    assert population.warnings.tolist() == population.unusable.tolist() == [1] * 20
    few = read_population(write_rows(tmp_path / "few", changed()[:9]))
    assert few.shared == frozenset()


def test_the_page_of_a_usual_subject_has_nothing_to_check(cohort):
    page = cohort.report_page(IDS[0]).read_text(encoding="utf-8")
    quality = page.split('id="quality"')[1].split("</section>")[0]
    assert "Nothing to check was found" in quality
    assert "As for nearly all subjects: spacing-from-zooms" in quality
    index = cohort.report.read_text(encoding="utf-8")
    assert "3 to check" not in index
    assert "<b>2</b><small>to check" in index


def test_pages_are_linked_in_the_order_of_the_worklist(cohort):
    order = [IDS[row] for row in make_worklist(read_population(cohort)).order]
    for place, case_id in enumerate(order[:-1]):
        page = cohort.report_page(case_id).read_text(encoding="utf-8")
        assert f'<a href="{order[place + 1]}.html" id="next"' in page
        assert f"{place + 1} of 20, score" in page
    assert 'id="next"' not in cohort.report_page(order[-1]).read_text(encoding="utf-8")


def test_missing_metadata_are_one_line():
    text = missing_metadata_text(["no-sex", "few-slices", "no-frame-time"])
    assert text.startswith("Neither the manifest nor the header gives: sex, frame time.")
    assert missing_metadata_text(["few-slices"]) == ""


def test_excluded_subjects_are_left_out_of_figures_and_named(tmp_path):
    folder = write_rows(tmp_path, changed(s1={"lvedv_ml": 999.0}))
    write_verdicts(folder, "9900001,exclude,AB,2026-11-30,cut at the border", "sub-9900002,Accept,,,")
    write_report(tmp_path)
    index = folder.report.read_text(encoding="utf-8")
    assert "1 subject is excluded" in index
    figures = index.split('id="distributions"')[1]
    assert "all subjects" in figures
    assert "n = 19" in figures or ">19<" in figures
    page = folder.report_page(IDS[0]).read_text(encoding="utf-8")
    assert "<strong>exclude</strong>, AB, 2026-11-30: cut at the border." in page
    terminal = cmnet("report", "--run", tmp_path, "--terminal")
    assert "1 excluded by a verdict" in terminal.output


def test_verdicts_of_a_share_safe_report_are_read_by_pseudonym(tmp_path):
    folder = write_rows(tmp_path, changed())
    write_report(tmp_path, Request((IDS[2],), share_safe=True))
    name = open_deidentifier(folder.share_key, share_safe=True).name(IDS[2])
    page = folder.report_page(name, share_safe=True).read_text(encoding="utf-8")
    assert f'"name": "{name}"' in page
    write_verdicts(folder, f"{name},exclude,Dr Secret,,seen on 2019-03-02")
    assert read_verdicts(folder, IDS)[IDS[2]].verdict is Verdict.EXCLUDE
    write_report(tmp_path, Request((IDS[2],), share_safe=True))
    index = folder.shared_report.read_text(encoding="utf-8")
    assert "10 or fewer" in index.split("excluded</strong>")[0]
    page = folder.report_page(name, share_safe=True).read_text(encoding="utf-8")
    assert [text for text in (IDS[2].removeprefix("sub-"), "Secret", "2019-03-02") if text in index + page] == []


def test_verdicts_that_cannot_be_used_are_listed_together(tmp_path):
    folder = write_rows(tmp_path, changed())
    write_verdicts(folder, "9900001,accept,,,", "9999999,accept,,,", "9900002,exclud,,,", "sub-9900001,exclude,,,")
    result = cmnet("report", "--run", tmp_path)
    assert result.exit_code == 3
    with pytest.raises(ManifestError) as caught:
        read_verdicts(folder, IDS)
    assert caught.value.code is ErrorCode.VERDICTS
    problems = caught.value.message.splitlines()[1:]
    assert [problem.strip()[:6] for problem in problems] == ["row 3,", "row 4,", "row 5,"]
    assert "no such subject" in problems[0]
    assert "Did you mean exclude?" in problems[1]
    assert "subject and visit of row 2 too" in problems[2]
    assert "9999999" not in str(caught.value)


def test_a_subject_of_several_visits_needs_the_visit(tmp_path):
    folder = RunFolder(tmp_path)
    write_verdicts(folder, "9900001,accept,,,")
    with pytest.raises(ManifestError, match="2 visits"):
        read_verdicts(folder, ["sub-9900001_ses-2", "sub-9900001_ses-3"])


def test_a_given_table_is_kept_in_the_run(tmp_path):
    folder = write_rows(tmp_path / "run", changed())
    table = tmp_path / "mine.csv"
    table.write_text("id,verdict,remark\n9900003,correct,'=1+1\n", encoding="utf-8")
    assert cmnet("report", "--run", folder.root, "--pages", "none", "--verdicts", table).exit_code == 0
    assert read_verdicts(folder, IDS) == {IDS[2]: Reading(Verdict.CORRECT, remark="=1+1")}
