"""All that a visit to the scanner leaves behind: the short-axis cine has to be found in it, and its defects named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cmnet_core.errors import CmnetError, ErrorCode
from cmnet_core.io import dicom
from tests.dicoms import Image, dicom_bytes, stack

EXPECTED = 100.0 * np.arange(4)[None, :] + np.arange(6.0)[:, None]


def folder_of(path: Path, images: Sequence[Image]) -> Path:
    path.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (path / f"IM{number:04d}").write_bytes(dicom_bytes(image))
    return path


def values(path: Path) -> np.ndarray:
    """The number each slice and phase holds: (t, z)."""
    return dicom.read_cine(path, frame_ms=None).voxels[:, :, 0, 0].numpy()


def others(description: str, *, slices: int, phases: int, normal: str = "sax", offset_mm: float = 0.0) -> list[Image]:
    """Series that lies beside the cine, with more images than it has."""
    return [
        i.changed(value=3000.0, series=50, description=description, normal=normal, position_mm=9.0 * i.z + offset_mm)
        for i in stack(slices=slices, phases=phases)
    ]


@pytest.mark.parametrize(
    ("description", "normal"),
    [
        ("CINE_segmented_LAX_4Ch", "lax"),
        ("cine_tagging_3sl_SAX_b1s", "sax"),
        ("ShMOLLI_192i_SAX_b2s_SAX_b2s_SAX_b2s_T1MAP", "sax"),
        ("CINE_segmented_SAX_InlineVF", "sax"),
        ("flow_250_tp_AoV_bh_ePAT@c_P", "sax"),
        ("CINE_segmented_Ao_dist", "sax"),
        ("SAX localizer", "sax"),
        ("cine without a name that tells", "lax"),
        ("cine without a name that tells", "sax"),
    ],
)
def test_short_axis_is_told_from_other_series(tmp_path: Path, description: str, normal: str) -> None:
    named = [i.changed(description=f"CINE_segmented_SAX_b{i.z + 1}", series=i.z) for i in stack(slices=4, phases=6)]
    folder = folder_of(tmp_path / "d", [*others(description, slices=6, phases=8, normal=normal), *named])
    np.testing.assert_allclose(values(folder), EXPECTED)
    assert dicom.inspect(folder).flags == ()


def test_orientation_decides_where_no_name_does(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", [*others("", slices=6, phases=8, normal="lax"), *others("", slices=1, phases=1)])
    folder_of(folder, stack(slices=4, phases=6) + others("", slices=6, phases=8, normal="lax"))
    np.testing.assert_allclose(values(folder), EXPECTED)
    lone = folder_of(tmp_path / "lax", others("", slices=6, phases=8, normal="lax"))
    assert dicom.inspect(lone).flags == ("orientation-unusual",)


def test_long_axes_alone_are_refused_without_their_description(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", others("CINE_segmented_LAX_2Ch", slices=1, phases=8, normal="lax"))
    with pytest.raises(CmnetError, match="only series of other views: 1 of 8 images") as caught:
        dicom.inspect(folder)
    assert caught.value.code is ErrorCode.DICOM
    assert "CINE_segmented_LAX_2Ch" not in caught.value.message


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.cvs"])
def test_manifest_of_the_data_bank_names_what_headers_do_not(tmp_path: Path, name: str) -> None:
    cine, aorta = stack(slices=4, phases=6), others("", slices=6, phases=8)
    folder = folder_of(tmp_path / "d", [*cine, *aorta])
    series = [*(f"CINE_segmented_SAX_b{i.z + 1}" for i in cine), *["CINE_segmented_Ao_dist"] * len(aorta)]
    rows = [f"IM{n:04d},9900001,MR,Nov {n % 28 + 1}, 2014 10:03:11,{what}" for n, what in enumerate(series)]
    head = "filename,patientid,modality,date,series discription"
    (folder / name).write_text("\n".join([head, *rows, "a broken line, with, commas", ""]))
    np.testing.assert_allclose(values(folder), EXPECTED)


def test_slices_recorded_again_after_a_breath_replace_the_first(tmp_path: Path) -> None:
    """A whole stack again, 2 mm further: the first one's odd end is not an eleventh slice."""
    first = [i.changed(value=i.value + 5000, series=1, position_mm=9.0 * i.z - 2.0) for i in stack(slices=4, phases=6)]
    again = [i.changed(series=2) for i in stack(slices=4, phases=6)]
    folder = folder_of(tmp_path / "d", [*again, *first])
    np.testing.assert_allclose(values(folder), EXPECTED)
    assert dicom.inspect(folder).flags == ("repeated-slices",)


def test_slice_recorded_twice_within_one_series(tmp_path: Path) -> None:
    images = [i.changed(phases_told=True) for i in stack(slices=4, phases=6)]
    first = [i.changed(value=i.value + 5000, step_ms=42.0, instance=i.z * 100 - 50 + int(i.phase)) for i in images]
    folder = folder_of(tmp_path / "d", [*images, *(i for i in first if i.z == 2)])
    np.testing.assert_allclose(values(folder), EXPECTED)
    assert dicom.inspect(folder).flags == ("repeated-slices",)


def test_frames_of_the_next_beat_are_dropped(tmp_path: Path) -> None:
    longer = [Image(2, t, 200.0 + t, 6) for t in (6, 7)]
    folder = folder_of(tmp_path / "d", [*stack(slices=4, phases=6), *longer])
    np.testing.assert_allclose(values(folder), EXPECTED)
    assert dicom.inspect(folder).flags == ("phases-dropped",)


def test_slices_with_other_rows_and_columns_are_brought_onto_one_grid(tmp_path: Path) -> None:
    images = [i for i in stack(slices=4, phases=6) if i.z != 1]
    wide = [i.changed(shape=(8, 9), right_mm=-2 * 1.25) for i in stack(slices=4, phases=6) if i.z == 1]
    coarse = folder_of(tmp_path / "coarse", [*images, *(i.changed(pixel_mm=(3.0, 2.5)) for i in wide)])
    cine = dicom.read_cine(folder_of(tmp_path / "wide", [*images, *wide]), frame_ms=None)
    np.testing.assert_allclose(cine.voxels[:, :, 5, 4].numpy(), EXPECTED)
    assert (cine.spacing.x, cine.flags) == (1.25, ("slices-resampled",))
    np.testing.assert_allclose(values(coarse), EXPECTED)


def test_shifted_slice_is_moved_back(tmp_path: Path) -> None:
    moved = [i.changed(right_mm=2.5 if i.z == 3 else 0.0) for i in stack(slices=4, phases=6)]
    cine = dicom.read_cine(folder_of(tmp_path / "d", moved), frame_ms=None)
    assert cine.flags == ("slices-shifted",)
    np.testing.assert_allclose(cine.voxels[1, 3, 0].numpy(), [0, 0, 301, 301, 301], atol=1e-3)


def test_trigger_times_that_round_to_the_same_are_two_phases(tmp_path: Path) -> None:
    images = [i.changed(phases_told=True) for i in stack(slices=4, phases=6)]
    same = [i.changed(phase=2, instance=100 * i.z + 3) if i.z == 1 and i.phase == 3 else i for i in images]
    np.testing.assert_allclose(values(folder_of(tmp_path / "d", same)), EXPECTED)
