"""Values of reference masks: other conventions are mapped, and a wrong one is recognised by its geometry."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cmnet_core.errors import LabelError
from cmnet_core.io.label_values import LabelValues, parse_label_map, write_label_map
from cmnet_core.labels import Label, LabelScheme


def mask(*, lv: int = 1, myo: int = 2, rv: int = 3, frames: int = 1) -> NDArray[np.int64]:
    """Discs of LV in a ring of myocardium beside an RV; the ring of the last slice is open."""
    y, x = np.mgrid[-24:24, -24:24]
    planes = np.zeros((frames, 3, 48, 48), dtype=np.int64)
    planes[..., np.hypot(y, x + 13) < 8] = rv
    planes[..., np.hypot(y, x - 4) < 12] = myo
    planes[..., np.hypot(y, x - 4) < 8] = lv
    planes[:, 2, 24:, 24:][planes[:, 2, 24:, 24:] == myo] = 0
    return planes


EXPECTED = mask().astype(np.uint8)


@pytest.mark.parametrize(
    ("scheme", "text", "values"),
    [
        (LabelScheme.CMNET, "", mask()),
        (LabelScheme.ACDC, "", mask(lv=3, rv=1)),
        (LabelScheme.CMNET, "500=1,200=2,600=3", mask(lv=500, myo=200, rv=600)),
        (LabelScheme.CMNET, "4=3", mask(rv=4)),
    ],
)
def test_values_become_labels(scheme: LabelScheme, text: str, values: NDArray[np.int64]) -> None:
    mapping = parse_label_map(text) if text else ()
    np.testing.assert_array_equal(LabelValues(scheme, mapping).to_labels(values), EXPECTED)


def test_label_map_round_trip() -> None:
    mapping = parse_label_map(" 500=1; 200=2, 9=0")
    assert mapping == ((500, Label.LV), (200, Label.MYO), (9, Label.BACKGROUND))
    assert parse_label_map(write_label_map(mapping)) == mapping


@pytest.mark.parametrize("text", ["", "500", "500=4", "500=lv", "1=1,1=2", "a=1"])
def test_label_map_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_label_map(text)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (mask(lv=500, myo=200, rv=600), "500=1,200=2,600=3"),
        (mask(lv=170, myo=85, rv=255), "170=1,85=2,255=3"),
        (mask(rv=4), "1=1,2=2,4=3"),
        (mask() * 0.7, "nearest neighbours"),
    ],
)
def test_unknown_values_are_refused_with_their_map(values: NDArray[np.float64], hint: str) -> None:
    with pytest.raises(LabelError) as caught:
        LabelValues(LabelScheme.CMNET).to_labels(values)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("scheme", "values", "hint"),
    [
        (LabelScheme.CMNET, mask(lv=3, rv=1, frames=4), "label_scheme to 'acdc'"),
        (LabelScheme.ACDC, mask(), "label_scheme to 'cmnet'"),
        (LabelScheme.MNMS, mask(lv=2, myo=1), "2=1,1=2,3=3"),
    ],
)
def test_values_of_another_scheme_are_recognised(scheme: LabelScheme, values: NDArray[np.int64], hint: str) -> None:
    with pytest.raises(LabelError, match="encloses") as caught:
        LabelValues(scheme).to_labels(values)
    assert hint in caught.value.hint


def test_masks_without_a_closed_ring_are_not_judged() -> None:
    values = mask(lv=3, rv=1)[:, 2:]
    assert set(np.unique(LabelValues(LabelScheme.CMNET).to_labels(values))) == {0, 1, 2, 3}
