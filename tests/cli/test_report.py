"""The report from a run folder that holds synthetic hearts: discs that shrink and grow."""

import html.parser
import json
import math
import re

import numpy as np
import pytest
import torch

from cmnet_cli.layout import RunFolder
from cmnet_cli.report import write_report
from cmnet_cli.report.words import flag_in_words
from cmnet_cli.sidecar import Sidecar, write_sidecar
from cmnet_cli.tables import write_table
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io import dicom, nifti_file
from cmnet_core.io.nifti import write_image
from cmnet_core.types import Label

IDS = ("sub-9900001", "sub-9900002", "sub-9900003")
NASTY = "<script>alert(1)</script>"

# The labels' grid is finer than the picture's and starts elsewhere, as it does after a real crop.
LABEL_MM, PICTURE_MM, SLICE_MM = 1.2, 1.5, 9.0
LABEL_ORIGIN, PICTURE_ORIGIN = -80.0, -60.0


def affine(in_plane_mm, origin_mm):
    """Rows run to the back and columns to the left, slices to the head."""
    made = torch.zeros(4, 4, dtype=torch.float64)
    made[2, 0], made[1, 1], made[0, 2] = SLICE_MM, -in_plane_mm, -in_plane_mm
    made[:3, 3] = torch.tensor([-origin_mm, -origin_mm, 0.0])
    made[3, 3] = 1.0
    return made


def tissues(*, frames, slices, size, voxel_mm, origin_mm):
    """Label maps of a heart whose left ventricle has its largest cavity in frame 0 and its smallest in the middle."""
    mm = origin_mm + voxel_mm * np.arange(size)
    y, x = np.meshgrid(mm, mm, indexing="ij")
    labels = np.zeros((frames, slices, size, size), np.uint8)
    for t in range(frames):
        squeeze = 1 - 0.3 * (1 - math.cos(2 * math.pi * t / frames)) / 2
        for z in range(slices):
            radius = 26 * (1 - 0.6 * z / slices) * squeeze
            from_lv, wall = np.hypot(y, x - 8), 9 + 5 * (1 - squeeze) / 0.3
            labels[t, z][np.hypot((y + 8) / 1.3, x + 22) < 1.1 * radius] = Label.RV
            labels[t, z][from_lv < radius + wall] = Label.MYO
            labels[t, z][from_lv < radius] = Label.LV
    return labels


def write_subject(folder, case_id, *, frames=6, slices=4):
    files = folder.case(case_id)
    generator = np.random.default_rng(3)
    window = tissues(frames=frames, slices=slices, size=80, voxel_mm=PICTURE_MM, origin_mm=PICTURE_ORIGIN)
    grey = np.array([0.35, 0.95, 0.15, 0.85])[window] + generator.normal(0, 0.04, window.shape)
    write_image(
        files.preproc_cine, torch.tensor(grey).float(), affine=affine(PICTURE_MM, PICTURE_ORIGIN), frame_ms=900 / frames
    )
    labels = tissues(frames=frames, slices=slices, size=134, voxel_mm=LABEL_MM, origin_mm=LABEL_ORIGIN)
    for path in (files.segnet_labels, files.propagated_labels):
        write_image(path, torch.from_numpy(labels), affine=affine(LABEL_MM, LABEL_ORIGIN), frame_ms=900 / frames)
    return labels


def who(case_id):
    return {"case_id": case_id, "subject_id": case_id.removeprefix("sub-"), "session": None}


def frame_rows(case_id, labels):
    voxel_ml = SLICE_MM * LABEL_MM**2 / 1000
    names = {"lv_ml": Label.LV, "myo_ml": Label.MYO, "rv_ml": Label.RV}
    for t, volume in enumerate(labels):
        amounts = {name: float((volume == label).sum() * voxel_ml) for name, label in names.items()}
        moved = {name.replace("_ml", "_propagated_ml"): 0.97 * amount for name, amount in amounts.items()}
        yield {**who(case_id), "frame": t, "time_ms": 900 / len(labels) * t, **amounts, **moved}


def index_row(case_id, frames, *, flags=()):
    lv, rv = ([row[name] for row in frames] for name in ("lv_ml", "rv_ml"))
    ed, es = int(np.argmax(lv)), int(np.argmin(lv))
    row = {**who(case_id), "frames": len(frames), "ed_frame": ed, "es_frame": es, "qc_flags": list(flags)}
    row |= {"lvedv_ml": lv[ed], "lvesv_ml": lv[es], "lvsv_ml": lv[ed] - lv[es], "lvef_pct": 100 * (1 - lv[es] / lv[ed])}
    row |= {"lvm_g": 1.05 * frames[0]["myo_ml"], "rvedv_ml": rv[ed], "rvesv_ml": rv[es], "rvsv_ml": rv[ed] - rv[es]}
    return {**row, "rvef_pct": None}


def evaluation_rows(case_id, dice_pct):
    """Motion is better than none for this subject; its right ventricle was not found at all."""
    compared = [("cardiomorphnet", "ed-to-es", 0.0), ("no-motion", "ed-to-es", -20.0), ("segnet", "at-ed", 2.0)]
    for method, figure, better in compared:
        for structure in ("lv", "myo"):
            row = {"method": method, "figure": figure, "structure": structure, "dsc_pct": dice_pct + better}
            yield {**who(case_id), **row}
        yield {**who(case_id), "method": method, "figure": figure, "structure": "rv", "failure": "empty-prediction"}


def add_evaluation(folder, ids=IDS):
    rows = [row for n, case_id in enumerate(ids) for row in evaluation_rows(case_id, 90.0 + n)]
    write_table(folder.table("evaluation"), "evaluation", rows)
    pairs = [
        {**who(case_id), "index": "lvef_pct", "estimate": 55.0 + n, "reference": 54.0} for n, case_id in enumerate(ids)
    ]
    pairs.append({**who(ids[0]), "index": "rvef_pct", "estimate": None, "reference": 50.0})
    write_table(folder.table("agreement"), "agreement", pairs)


def make_run(root, *, ids=IDS, flags=(), failed=("sub-9900009",)):
    """A run folder as the commands leave it, with one subject that failed."""
    folder = RunFolder(root)
    frames, indices = [], []
    for case_id in ids:
        rows = list(frame_rows(case_id, write_subject(folder, case_id)))
        frames += rows
        indices.append(index_row(case_id, rows, flags=flags))
    write_table(folder.table("frames"), "frames", frames)
    write_table(folder.table("indices"), "indices", indices)
    broken = {"error_code": "file-damaged", "message": f"{NASTY}: reading failed.", "hint": "Copy it again."}
    status = [{**who(case_id), "stage": "indices", "state": "done"} for case_id in ids]
    status += [{**who(case_id), "stage": "infer", "state": "failed", **broken} for case_id in failed]
    write_table(folder.table("status"), "status", status)
    steps = {"model_digest": NASTY, "settings": {"preprocess": {"size": 128}}}
    folder.record.write_text(json.dumps({"cmnet_version": "0.1.0", "commands": {"infer": steps}}))
    for case_id in ids[:1]:
        write_sidecar(
            folder.case(case_id).sidecar("infer"), Sidecar("infer", case_id, "0.1.0", "c0ffee", "decaf", (), (), {})
        )
    return folder


class Page(html.parser.HTMLParser):
    """The tags, links and words of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.open, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
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


def test_the_cohort_page_counts_and_says_what_failed(cohort):
    words = " ".join(cohort.text.split())
    assert "Cardiac motion, 4 subjects" in words
    assert "3 done" in words.replace("3done", "3 done")
    assert "1 subject: file-damaged" in words
    assert "Copy it again." in words
    assert "sub-9900009" in words
    assert "2 to check" in words


def test_the_cohort_page_has_an_evaluation_only_where_there_was_one(run, cohort, tmp_path):
    assert "Against the reference masks" not in cohort.text
    compared = make_run(tmp_path, ids=IDS[:2])
    add_evaluation(compared, ids=IDS)
    write_report(tmp_path)
    text = Page(compared.report).text
    page = compared.report.read_text(encoding="utf-8")
    assert "Against the reference masks" in text
    assert "LV by motion: median 91.0; LV left in place: median 71.0" in page
    assert "LV at ED: median 93.0" in page
    assert "LVEF (%): bias 2.0" in page
    assert "RVEF: estimate" not in text


def test_every_link_leads_to_a_page_of_the_report(run, cohort):
    links = [link for link in cohort.links if not link.startswith("data:")]
    assert len(links) == len(IDS)
    assert all((run.report.parent / link).is_file() for link in links)


def test_a_page_is_whole_and_needs_neither_network_nor_script(cohort, subject):
    for page in (cohort, subject):
        assert page.open == []
        assert not {"script", "link", "iframe"} & set(page.tags)
        assert all(link.startswith(("data:", "sub-", "index.html")) for link in page.links)
        assert "For research, not for diagnosis." in page.text


def test_no_word_from_outside_becomes_markup(run, cohort):
    assert NASTY in cohort.text
    for path in run.report.parent.iterdir():
        assert "<script" not in path.read_text(encoding="utf-8")


def test_an_id_that_is_markup_stays_words(tmp_path):
    nasty = "sub-<img src=x onerror=alert(1)>"
    folder = make_run(tmp_path, ids=(nasty,), failed=())
    write_report(tmp_path)
    assert "img" not in Page(folder.report).tags
    assert nasty in Page(folder.report).text


def test_the_participant_is_not_named_in_the_title(run):
    for path in run.report.parent.iterdir():
        title = re.findall("<title>(.*)</title>", path.read_text(encoding="utf-8"))[0]
        assert "9900" not in title


def test_the_subject_page_shows_nine_pictures_with_contours(run, subject):
    page = run.report_page(IDS[0]).read_text(encoding="utf-8")
    assert subject.tags.count("image") == 9
    for structure in ("lv", "myo", "rv"):
        drawn = re.findall(f'class="contour {structure}" d="M', page)
        assert len(drawn) == 9


def test_the_subject_page_says_flags_and_gaps_in_words(subject):
    assert "voxel sizes disagree" in subject.text
    assert "height and weight" in subject.text
    assert "new-flag" in subject.text
    assert "RV ejection fraction" not in subject.text


def test_the_subject_page_names_the_model_that_made_it(subject):
    assert "decaf" in subject.text
    assert "infer settings preprocess size" in subject.text


def test_every_flag_of_the_readers_has_words():
    constants = [value for module in (dicom, nifti_file) for name, value in vars(module).items() if name.isupper()]
    flags = [value for value in constants if isinstance(value, str) and re.fullmatch("[a-z]+(-[a-z]+)+", value)]
    assert len(flags) > 5
    assert [flag for flag in flags if flag_in_words(flag) == flag] == []


def test_the_subject_page_is_small(run):
    assert run.report_page(IDS[0]).stat().st_size < 1_500_000


def test_a_subject_without_images_still_has_its_numbers(tmp_path):
    folder = make_run(tmp_path, ids=IDS[:2])
    folder.case(IDS[1]).segnet_labels.unlink()
    write_report(tmp_path)
    text = Page(folder.report_page(IDS[1])).text
    assert "There are no pictures" in text
    assert "LV ejection fraction" in text
    assert Page(folder.report_page(IDS[0])).tags.count("image") == 9


def test_a_run_where_everything_failed_has_a_page(tmp_path):
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
