"""De-identification: ids, paths and host names are replaced, and small counts suppressed."""

import json
import os
import platform
import re
from pathlib import Path

import pytest

from cmnet_cli.privacy.deidentify import ids_in, open_deidentifier, redact_defect, redact_ids
from cmnet_core.errors import ManifestError
from tests.cli.commanding import cmnet
from tests.phantoms import write_cohort


@pytest.mark.parametrize(
    ("text", "ids", "hidden"),
    [
        ("/a/9900001_20209_2_0.zip: no", [], "/a/<id>_20209_2_0.zip: no"),
        ("sub-9900001_ses-2: failed", [], "sub-<id>_ses-2: failed"),
        ("'9900001' stands twice", [], "'<id>' stands twice"),
        ("declares 8200000 bytes of 0.9234567", [], "declares 8200000 bytes of 0.9234567"),
        ("patient001 in /x/patient001/patient001_4d.nii", ["patient001"], "<id> in /x/<id>/<id>_4d.nii"),
        ("a volume in /x/volume.nii", ["volume"], "a volume in /x/<id>.nii"),
        ("frame 1 of sub-1, patient0010", ["1", "patient001"], "frame 1 of sub-<id>, patient0010"),
    ],
)
def test_redact_ids(text: str, ids: list[str], hidden: str) -> None:
    assert redact_ids(text, ids) == hidden


def test_pseudonyms_depend_on_the_key_of_the_run(tmp_path: Path) -> None:
    first, again = (open_deidentifier(tmp_path / "run" / "key", share_safe=True) for _ in range(2))
    other = open_deidentifier(None, share_safe=True)
    name = first.name("sub-9900001_ses-2")
    assert name == again.name("sub-9900001_ses-2") != other.name("sub-9900001_ses-2")
    assert name.endswith("_ses-2")
    assert name.startswith(first.name("sub-9900001"))
    assert len({first.name(f"sub-99{n:05d}") for n in range(20_000)}) == 20_000
    assert (tmp_path / "run" / "key").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["key"]


def test_dates_as_labels_of_visits_are_replaced() -> None:
    safe, plain = (open_deidentifier(None, share_safe=shared) for shared in (True, False))
    visits = [{"case_id": f"sub-7_ses-{day}", "subject_id": "7", "session": day} for day in ("20231105", "20240201")]
    rows = [safe.row(row) for row in visits]
    assert not any(day in json.dumps(rows) for day in ("20231105", "20240201"))
    assert len({row["case_id"].partition("_ses-")[0] for row in rows}) == 1, "the visits of a subject stay related"
    assert all(row["case_id"] == f"sub-{row['subject_id']}_ses-{row['session']}" for row in rows)
    assert rows[0]["session"] != rows[1]["session"]
    assert safe.session("8", "20231105") != rows[0]["session"], "equal dates of two subjects are not recognised"
    assert safe.text(safe.text("sub-7_ses-20231105")) == rows[0]["case_id"]
    assert plain.row(visits[0]) == visits[0]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".share-key").write_bytes(content)
    with pytest.raises(ManifestError, match="does not hold a key"):
        open_deidentifier(tmp_path / ".share-key", share_safe=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/Roe^Jane_19470812: Expected a cine.", ".../<name>: Expected a cine."),
        ("/data/Roe Jane 1947/im 1.nii.gz: no", ".../<name>.nii.gz: no"),
        ("Copy /data/Roe Jane/im.dcm again.", "Copy .../<name>.dcm again."),
        ("/data/Roe Jane/exam Roe: no images", ".../<name>: no images"),
        ("/data/<id>/<id>_sa.nii.gz: no", ".../<name>.nii.gz: no"),
        ("/r/tables/indices.parquet, /r/run.json", ".../indices.parquet, .../run.json"),
        ("found 'O'Neil, Jane': no. Expected 'a;b', found '1'.", "found '<text>': no. Expected 'a;b', found '<text>'."),
        ("3 m/s and 1 / 2, /r/roe.csv", "3 m/s and 1 / 2, .../<name>.csv"),
    ],
)
def test_names_of_folders_and_files_may_be_those_of_persons(text: str, shown: str) -> None:
    assert open_deidentifier(None, share_safe=True).text(text) == shown


def test_label_of_a_visit_is_not_logged() -> None:
    assert (
        redact_ids("Nothing for sub-7_ses-20231105.", ids_in("sub-7_ses-20231105")) == "Nothing for sub-<id>_ses-<id>."
    )


def test_traceback_of_a_defect_names_no_subject() -> None:
    trace = 'File "/opt/cmnet_cli/app.py", line 3\nOSError: /data/Roe_Jane/sub-P17_ses-20231105_sa.nii.gz is odd'
    shown = redact_defect(trace)
    assert "app.py" in shown
    assert "line 3" in shown
    assert not any(text in shown for text in ("P17", "Roe", "20231105", "/data"))


def test_run_folder_is_private_unless_the_group_may_read_it(tmp_path: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    assert cmnet("preprocess", "-m", manifest, "-o", run).exit_code == 0
    assert run.stat().st_mode & 0o777 == 0o700
    assert cmnet("preprocess", "-m", manifest, "-o", run, "--group-readable").exit_code == 0
    assert (run.stat().st_mode & 0o777, (run / ".share-key").stat().st_mode & 0o777) == (0o750, 0o640)


def test_group_reads_a_run_whatever_the_umask(tmp_path: Path) -> None:
    manifest, run = write_cohort(tmp_path, 1, frames=2), tmp_path / "run"
    before = os.umask(0o077)
    try:
        assert cmnet("preprocess", "-m", manifest, "-o", run, "--group-readable").exit_code == 0
        assert cmnet("preprocess", "-m", manifest, "-o", run, "--force").exit_code == 0
    finally:
        os.umask(before)
    hidden = [path for path in run.rglob("*") if not path.stat().st_mode & (0o010 if path.is_dir() else 0o040)]
    assert hidden == []


def test_persons_and_studies_of_dicom_files_are_replaced() -> None:
    safe = open_deidentifier(None, share_safe=True)
    text = "2 persons: patient unknown, study 942740090153; patient df7e70e5, study 1.2.77. The patient may have moved."
    shown = safe.text(text)
    assert not any(value in shown for value in ("942740090153", "df7e70e5", "1.2.77"))
    assert shown.startswith("2 persons: patient unknown, study x")
    assert shown.endswith(". The patient may have moved.")
    assert len(set(re.findall(r"study (x\w+)", shown))) == 2
    assert safe.text(shown) == shown
    assert "'1.2.9'" not in safe.text("Expected the study '1.2.9', found patient unknown.")


def test_share_safe_text() -> None:
    plain, safe = open_deidentifier(None, share_safe=False), open_deidentifier(None, share_safe=True)
    text = f"sub-9900001 on {platform.node()}: /home/somebody/9900001_sa.nii.gz is not there"
    assert (plain.text(text), plain.name("sub-9900001"), plain.count(3)) == (text, "sub-9900001", "3")
    assert safe.text(text) == f"{safe.name('sub-9900001')} on host-1: .../<name>.nii.gz is not there"
    assert safe.text(safe.text(text)) == safe.text(text)
    assert (safe.host("node07"), safe.host("node07"), safe.host(None)) == ("host-2", "host-2", None)
    assert [safe.count(n) for n in (0, 10, 11)] == ["0", "10 or fewer", "11"]
    assert (safe.hides(10), safe.hides(11), plain.hides(3)) == (True, False, False)


def test_share_safe_status_names_no_subject(tmp_path: Path, tiny_model: Path) -> None:
    manifest, run = write_cohort(tmp_path, 2, frames=2), tmp_path / "run"
    (tmp_path / "9900002.nii.gz").unlink()
    ran = cmnet("infer", "-m", manifest, "-o", run, "--model", tiny_model, "--verbose")
    assert (ran.exit_code, "row 3 (file-missing)" in ran.output, "99000" in ran.output) == (4, True, False)
    plain = json.loads(cmnet("status", "-r", run, "--json").stdout)
    shown = cmnet("status", "-r", run, "--json", "--share-safe").stdout
    shared = json.loads(shown)
    assert [row["state"] for row in shared] == [row["state"] for row in plain] == ["done", "failed"]
    pseudonyms = open_deidentifier(run / ".share-key", share_safe=True)
    assert [row["case_id"] for row in shared] == [pseudonyms.name(row["case_id"]) for row in plain]
    assert not any(text in shown for text in ("99000", str(tmp_path), platform.node()))
    printed = cmnet("status", "-r", run, "--share-safe").stdout
    assert (".../<name>.nii.gz" in printed, str(tmp_path) in printed) == (True, False)


def test_control_characters_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("subject_id,image\n9900001,\x1b[2Jowned\x07\u202ea.nii\n", encoding="utf-8")
    said = cmnet("validate", "-m", tmp_path / "m.csv").output
    assert "?[2Jowned??a.nii" in said
    assert not any(code in said for code in ("\x1b", "\x07", "\u202e"))
