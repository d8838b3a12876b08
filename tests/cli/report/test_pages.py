"""The pages of a run folder of synthetic subjects: discs that contract and expand."""

import html.parser
import re
import time

import numpy as np
import pytest

from cmnet_cli.report.data.displacement_view import read_displacement_view
from cmnet_cli.report.data.load_results import read_subject_images
from cmnet_cli.report.data.slice_views import build_slice_views, choose_view_geometry
from cmnet_cli.report.formatting import flag_text
from cmnet_cli.report.write import write_report
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import write_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.flags import QCFlag
from tests.report_runs import (
    IDS,
    NASTY,
    add_evaluation,
    contraction_of,
    frame_rows,
    index_row,
    make_run,
    write_motion,
    write_subject,
)


class Page(html.parser.HTMLParser):
    """The tags, links and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.open, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("report") / "run", flags=("spacing-from-zooms", "no-body-size", "new-flag")
    )
    assert write_report(folder.root) == folder.report
    return folder


@pytest.fixture(scope="module")
def cohort(run):
    return Page(run.report)


@pytest.fixture(scope="module")
def subject(run):
    return Page(run.report_page(IDS[0]))


def test_the_cohort_page_states_counts_and_failures(cohort):
    text = " ".join(cohort.text.split())
    assert "Cardiac motion, 4 subjects" in text
    assert "3 done" in text.replace("3done", "3 done")
    assert "1 subject: file-damaged" in text
    assert "Copy it again." in text
    assert "sub-9900009" in text
    assert "2 to check" in text


def test_the_cohort_page_has_an_evaluation_only_where_there_was_one(run, cohort, tmp_path):
    assert "Comparison with reference masks" not in cohort.text
    compared = make_run(tmp_path, ids=IDS[:2])
    add_evaluation(compared, ids=IDS)
    write_report(tmp_path)
    text = Page(compared.report).text
    page = compared.report.read_text(encoding="utf-8")
    assert "Comparison with reference masks" in text
    assert "LV by motion: median 91.0; LV without motion: median 71.0" in page
    assert "LV at ED: median 93.0" in page
    assert "LVEF (%): bias 2.0" in page
    assert "RVEF: estimate" not in text


def test_every_link_leads_to_a_page_of_the_report(run, cohort):
    links = [link for link in cohort.links if not link.startswith(("data:", "#"))]
    assert set(links) == {f"{case_id}.html" for case_id in IDS}
    assert all((run.report.parent / link).is_file() for link in links)


def test_a_page_is_complete_and_needs_no_network(cohort, subject):
    for page in (cohort, subject):
        assert page.open == []
        assert not {"link", "iframe"} & set(page.tags)
        assert all(link.startswith(("data:", "#", "sub-", "index.html")) for link in page.links)
        assert "For research, not for diagnosis." in page.text


def test_text_of_run_records_cannot_become_markup(run, cohort):
    assert NASTY in cohort.text
    for path in run.report.parent.glob("*.html"):
        assert NASTY not in path.read_text(encoding="utf-8")


def test_an_id_that_is_markup_stays_text(tmp_path):
    nasty = "sub-<img src=x onerror=alert(1)>"
    folder = make_run(tmp_path, ids=(nasty,), failed=())
    write_report(tmp_path)
    for path in (folder.report, folder.report_page(nasty)):
        assert "img" not in Page(path).tags
        assert nasty in Page(path).text


def test_the_title_contains_no_subject_id(run):
    for path in run.report.parent.glob("*.html"):
        title = re.findall("<title>(.*)</title>", path.read_text(encoding="utf-8"))[0]
        assert "9900" not in title


def test_the_subject_page_shows_nine_images_with_contours(run, subject):
    page = run.report_page(IDS[0]).read_text(encoding="utf-8")
    assert subject.tags.count("image") == 9
    for structure in ("lv", "myo", "rv"):
        drawn = re.findall(f'class="contour {structure}" d="M', page)
        assert len(drawn) == 9


def test_the_subject_page_describes_flags_and_missing_values(subject):
    assert "voxel sizes differ" in subject.text
    assert (
        "Neither the manifest nor the header gives: height or weight. Values indexed to BSA are null." in subject.text
    )
    assert "new-flag" in subject.text
    assert "RV ejection fraction" not in subject.text


def test_the_subject_page_states_the_model_digest(subject):
    assert "decaf" in subject.text
    assert "infer settings preprocess size" in subject.text


def test_the_displacement_is_that_of_the_tissue_at_each_position(run):
    """Around the LV, whose tissue at ES was further out at ED by the ratio of the sizes."""
    images = read_subject_images(run.case(IDS[0]))
    geometry = choose_view_geometry(images, ed=0)
    slices = tuple(level.index for level in geometry.levels)
    displacement = read_displacement_view(run.case(IDS[0]), heart=geometry.heart, slices=slices)
    for view in build_slice_views(images, displacement, geometry):
        wall = view.wall[3]
        rows, columns = np.nonzero(wall)
        from_centre = 1.5 * np.stack([rows - rows.mean(), columns - columns.mean()])
        known = from_centre * (1 / contraction_of(3, 6) - 1)
        assert np.abs(view.to_ed_mm[3, :2][:, wall] - known).max() < 0.5
        assert np.abs(view.to_ed_mm[0][:, wall]).max() == 0
        assert np.linalg.norm(view.to_ed_mm[3, :, wall], axis=1).min() > 3


def test_each_segment_has_value_and_curve_or_is_stated_to_have_none(run):
    page = run.report_page(IDS[0]).read_text(encoding="utf-8")
    for text in (
        "basal anterior −11",
        "7 mid anterior: −17 %",
        "16 apical lateral: no value",
        "Peak Ecc uncertainty",
    ):
        assert text in page
    assert len(re.findall('class="curve thin s', page)) == 2 * 15
    assert "GLS" not in Page(run.report_page(IDS[0])).text
    assert "Circumferential strain" in page
    assert "Radial strain" in page
    assert flag_text("segment-missing-at-ed") in Page(run.report_page(IDS[0])).text
    assert "There are no values of single segments" in Page(run.report_page(IDS[2])).text


def test_a_page_states_why_displacement_is_not_shown(run):
    assert "is not shown" not in Page(run.report_page(IDS[0])).text
    assert "Displacement or uncertainty is not shown" in Page(run.report_page(IDS[1])).text


def test_every_flag_has_a_description():
    assert len(QCFlag) >= 18
    assert [flag for flag in QCFlag if flag_text(flag) == flag] == []


def test_the_subject_page_of_fifty_frames_is_small_and_fast(tmp_path):
    folder = RunFolder(tmp_path)
    rows = list(frame_rows(IDS[0], write_subject(folder, IDS[0], frames=50, slices=6)))
    write_motion(folder, IDS[0], frames=50, slices=6)
    write_table(folder.table("frames"), "frames", rows)
    write_table(folder.table("indices"), "indices", [index_row(IDS[0], rows)])
    begun = time.process_time()
    write_report(tmp_path)
    assert time.process_time() - begun < 3
    page = folder.report_page(IDS[0])
    assert "player-data" in page.read_text(encoding="utf-8")
    assert page.stat().st_size < 4_000_000


def test_a_subject_without_images_still_has_its_numbers(tmp_path):
    folder = make_run(tmp_path, ids=IDS[:2])
    folder.case(IDS[1]).segnet_labels.unlink()
    write_report(tmp_path)
    text = Page(folder.report_page(IDS[1])).text
    assert "There are no images" in text
    assert "LV ejection fraction" in text
    assert Page(folder.report_page(IDS[0])).tags.count("image") == 9


def test_a_run_in_which_all_subjects_failed_has_a_page(tmp_path):
    folder = make_run(tmp_path, ids=())
    write_report(tmp_path)
    assert "There are no indices yet" in Page(folder.report).text


@pytest.mark.parametrize(("frames", "slices"), [(2, 1), (2, 2), (3, 30)])
def test_any_number_of_frames_and_slices_makes_a_page(tmp_path, frames, slices):
    folder = RunFolder(tmp_path)
    rows = list(frame_rows(IDS[0], write_subject(folder, IDS[0], frames=frames, slices=slices)))
    write_table(folder.table("frames"), "frames", [{**row, "time_ms": None} for row in rows])
    write_table(folder.table("indices"), "indices", [index_row(IDS[0], rows)])
    write_report(tmp_path)
    assert Page(folder.report_page(IDS[0])).tags.count("image") == 3 * min(slices, 3)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ManifestError) as caught:
        write_report(tmp_path)
    assert caught.value.code is ErrorCode.RUN
