"""The cohort page: counts and comparisons, the selection of pages, and what a share-safe report leaves out."""

import json
import platform
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.report_scale import FLAGS, write_run
from cmnet_cli.privacy.deidentify import Deidentifier
from cmnet_cli.report.cohort.group_bullseyes import moments_by
from cmnet_cli.report.cohort.scatters import MOST_POINTS, plotted_sample
from cmnet_cli.report.data.cohort_context import CohortContext
from cmnet_cli.report.data.cohort_table import UNASSIGNED, read_population
from cmnet_cli.report.data.page_selection import choose_pages
from cmnet_cli.report.data.qc_summary import failure_findings, flag_findings
from cmnet_cli.report.data.strata import stratify
from cmnet_cli.report.data.worklist import make_worklist
from cmnet_cli.report.write import Request, write_report
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import write_table
from cmnet_core.errors import ErrorCode, ManifestError
from tests.cli.commanding import cmnet
from tests.report_runs import NASTY, ids_of, index_row, make_run

OPEN, SAFE = Deidentifier(share_safe=False, key=b"k"), Deidentifier(share_safe=True, key=b"k")
FORMULA = "=cmd()|' /C calc'!A0"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More subjects than are drawn one by one."""
    return write_run(tmp_path_factory.mktemp("large") / "run", MOST_POINTS + 300)


@pytest.fixture(scope="module")
def page(large):
    write_report(large.root, Request(("none",)))
    return large.report.read_text(encoding="utf-8")


def text_of(page):
    return " ".join(re.sub("<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_counts_are_those_of_the_tables(large):
    context = CohortContext(read_population(large), OPEN, {})
    states = pq.read_table(large.table("status"))["state"].to_pylist()
    assert sum(int(finding.count) for finding in failure_findings(context)) == states.count("failed")
    tables = [pq.read_table(large.table(name))["qc_flags"].to_pylist() for name in ("indices", "motion")]
    flagged = [{*of_indices, *of_motion} for of_indices, of_motion in zip(*tables, strict=True)]
    for flag in FLAGS:
        finding = next(finding for finding in flag_findings(context) if finding.code == flag)
        assert finding.count == f"{sum(flag in flags for flags in flagged):,}"


def test_distributions_have_every_sex_and_group_and_the_reference_range_of_the_sex(page):
    drawn = re.search(r'LV end-diastolic volume</h4>.*?aria-label="(.*?)".*?</svg>', page, flags=re.DOTALL)
    assert [name in drawn[1] for name in ("all subjects", "female", "male", "control", "infarction")] == [True] * 5
    assert drawn[0].count('class="reference"') == 2


def test_a_large_cohort_is_sampled_and_the_page_says_so(large, page):
    text = text_of(page)
    assert f"Of {MOST_POINTS + 300:,} subjects, {MOST_POINTS:,} drawn at random are shown" in text
    first = re.search(r'class="wide scatters".*?</svg>', page, flags=re.DOTALL)[0]
    assert MOST_POINTS * 0.98 < first.count("<use") <= MOST_POINTS
    population = read_population(large)
    again = [plotted_sample(CohortContext(population, OPEN, {})).rows.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_flagged_subjects_with_a_page_are_drawn_whatever_the_sample_is(large):
    population = read_population(large)
    pages = dict.fromkeys(np.flatnonzero(population.warnings).tolist(), "page.html")
    drawn = plotted_sample(CohortContext(population, OPEN, pages))
    assert set(pages) <= set(drawn.rows.tolist())
    assert len(drawn.rows) == MOST_POINTS + drawn.flagged


def test_moments_of_segments_are_those_of_their_values():
    generator = np.random.default_rng(4)
    segments = np.tile(np.arange(1, 17), 50)
    codes = np.repeat(generator.choice([UNASSIGNED, 0, 1], 50), 16)
    values = 1e6 + generator.normal(size=800)
    values[::7] = np.nan
    found = moments_by(values, codes, segments, ("first", "second"))
    for code, name in enumerate(("first", "second")):
        for segment in range(1, 17):
            known = values[(codes == code) & (segments == segment) & np.isfinite(values)]
            moments = found[name][segment]
            assert (moments.n, moments.mean, moments.sd) == pytest.approx((len(known), known.mean(), known.std(ddof=1)))


def test_bullseyes_and_contrasts_name_the_healthy_group_first(page):
    text = text_of(page)
    assert "infarction against control" in text
    assert re.search(r"strain of the wall, engineering, difference of infarction and control.*?\*", page)
    assert "control against" not in text


def test_sections_without_columns_are_left_out_with_a_sentence(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{**ids_of(f"sub-990000{n}"), "lvef_pct": 50.0 + n, "lvedv_ml": 120.0 + n, "lvm_g": 90.0} for n in range(4)]
    write_table(folder.table("indices"), "indices", rows)
    write_report(tmp_path, Request(("none",)))
    text = text_of(folder.report.read_text(encoding="utf-8"))
    assert "this run's tables have no strain" in text
    assert "Bull's-eye plots There are none" in text
    assert "The manifest gives no sexes" in text


def test_pages_are_made_for_the_requested_subjects(large):
    population = read_population(large)
    flagged = set(np.flatnonzero(population.warnings).tolist())
    name = population.case_ids[5]
    worklist = make_worklist(population)
    assert set(choose_pages(worklist, ["flagged"])) == flagged
    assert choose_pages(worklist, ["none"]) == []
    assert choose_pages(worklist, ["all"]) == list(range(population.size))
    assert choose_pages(worklist, [name.removeprefix("sub-")]) == choose_pages(worklist, [name]) == [5]
    assert set(choose_pages(worklist, [name, "flagged"])) == flagged | {5}
    assert choose_pages(worklist, [], limit=3) == worklist.order[:3].tolist()
    assert len(choose_pages(worklist, [], limit=10_000)) == population.size


def test_the_page_of_an_unknown_subject_is_refused_from_the_command_line(large):
    result = cmnet("report", "--run", large.root, "--pages", "9999999")
    assert result.exit_code == 3
    with pytest.raises(ManifestError) as caught:
        choose_pages(make_worklist(read_population(large)), ["9999999"])
    assert caught.value.code is ErrorCode.RUN


def test_pages_older_than_the_tables_are_removed_and_others_kept(tmp_path):
    folder = make_run(tmp_path, ids=("sub-9900001", "sub-9900002"), failed=())
    write_report(tmp_path, Request(("9900001",)))
    write_report(tmp_path, Request(("9900002",)))
    listed = folder.report.read_text(encoding="utf-8")
    assert 'href="sub-9900001.html"' in listed
    assert 'href="sub-9900002.html"' in listed
    write_table(folder.table("frames"), "frames", [])
    write_report(tmp_path, Request(("9900002",)))
    assert [path.name for path in sorted(folder.report.parent.glob("sub-*"))] == ["sub-9900002.html"]
    assert 'href="sub-9900001.html"' not in folder.report.read_text(encoding="utf-8")


IDS = tuple(f"sub-99{n:05d}" for n in range(101, 131))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A share-safe report with one subject's page, of a run whose tables and records are full of names."""
    root = tmp_path_factory.mktemp("secret-folder") / "run"
    patch = pytest.MonkeyPatch()
    patch.setattr(platform, "node", lambda: "secret-login")
    folder = make_run(root, ids=IDS[:1], failed=IDS[20:22])
    frames = pq.read_table(folder.table("frames")).to_pylist()
    rows = [{**index_row(case_id, frames), "sex": "female", "lvef_pct": 50.0 + n} for n, case_id in enumerate(IDS)]
    for number, row in enumerate(rows):
        row |= {"group": "tiny-group" if number < 4 else "large-group", "rvef_pct": 55.0}
        row |= {"qc_flags": ["few-slices"] * (number < 12)}
    write_table(folder.table("indices"), "indices", rows)
    broken = {"state": "failed", "error_code": "file-damaged", "hint": f"Copy {root}/sub-9900121.zip again."}
    status = [{**ids_of(c), "state": "done", "host": "secret-node", "seconds_infer": 3.0} for c in IDS[:20]]
    status += [{**ids_of(c), **broken, "message": f"{root}/{c}.zip on {platform.node()}"} for c in IDS[20:]]
    write_table(folder.table("status"), "status", status)
    record = {
        "cmnet_version": "1",
        "host": platform.node(),
        "commands": {"infer": {"settings": {"model": f"{root}/w.st"}}},
    }
    folder.record.write_text(json.dumps(record))
    folder.case(IDS[0]).segnet_labels.unlink()
    write_report(root, Request((IDS[0],), share_safe=True))
    patch.undo()
    return folder


def test_a_share_safe_report_holds_no_id_no_path_and_no_host_name(shared):
    files = [path for path in shared.shared_report.parent.rglob("*") if path.is_file()]
    assert len(files) == 3
    forbidden = [
        "tiny-group",
        *(case_id.removeprefix("sub-") for case_id in IDS),
        str(shared.root),
        "secret-",
        "pytest-of",
    ]
    for path in files:
        content = path.read_bytes() + path.name.encode()
        assert [name for name in forbidden if name.encode() in content] == []


def test_a_share_safe_report_suppresses_groups_of_ten_or_fewer(shared):
    page = shared.shared_report.read_text(encoding="utf-8")
    text = text_of(page)
    assert "tiny-group" not in page
    assert "1 group of ten or fewer subjects is not shown" in text
    assert "10 or fewer failed" in text
    assert "<use" not in page.split('class="marks"')[-1].split("</svg>", 1)[1]
    assert "15 to check" in text, "12 of 30 are flagged: counts are rounded to 5, and never to 10"


def test_a_share_safe_report_of_a_small_cohort_is_empty(tmp_path):
    folder = make_run(tmp_path, ids=("sub-9900001",), failed=())
    write_report(tmp_path, Request(share_safe=True))
    text = text_of(folder.shared_report.read_text(encoding="utf-8"))
    assert "Too few subjects" in text
    assert "LV" not in text
    assert {path.name for path in folder.shared_report.parent.iterdir()} == {"digests.json", "index.html"}


def test_small_strata_are_suppressed_only_in_a_share_safe_report(large):
    strata = read_population(large).strata("group")
    assert "rare" in strata.names or strata.sizes[-1] > 10
    assert stratify(strata, OPEN).small == 0
    sizes = dict(zip(strata.names, strata.sizes, strict=True))
    assert all(sizes[name] > 10 for name in stratify(strata, SAFE).names)


@pytest.mark.parametrize("nasty", [NASTY, FORMULA, '"><img src=x onerror=alert(1)>'])
def test_text_of_a_manifest_cannot_become_markup(tmp_path, nasty):
    folder = RunFolder(tmp_path)
    rows = [
        {**ids_of(f"sub-{nasty}{n}"), "lvef_pct": 50.0 + n, "lvedv_ml": 120.0 + n, "lvm_g": 90.0 + n,
         "qc_flags": [nasty], "group": f"{nasty}{n % 2}", "sex": nasty, "site": nasty}
        for n in range(6)
    ]  # fmt: skip
    write_table(folder.table("indices"), "indices", rows)
    failed = {"state": "failed", "error_code": nasty, "message": nasty, "hint": nasty, "host": nasty}
    write_table(folder.table("status"), "status", [{**ids_of(f"sub-{nasty}"), **failed}])
    for share_safe in (False, True):
        made = write_report(tmp_path, Request(("none",), share_safe)).read_text(encoding="utf-8")
        scripts = re.findall("<script>", made)
        assert len(scripts) == len(re.findall("sha256-", made))
        assert "<img" not in made
        assert not share_safe or nasty not in made
    result = cmnet("report", "--run", tmp_path, "--terminal")
    assert result.exit_code == 0


@pytest.mark.parametrize("nasty", [NASTY, FORMULA])
def test_an_id_with_markup_or_a_formula_is_refused_in_a_manifest(tmp_path, nasty):
    image = tmp_path / "image.nii.gz"
    image.touch()
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(f'subject_id,image\n"{nasty}",{image.name}\n', encoding="utf-8")
    result = cmnet("validate", "--manifest", manifest)
    assert result.exit_code == 3
    assert "subject_id" in result.output


def test_the_terminal_shows_summary_failures_and_curves(large):
    result = cmnet("report", "--run", large.root, "--terminal")
    assert result.exit_code == 0
    assert re.search(r"1,470 done, 30 failed, \d+ to check", result.output)
    assert "Copy the" in result.output
    assert "sub-9000000007" in result.output
    curve = re.search(r"LV volume \(mL\).*?([▁▂▃▄▅▆▇█]{25})", result.output)[1]
    assert curve[0] == "█"
    assert "▁" in curve[8:16]


def test_the_share_safe_terminal_summary_names_no_subject(large):
    result = cmnet("report", "--run", large.root, "--terminal", "--share-safe")
    assert result.exit_code == 0
    assert "90000" not in result.output
    assert "1,470 done, 30 failed" in result.output
