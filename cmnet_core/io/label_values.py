"""The values of a reference mask, and the tissue that each stands for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cmnet_core.errors import ErrorCode, LabelError
from cmnet_core.labels import Label, LabelScheme

LabelMapping = tuple[tuple[int, Label], ...]
"""Values of a mask and the tissue of each."""

ENCLOSED_FRACTION = 0.25
"""One tissue encloses another if this fraction of the latter is in the holes of the former, slice by slice."""

MOST_VALUES = 16
"""Most values of a mask for which a mapping is suggested."""

PLANES = 24
"""Number of labelled slices that are judged, spread over all frames."""

FEWEST_ENCLOSED = 20
"""Fewest voxels in holes from which the values of a mask are judged."""


def parse_label_map(text: str) -> LabelMapping:
    """Read a mapping of label values such as ``500=1,200=2,600=3``: 0 background, 1 LV, 2 myocardium, 3 RV.

    >>> parse_label_map("500=1, 200=2")
    ((500, <Label.LV: 1>), (200, <Label.MYO: 2>))

    Raises:
        ValueError: The text is no such mapping, or it names a value twice.
    """
    pairs = [part.split("=") for part in text.replace(";", ",").split(",") if part.strip()]
    mapping = tuple((int(value), Label(int(tissue))) for value, tissue in pairs)
    if not mapping or len(dict(mapping)) < len(mapping):
        raise ValueError(f"no mapping of label values: {text}")
    return mapping


def write_label_map(mapping: LabelMapping) -> str:
    """Write a mapping as :func:`parse_label_map` reads it."""
    return ",".join(f"{value}={int(tissue)}" for value, tissue in mapping)


@dataclass(frozen=True, slots=True)
class LabelValues:
    """The tissue of each value of a mask.

    Attributes:
        scheme: Label convention of the mask.
        mapping: Values that differ from it.
    """

    scheme: LabelScheme
    mapping: LabelMapping = ()

    def to_labels(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a mask in the labels of cmnet.

        Raises:
            LabelError: A value has no tissue, or the values are those of another scheme.
        """
        tissues = dict(enumerate(self.scheme.labels)) | dict(self.mapping)
        found = np.unique(values)
        unknown = [value for value in found if value not in tissues]
        if unknown:
            raise LabelError(
                f"Label scheme '{self.scheme}' has the values {_listed(sorted(tissues))}; "
                f"found {_listed(unknown[:8])}.",
                hint=_remedy(values, found),
                code=ErrorCode.LABEL_VALUES,
            )
        labels = np.zeros(values.shape, dtype=np.uint8)
        for value in found:
            labels[values == value] = tissues[int(value)]
        self._require_fitting(values, labels)
        return labels

    def _require_fitting(self, values: NDArray[Any], labels: NDArray[np.uint8]) -> None:
        enclosed = _enclosing(labels)
        if enclosed is None or enclosed == (Label.MYO, Label.LV):
            return
        outer, inner = (Label(value).name for value in enclosed)
        hint = _remedy(values, np.unique(values))
        for scheme in LabelScheme:
            if not self.mapping and scheme.labels != self.scheme.labels and _fits(values, scheme):
                hint = f"Set label_scheme to '{scheme}' in the manifest."
                break
        raise LabelError(
            f"The values of this mask do not fit label_scheme '{self.scheme}': what it calls {outer} encloses what it "
            f"calls {inner}.",
            hint=hint,
            code=ErrorCode.LABEL_VALUES,
        )


def _fits(values: NDArray[Any], scheme: LabelScheme) -> bool:
    """Whether the myocardium of a scheme encloses its LV."""
    outer, inner = (scheme.labels.index(tissue) for tissue in (Label.MYO, Label.LV))
    return _enclosing(values) == (outer, inner)


def _remedy(values: NDArray[Any], found: NDArray[Any]) -> str:
    if any(float(value) % 1 != 0 for value in found):
        return "Values between whole numbers come from interpolation: resample the mask with nearest neighbours."
    example = "500=1,200=2,600=3"
    enclosed = _enclosing(values) if len(found) <= MOST_VALUES else None
    if enclosed is not None:
        outer, inner = enclosed
        others = [int(value) for value in found if value not in (0, outer, inner)]
        example = ",".join([f"{inner}=1", f"{outer}=2", *(f"{value}=3" for value in others[:1])])
        example = ",".join([example, *(f"{value}=0" for value in others[1:4])])
    return (
        "Name the tissue of each value by --label-map or in the column label_map (0 background, 1 LV, 2 myocardium, "
        f"3 RV), for instance {example}, or set the correct label_scheme: {', '.join(LabelScheme)}."
    )


def _enclosing(values: NDArray[Any]) -> tuple[int, int] | None:
    """Return the value whose regions enclose another one, and that one; None where no value clearly does.

    The myocardium encloses the LV, and nothing encloses the RV.
    """
    planes = values.reshape(-1, *values.shape[-2:])
    planes = planes[planes.any(axis=(1, 2))]
    planes = planes[np.unique(np.linspace(0, len(planes) - 1, PLANES).astype(int))] if len(planes) else planes
    tissues = [int(value) for value in np.unique(planes) if value != 0]
    best, most = None, FEWEST_ENCLOSED - 1
    for outer in tissues:
        in_holes = dict.fromkeys(tissues, 0)
        for plane in planes:
            ring = plane == outer
            if not ring.any():
                continue
            inside = plane[ndimage.binary_fill_holes(ring) & ~ring]
            for inner in tissues:
                in_holes[inner] += int((inside == inner).sum())
        for inner, count in in_holes.items():
            if count > most and count >= ENCLOSED_FRACTION * int((planes == inner).sum()):
                best, most = (outer, inner), count
    return best


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
