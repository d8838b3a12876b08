"""Sidecars: the state of a stage for a case, and its reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from cmnet_cli.runs.provenance import (
    Expected,
    Sidecar,
    State,
    damaged_outputs,
    read_sidecar,
    record_inputs,
    record_outputs,
    stage_state,
    write_sidecar,
)
from cmnet_cli.seals import read_sealed_json, write_sealed_json
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ImageError


def _made(folder: Path) -> tuple[Path, Expected]:
    """A case folder with an input, an output and the sidecar of a stage that turned one into the other."""
    image, output, path = folder / "image.nii", folder / "out.nii", folder / "sub-9900001_desc-infer.json"
    image.write_bytes(b"image")
    output.write_bytes(b"result")
    sidecar = Sidecar(
        stage="infer",
        case_id="sub-9900001",
        version=__version__,
        settings_digest="s",
        model_digest="m",
        inputs=record_inputs([image]),
        outputs=record_outputs([output]),
        facts={"ed": 0},
    )
    write_sidecar(path, sidecar)
    assert read_sidecar(path) == sidecar
    return path, Expected(inputs=(image,), settings_digest="s", model_digest="m")


@pytest.mark.parametrize("change", [{"model_digest": 7}, {"facts": []}, {"inputs": [{"path": "a", "size": "b"}]}])
def test_sidecar_with_values_of_another_kind_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    path, expected = _made(tmp_path)
    write_sealed_json(path, (read_sealed_json(path) or {}) | change)
    assert read_sidecar(path) is None
    assert stage_state(path, expected)[0] is State.PENDING


def test_unchanged_inputs_and_outputs_are_done(tmp_path: Path) -> None:
    assert stage_state(*_made(tmp_path)) == (State.DONE, "")


def test_input_with_new_time_and_same_content_is_done(tmp_path: Path) -> None:
    path, expected = _made(tmp_path)
    expected.inputs[0].write_bytes(b"image")
    assert stage_state(path, expected) == (State.DONE, "")


def test_changed_input_is_stale(tmp_path: Path) -> None:
    path, expected = _made(tmp_path)
    expected.inputs[0].write_bytes(b"imagx")
    assert stage_state(path, expected) == (State.STALE, "an input has changed")


@pytest.mark.parametrize(
    ("settings", "model", "reason"),
    [("s2", "m", "computed with other settings"), ("s", "m2", "computed with other weights")],
)
def test_changed_settings_or_weights_are_stale(tmp_path: Path, settings: str, model: str, reason: str) -> None:
    path, expected = _made(tmp_path)
    assert stage_state(path, Expected(expected.inputs, settings, model)) == (State.STALE, reason)


def test_truncated_output_is_pending_and_changed_output_is_damaged(tmp_path: Path) -> None:
    path, expected = _made(tmp_path)
    sidecar = read_sidecar(path)
    assert sidecar is not None
    assert damaged_outputs(path, sidecar) == []
    (tmp_path / "out.nii").write_bytes(b"resulT")
    assert damaged_outputs(path, sidecar) == ["out.nii"]
    (tmp_path / "out.nii").write_bytes(b"res")
    assert stage_state(path, expected) == (State.PENDING, "output out.nii is missing or damaged")


def test_moved_input_is_done_and_another_file_of_its_size_is_not(tmp_path: Path) -> None:
    path, expected = _made(tmp_path)
    moved = expected.inputs[0].rename(tmp_path / "renamed.nii")
    elsewhere = Expected(inputs=(moved,), settings_digest="s", model_digest="m")
    assert stage_state(path, elsewhere) == (State.DONE, "")
    moved.write_bytes(b"imagx")
    assert stage_state(path, elsewhere) == (State.STALE, "computed from other files")


def test_results_of_another_version_are_stale(tmp_path: Path) -> None:
    path, expected = _made(tmp_path)
    sidecar = read_sidecar(path)
    assert sidecar is not None
    write_sidecar(path, replace(sidecar, version="0.1.0"))
    assert stage_state(path, expected) == (State.STALE, "computed by cmnet 0.1.0")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": 1}'])
def test_unreadable_sidecar_is_none(tmp_path: Path, text: str) -> None:
    path, expected = _made(tmp_path)
    path.write_text(text)
    assert stage_state(path, expected) == (State.PENDING, "no sidecar")


def test_digest_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dicoms"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"one")
    before = record_inputs([folder])
    (folder / "2.dcm").write_bytes(b"two")
    after = record_inputs([folder])
    assert (before[0].size, after[0].size) == (3, 6)
    assert before[0].sha256 != after[0].sha256


def test_error_names_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.nii") as caught:
        record_inputs([tmp_path / "nowhere.nii"])
    assert caught.value.code == ErrorCode.FILE_MISSING
    (tmp_path / "link.nii").symlink_to(".git/annex/objects/a.nii")
    with pytest.raises(ImageError) as caught:
        record_inputs([tmp_path / "link.nii"])
    assert "datalad get" in caught.value.hint
