import gzip
import math
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import nifti
from cmnet_core.labels import Label, LabelScheme
from cmnet_core.types import CineSequence, LabelSequence, MotionField, Spacing

# Columns of the directions belong to (z, y, x), rows to right, anterior and superior.
RAS = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
LAS = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64)) @ RAS
LPS = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64)) @ RAS


def rotation(axis_angles: tuple[float, float, float]) -> torch.Tensor:
    a, b, c = axis_angles
    skew = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)


def affine_of(directions: torch.Tensor, spacing: Spacing, origin: tuple[float, float, float]) -> torch.Tensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = directions * torch.tensor(spacing.zyx, dtype=torch.float64)
    affine[:3, 3] = torch.tensor(origin, dtype=torch.float64)
    return affine


def ramp(*shape: int) -> torch.Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def save_raw(path: Path, array: np.ndarray, *, edit: dict[str, object] | None = None) -> Path:
    """A file as others write it: array in (x, y, z, t), header fields set as bare values."""
    image = nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    header = bytearray(image.to_bytes())
    fields = nib.Nifti1Header(bytes(header[:348]), check=False)
    for name, value in (edit or {}).items():
        fields[name] = value
    header[:348] = fields.binaryblock
    content = bytes(header)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@given(
    directions=st.one_of(
        st.sampled_from([RAS, LAS, LPS]),
        st.tuples(*[st.floats(-2.0, 2.0)] * 3).map(lambda angles: rotation(angles) @ RAS),
    ),
    spacing=st.builds(Spacing, z=st.floats(3, 12), y=st.floats(0.6, 3), x=st.floats(0.6, 3)),
    shape=st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
)
@settings(max_examples=30, deadline=None)
def test_round_trip_keeps_voxels_geometry_and_time(
    tmp_path_factory: pytest.TempPathFactory, directions: torch.Tensor, spacing: Spacing, shape: tuple[int, ...]
) -> None:
    path = tmp_path_factory.mktemp("round") / "cine.nii.gz"
    affine = affine_of(directions, spacing, (-31.0, 12.5, 203.0))
    nifti.write_image(path, ramp(*shape), affine=affine, frame_ms=31.25)
    cine = nifti.read_cine(path, frame_ms=None)
    torch.testing.assert_close(cine.voxels, ramp(*shape))
    torch.testing.assert_close(cine.affine, affine, rtol=1e-5, atol=1e-4)
    assert cine.spacing.zyx == pytest.approx(spacing.zyx, rel=1e-6)
    assert (cine.frame_ms, cine.flags) == (pytest.approx(31.25), ())
    loaded = nib.load(path)
    assert (int(loaded.header["sform_code"]), int(loaded.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(loaded.get_qform(), loaded.get_sform(), atol=1e-3)


def test_scale_comes_from_voxel_sizes_where_the_affine_has_none(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3, 2), np.int16)
    path = save_raw(tmp_path / "acdc.nii", array, edit={"pixdim": [1, 1.5, 1.25, 10, 0, 0, 0, 0]})
    cine = nifti.read_cine(path, frame_ms=None)
    assert cine.flags == ("spacing-from-zooms",)
    assert cine.spacing == Spacing(z=10.0, y=1.25, x=1.5)
    expected = torch.tensor([[0, 0, -1.5, 0], [0, -1.25, 0, 0], [10.0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(cine.affine, expected)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.03125, 8, 31.25),
        (31.25, 16, 31.25),
        (31250.0, 24, 31.25),
        (0.03125, 0, 31.25),
        (31.25, 0, 31.25),
        (1.0, 8, None),
        (1.0, 0, None),
        (0.0, 8, None),
        (1.0, 16, None),
    ],
)
def test_time_step_is_read_in_its_unit_or_not_at_all(
    tmp_path: Path, value: float, unit: int, expected: float | None
) -> None:
    edit = {"pixdim": [1, 1, 1, 1, value, 0, 0, 0], "xyzt_units": 2 + unit}
    path = save_raw(tmp_path / "c.nii", np.zeros((2, 2, 2, 3), np.int16), edit=edit)
    assert nifti.read_cine(path, frame_ms=None).frame_ms == pytest.approx(expected)
    assert nifti.read_cine(path, frame_ms=25.0).frame_ms == 25.0


def test_scaled_integers_are_scaled(tmp_path: Path) -> None:
    array = np.arange(16, dtype=np.int16).reshape(2, 2, 2, 2)
    path = save_raw(tmp_path / "c.nii.gz", array, edit={"scl_slope": 0.5, "scl_inter": -3.0})
    voxels = nifti.read_cine(path, frame_ms=None).voxels
    np.testing.assert_allclose(voxels.numpy(), array.T * 0.5 - 3.0)


def test_time_may_stand_on_the_fifth_axis(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(2, 2, 1, 1, 3)
    cine = nifti.read_cine(save_raw(tmp_path / "c.nii", array), frame_ms=None)
    np.testing.assert_array_equal(cine.voxels.numpy(), array[:, :, :, 0].T)


def damaged(tmp_path: Path, kind: str) -> Path:
    array = np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(np.float32)
    path = tmp_path / "bad.nii.gz"
    if kind == "volume":
        return save_raw(path, array[..., 0])
    if kind == "nan":
        array[1, 1, 1, 2] = np.nan
    edits = {
        "zero spacing": {"pixdim": [1, 1, 0, 10, 1, 0, 0, 0]},
        "no affine": {"srow_x": [0, 0, 0, 0]},
        "datatype": {"datatype": 1234},
        "huge": {"dim": [4, 30000, 30000, 30000, 300, 1, 1, 1]},
        "flat": {"dim": [2, 6, 5, 1, 1, 1, 1, 1]},
    }
    save_raw(path, array, edit=edits.get(kind))
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if kind == "flipped bit":
        path.write_bytes(content[:-100] + bytes([content[-100] ^ 4]) + content[-99:])
    if kind == "no trailer":
        path.write_bytes(content[:-6])
    if kind == "text":
        path.write_bytes(b"<html>404 not found</html>" * 30)
    if kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", ErrorCode.FILE_MISSING),
        ("truncated", ErrorCode.FILE_DAMAGED),
        ("no trailer", ErrorCode.FILE_DAMAGED),
        ("flipped bit", ErrorCode.FILE_DAMAGED),
        ("datatype", ErrorCode.FILE_DAMAGED),
        ("text", ErrorCode.FILE_DAMAGED),
        ("huge", ErrorCode.FILE_DAMAGED),
        ("volume", ErrorCode.IMAGE_DIMENSIONS),
        ("flat", ErrorCode.IMAGE_DIMENSIONS),
        ("nan", ErrorCode.IMAGE_VALUES),
        ("zero spacing", ErrorCode.GEOMETRY),
        ("no affine", ErrorCode.GEOMETRY),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path: Path, kind: str, code: ErrorCode) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(CmnetError) as caught:
        nifti.read_cine(path, frame_ms=None)
    assert caught.value.code is code
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_pair_is_a_cine_of_two_frames(tmp_path: Path) -> None:
    for name, value in (("ed", 1), ("es", 2)):
        save_raw(tmp_path / f"{name}.nii", np.full((4, 3, 2), value, np.int16))
    cine = nifti.read_pair(tmp_path / "ed.nii", tmp_path / "es.nii")
    assert (cine.ed, cine.es, cine.frame_ms) == (0, 1, None)
    assert cine.voxels[:, 0, 0, 0].tolist() == [1.0, 2.0]
    save_raw(tmp_path / "shifted.nii", np.ones((4, 3, 2), np.int16), edit={"srow_z": [0, 0, 1, 9.0]})
    with pytest.raises(CmnetError, match=r"corners up to 9\.0 mm apart"):
        nifti.read_pair(tmp_path / "ed.nii", tmp_path / "shifted.nii")


def blank_cine(*, frames: int) -> CineSequence:
    return CineSequence(
        voxels=torch.zeros(frames, 2, 3, 4),
        spacing=Spacing(1, 1, 1),
        affine=affine_of(LPS, Spacing(1, 1, 1), (0, 0, 0)),
        frame_ms=None,
        ed=None,
        es=None,
    )


def test_labels_are_renumbered_by_scheme(tmp_path: Path) -> None:
    values = np.zeros((4, 3, 2), np.float32)
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0] = 1, 2, 3
    path = save_raw(tmp_path / "mask.nii", values)
    cine = blank_cine(frames=5)
    acdc = nifti.read_labels([path, path], scheme=LabelScheme.ACDC, cine=cine, frames=[0, 3])
    assert acdc.at(3)[0, 0].tolist() == [Label.RV, Label.MYO, Label.LV, Label.BACKGROUND]
    mnms = nifti.read_labels([path], scheme=LabelScheme.MNMS, cine=cine, frames=[0])
    assert mnms.at(0)[0, 0].tolist() == [Label.LV, Label.MYO, Label.RV, Label.BACKGROUND]


def test_label_cine_keeps_the_contoured_frames(tmp_path: Path) -> None:
    values = np.zeros((4, 3, 2, 5), np.uint8)
    values[2, 1, 1, 3] = 2
    path = save_raw(tmp_path / "mask.nii.gz", values)
    labels = nifti.read_label_cine(path, scheme=LabelScheme.CMNET, cine=blank_cine(frames=5))
    assert labels.frames == (3,)
    assert labels.at(3)[1, 1, 2] == Label.MYO
    nifti.write_labels(tmp_path / "out.nii.gz", labels, frame_ms=None)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), values[..., 3])


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        (np.full((4, 3, 2), 7, np.uint8), ErrorCode.LABEL_VALUES, "found 7"),
        (np.full((4, 3, 2), 0.5, np.float32), ErrorCode.LABEL_VALUES, "found 0.5"),
        (np.full((4, 3, 2), -1, np.int16), ErrorCode.LABEL_VALUES, "found -1"),
        (np.zeros((4, 3, 1), np.uint8), ErrorCode.LABEL_GEOMETRY, r"\(2, 3, 4\) were expected"),
        (np.zeros((4, 3, 2, 5), np.uint8), ErrorCode.LABEL_GEOMETRY, "5 frame"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, values: np.ndarray, code: ErrorCode, said: str) -> None:
    path = save_raw(tmp_path / "mask.nii", values)
    with pytest.raises(CmnetError, match=said) as caught:
        nifti.read_labels([path], scheme=LabelScheme.CMNET, cine=blank_cine(frames=5), frames=[0])
    assert caught.value.code is code


def oblique_field() -> tuple[MotionField, torch.Tensor]:
    spacing = Spacing(z=8.0, y=1.9, x=1.3)
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(1, 3, 2, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(5, 14, 12), mode="trilinear", align_corners=True)[0]
    field = MotionField(smooth * torch.tensor([6.0, 2.0, 2.0]).view(3, 1, 1, 1), spacing, fixed=7, moving=0)
    return field, affine_of(rotation((0.4, -0.7, 0.9)) @ LAS, spacing, (20.0, -44.0, 61.0))


def test_motion_round_trip(tmp_path: Path) -> None:
    field, affine = oblique_field()
    nifti.write_motion(tmp_path / "m.nii.gz", field, affine=affine)
    back = nifti.read_motion(tmp_path / "m.nii.gz")
    # Each of three components is rounded by at most half of 1/128 mm, in the scanner's directions.
    assert float((back.displacement_mm - field.displacement_mm).norm(dim=0).max()) <= math.sqrt(3) / 256 + 1e-4
    nifti.write_motion(tmp_path / "again.nii.gz", back, affine=affine)
    again = nifti.read_motion(tmp_path / "again.nii.gz")
    torch.testing.assert_close(again.displacement_mm, back.displacement_mm, rtol=1e-4, atol=1e-4)
    assert (back.fixed, back.moving) == (7, 0)
    with pytest.raises(CmnetError, match="Expected a displacement"):
        nifti.read_motion(save_raw(tmp_path / "c.nii", np.zeros((2, 2, 2, 3), np.int16)))


def test_itk_applies_our_motion_as_we_do(tmp_path: Path) -> None:
    field, affine = oblique_field()
    image = torch.randn(1, 5, 14, 12, generator=torch.Generator().manual_seed(1))
    nifti.write_image(tmp_path / "ed.nii.gz", image[0], affine=affine, frame_ms=None)
    nifti.write_motion(tmp_path / "ed2es_motion.nii.gz", field, affine=affine)
    stored = nifti.read_motion(tmp_path / "ed2es_motion.nii.gz")

    moving = SimpleITK.ReadImage(str(tmp_path / "ed.nii.gz"), SimpleITK.sitkFloat64)
    displacement = SimpleITK.ReadImage(str(tmp_path / "ed2es_motion.nii.gz"), SimpleITK.sitkVectorFloat64)
    transform = SimpleITK.DisplacementFieldTransform(displacement)
    itk = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, moving, transform, SimpleITK.sitkLinear, float("nan")))

    voxels = stored.displacement_mm / torch.tensor(field.spacing.zyx).view(3, 1, 1, 1)
    places = np.indices((5, 14, 12)) + voxels.numpy()
    ours = map_coordinates(image[0].numpy(), places, order=1, mode="nearest")
    inside = np.isfinite(itk)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(ours[inside], itk[inside], atol=2e-3)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        nifti.write_image(path, torch.zeros(2, 2, 2), affine=affine_of(RAS, Spacing(1, 1, 1), (0, 0, 0)), frame_ms=None)
    assert [p.name for p in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert path.read_bytes() == b"old"


def test_same_voxels_give_the_same_bytes(tmp_path: Path) -> None:
    labels = LabelSequence(
        labels=torch.ones(2, 2, 3, 4, dtype=torch.uint8),
        frames=(0, 1),
        spacing=Spacing(1, 1, 1),
        affine=affine_of(RAS, Spacing(1, 1, 1), (0, 0, 0)),
    )
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write_labels(tmp_path / name, labels, frame_ms=30.0)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


# ── headers that contradict themselves ───────────────────────────────────────────────────────────────────────────

USUAL_MM = [1.0, 1.5, 1.25, 10.0, 0.03125, 0.0, 0.0, 0.0]


def write_usual(path: Path, array: np.ndarray, **edit: object) -> Path:
    """A cine as most are, (x, y, z, t) with right affines, and then what a test changes."""
    affine = np.diag([-1.5, -1.25, 10.0, 1.0])
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    save_raw(path, array, edit={name: image.header[name] for name in QFORM} | {"pixdim": USUAL_MM} | edit)
    return path


QFORM = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
VOXELS = np.arange(4 * 5 * 3 * 6, dtype=np.int16).reshape(4, 5, 3, 6)  # x, y, z, t
LOST = [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("edit", "flags"),
    [
        ({}, ()),
        ({"xyzt_units": 0}, ()),
        ({"pixdim": LOST}, ("spacing-from-affine",)),
        ({"pixdim": [1, 0, 0, 0, 1, 0, 0, 0]}, ("spacing-from-affine",)),
        ({"sform_code": 0}, ()),
        ({"srow_x": [0, 0, 0, 0]}, ("sform-qform-differ",)),
        ({"qoffset_x": 30.0}, ("sform-qform-differ",)),
        ({"quatern_d": 0.9}, ("sform-qform-differ",)),
        ({"quatern_b": 7.0}, ()),
    ],
)
def test_geometry_survives_what_headers_lack(tmp_path: Path, edit: dict[str, object], flags: tuple[str, ...]) -> None:
    cine = nifti.read_cine(write_usual(tmp_path / "c.nii.gz", VOXELS, **edit), frame_ms=None)
    expected = torch.tensor([[0, 0, -1.5, 0], [0, -1.25, 0, 0], [10.0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(cine.affine, expected, rtol=1e-5, atol=1e-5)
    assert cine.spacing.zyx == pytest.approx((10.0, 1.25, 1.5))
    assert cine.flags == flags
    np.testing.assert_array_equal(cine.voxels.numpy(), VOXELS.T)


def test_unit_of_length_is_guessed_only_where_none_is_named(tmp_path: Path) -> None:
    rows = {"srow_x": [-0.0015, 0, 0, 0], "srow_y": [0, -0.00125, 0, 0], "srow_z": [0, 0, 0.01, 0], "qform_code": 0}
    metres = {"pixdim": [1, 0.0015, 0.00125, 0.01, 0, 0, 0, 0], **rows}
    for unit, flags in ((0, ("unit-guessed",)), (1, ()), (2, ("spacing-unusual",))):
        cine = nifti.read_cine(write_usual(tmp_path / "c.nii", VOXELS, xyzt_units=unit, **metres), frame_ms=None)
        assert cine.flags == flags
        assert cine.spacing.z == pytest.approx(0.01 if unit == 2 else 10.0)
        assert float(cine.affine[2, 0]) == pytest.approx(cine.spacing.z)


@pytest.mark.parametrize("axes", [(2, 0, 1, 3), (0, 2, 1, 3), (0, 1, 3, 2), (3, 0, 1, 2)])
def test_axes_are_told_apart_by_their_distances(tmp_path: Path, axes: tuple[int, ...]) -> None:
    pixdim = [1.0, *(USUAL_MM[axis + 1] for axis in axes), 0.0, 0.0, 0.0]
    # Column n of the affine belongs to the n-th axis of the file; time has no direction of its own.
    columns = np.diag([-1.5, -1.25, 10.0, 0.03125])[:, list(axes)][:3, :3]
    columns[:, ~columns.any(axis=0)] = [[0.5], [0.5], [0.5]]
    rows = {name: [*columns[n], 0.0] for n, name in enumerate(("srow_x", "srow_y", "srow_z"))}
    path = write_usual(
        tmp_path / "c.nii", VOXELS.transpose(axes).copy(), pixdim=pixdim, qform_code=0, xyzt_units=10, **rows
    )
    cine = nifti.read_cine(path, frame_ms=None)
    np.testing.assert_array_equal(cine.voxels.numpy(), VOXELS.T)
    torch.testing.assert_close(cine.affine[:3, :3], torch.tensor([[0, 0, -1.5], [0, -1.25, 0], [10.0, 0, 0]]).double())
    assert cine.frame_ms == pytest.approx(31.25)
    assert "axes-reordered" in cine.flags


@pytest.mark.parametrize(("value", "frames"), [(0.003349, 20), (2.0, 20), (0.2, 20), (0.009, 20), (-0.03, 20)])
def test_time_step_that_no_heart_has_is_named(tmp_path: Path, value: float, frames: int) -> None:
    pixdim = [*USUAL_MM[:4], value, 0, 0, 0]
    path = write_usual(tmp_path / "c.nii", np.zeros((4, 5, 3, frames), np.int16), pixdim=pixdim, xyzt_units=10)
    header = nifti.inspect_cine(path)
    assert (header.frame_ms, header.flags) == (None, ("time-step-implausible",))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_all_kinds_of_numbers_are_read(tmp_path: Path, kind: type[np.generic], suffix: str) -> None:
    array = (VOXELS % 100).astype(kind)
    cine = nifti.read_cine(write_usual(tmp_path / f"c{suffix}", array, scl_slope=2.0, scl_inter=1.0), frame_ms=None)
    np.testing.assert_array_equal(cine.voxels.numpy(), array.T.astype(np.float32) * 2 + 1)


def test_big_endian_and_nifti_2_are_read(tmp_path: Path) -> None:
    affine = np.diag([-1.5, -1.25, 10.0, 1.0])
    swapped = nib.Nifti1Image(VOXELS, affine, header=nib.Nifti1Header(endianness=">"))
    for name, image in (("swapped", swapped), ("two", nib.Nifti2Image(VOXELS, affine))):
        nib.save(image, tmp_path / f"{name}.nii")
        np.testing.assert_array_equal(nifti.read_cine(tmp_path / f"{name}.nii", frame_ms=None).voxels.numpy(), VOXELS.T)


def test_big_file_takes_no_more_memory_than_its_voxels(tmp_path: Path) -> None:
    path = tmp_path / "big.nii"
    write_usual(path, np.zeros((64, 64, 16, 2), np.float64))
    with path.open("r+b") as file:
        file.truncate(352 + 64 * 64 * 16 * 200 * 8)  # a hole: no space on disk
        file.seek(40)
        file.write(np.array([4, 64, 64, 16, 200, 1, 1, 1], "<i2").tobytes())
    tracemalloc.start()
    cine = nifti.read_cine(path, frame_ms=None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * 4 * cine.voxels.numel()
    assert nifti.inspect_cine(path).frames == 200


def test_image_that_no_scanner_makes_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_usual(tmp_path / "c.nii", VOXELS, dim=[4, 2048, 2048, 100, 2, 1, 1, 1], datatype=2, bitpix=8)
    with path.open("r+b") as file:
        file.truncate(2**30)
    with pytest.raises(CmnetError, match="the limit is") as caught:
        nifti.inspect(path)
    assert caught.value.code is ErrorCode.IMAGE_DIMENSIONS
