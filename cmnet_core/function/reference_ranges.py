"""Reference ranges by sex and age, and z-scores against them.

The shipped table, ``reference_ranges.csv``, counts papillary muscles as part of the LV cavity, as cmnet's labels do; a
table that counts them as myocardium would shift volumes and mass. It has no ranges for the RV.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.flags import QCFlag

SHIPPED = Path(__file__).with_name("reference_ranges.csv")
"""The shipped table of reference ranges."""

Z_COLUMNS: Mapping[str, str] = {
    "lvedv_ml": "lvedv_z",
    "lvesv_ml": "lvesv_z",
    "lvsv_ml": "lvsv_z",
    "lvef_pct": "lvef_z",
    "lvm_g": "lvm_z",
    "lvedv_index_ml_m2": "lvedv_index_z",
    "lvesv_index_ml_m2": "lvesv_index_z",
    "lvsv_index_ml_m2": "lvsv_index_z",
    "lvm_index_g_m2": "lvm_index_z",
    "rvedv_ml": "rvedv_z",
    "rvesv_ml": "rvesv_z",
    "rvsv_ml": "rvsv_z",
    "rvef_pct": "rvef_z",
    "rvedv_index_ml_m2": "rvedv_index_z",
    "rvesv_index_ml_m2": "rvesv_index_z",
    "rvsv_index_ml_m2": "rvsv_index_z",
    "cardiac_output_l_min": "cardiac_output_z",
}
"""Quantities that may have a reference range, each with the column of its z-score."""

RANGE_Z = 1.96
"""Half the width of a reference range in standard deviations; the range contains 95 % of healthy people."""

_REQUIRED = ("quantity", "sex", "mean", "sd")
_OPTIONAL = ("table", "age_from", "age_to", "source", "bias")
_SEXES = ("female", "male")


@dataclass(frozen=True, slots=True)
class ReferenceRange:
    """Mean and standard deviation of one quantity in healthy people of one sex.

    Attributes:
        quantity: Column of the table indices, in its unit.
        sex: ``female`` or ``male``.
        mean: Mean of the quantity.
        sd: Standard deviation between people.
        ages: Lowest and highest age in years, both included.
        table: Name and version of the table.
        source: Publication from which the values are taken.
        bias: Mean difference of cmnet from the readers of that publication, or from other readers of the same protocol;
            it is subtracted from the value.
    """

    quantity: str
    sex: str
    mean: float
    sd: float
    ages: tuple[float, float] = (0.0, math.inf)
    table: str = ""
    source: str = ""
    bias: float = 0.0

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the range on the scale of cmnet's values, mean + bias ± 1.96 SD."""
        centre = self.mean + self.bias
        return centre - RANGE_Z * self.sd, centre + RANGE_Z * self.sd

    def covers_age(self, age_years: float | None) -> bool:
        """Return whether the range applies at this age; a range for all ages applies at an unknown age, too.

        Args:
            age_years: Age in years, or None.
        """
        if age_years is None:
            return self.ages == (0.0, math.inf)
        return self.ages[0] <= age_years <= self.ages[1]


@dataclass(frozen=True, slots=True)
class ReferenceComparison:
    """Comparison of one subject with healthy people.

    Attributes:
        z: z-score by column, one for each of :data:`Z_COLUMNS`; None where it is not known.
        outside: ``lvedv-high``, ``lvef-low`` and the like, one for each value outside its range.
        flags: Reasons why z-scores are missing or of limited reliability.
    """

    z: dict[str, float | None]
    outside: tuple[str, ...]
    flags: tuple[str, ...]


def compare_with_reference(
    values: Mapping[str, float | None], ranges: tuple[ReferenceRange, ...], *, sex: str | None, age_years: float | None
) -> ReferenceComparison:
    """Compute z-scores ``(value - bias - mean) / sd`` against healthy people of the same sex and age.

    Args:
        values: Quantities by column.
        ranges: Reference ranges.
        sex: ``female``, ``male``, or None, with which all z-scores are None.
        age_years: Age in years. Outside all ages of the table the only range of the sex is used, and a flag is raised.
    """
    z: dict[str, float | None] = dict.fromkeys(Z_COLUMNS.values())
    if sex is None:
        return ReferenceComparison(z, (), (QCFlag.NO_SEX,))
    outside, flags = [], []
    for quantity, column in Z_COLUMNS.items():
        value, chosen = values.get(quantity), choose_range(ranges, quantity, sex=sex, age_years=age_years)
        if any(r.quantity == quantity and r.sex == sex for r in ranges) and not (
            chosen and chosen.covers_age(age_years)
        ):
            flags.append(QCFlag.AGE_OUTSIDE_REFERENCE)
        if value is None or chosen is None:
            continue
        score = z[column] = (value - chosen.bias - chosen.mean) / chosen.sd
        if abs(score) > RANGE_Z:
            outside.append(f"{column.removesuffix('_z').replace('_', '-')}-{'high' if score > 0 else 'low'}")
    return ReferenceComparison(z, tuple(outside), tuple(dict.fromkeys(flags)))


def choose_range(
    ranges: tuple[ReferenceRange, ...], quantity: str, *, sex: str, age_years: float | None
) -> ReferenceRange | None:
    """Choose the range that a subject is compared with: that of its sex and age, else the only one of its sex.

    Args:
        ranges: Reference ranges.
        quantity: Column of the table indices.
        sex: ``female`` or ``male``.
        age_years: Age in years, or None.
    """
    of_sex = [r for r in ranges if r.quantity == quantity and r.sex == sex]
    of_age = [r for r in of_sex if r.covers_age(age_years)]
    chosen = of_age or (of_sex if len(of_sex) == 1 else [])
    return chosen[0] if chosen else None


def read_reference(path: Path) -> tuple[ReferenceRange, ...]:
    """Read a table of reference ranges (CSV: quantity, sex, mean, sd; optional table, age_from, age_to, source, bias).

    Args:
        path: The table.

    Raises:
        ManifestError: The table cannot be used; the message gives the row and the reason.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    unknown = sorted(set(header) - {*_REQUIRED, *_OPTIONAL})
    missing = [name for name in _REQUIRED if name not in header]
    if missing or unknown or not rows:
        raise _unusable(path, f"lacks {', '.join(missing) or 'rows'}" if not unknown else f"has unknown {unknown}")
    ranges = tuple(_range(path, number, row) for number, row in enumerate(rows, start=2))
    _refuse_overlap(path, ranges)
    return ranges


def _range(path: Path, number: int, row: Mapping[str, str | None]) -> ReferenceRange:
    quantity, sex = (row["quantity"] or "").strip(), (row["sex"] or "").strip()
    if quantity not in Z_COLUMNS:
        raise _unusable(path, f"row {number}: there is no z-score of '{quantity}', only of {', '.join(Z_COLUMNS)}")
    if sex not in _SEXES:
        raise _unusable(path, f"row {number}: sex must be female or male, found '{sex}'")
    ends = (row.get("age_from") or "0", row.get("age_to") or "inf")
    try:
        mean, sd, bias = float(row["mean"] or ""), float(row["sd"] or ""), float(row.get("bias") or "0")
        ages = (float(ends[0]), float(ends[1]))
    except ValueError as error:
        raise _unusable(path, f"row {number}: {error}") from error
    if not (math.isfinite(mean) and math.isfinite(bias) and math.isfinite(sd) and sd > 0 and ages[0] <= ages[1]):
        raise _unusable(path, f"row {number}: expected a finite mean and bias, an sd above 0 and age_from up to age_to")
    return ReferenceRange(quantity, sex, mean, sd, ages, row.get("table") or path.stem, row.get("source") or "", bias)


def _refuse_overlap(path: Path, ranges: tuple[ReferenceRange, ...]) -> None:
    for number, later in enumerate(ranges):
        for earlier in ranges[:number]:
            same = (earlier.quantity, earlier.sex) == (later.quantity, later.sex)
            if same and later.ages[0] <= earlier.ages[1] and earlier.ages[0] <= later.ages[1]:
                raise _unusable(path, f"has two ranges of {later.quantity} for the same {later.sex} ages")


def _unusable(path: Path, why: str) -> ManifestError:
    return ManifestError(
        f"The reference ranges {path}: the table {why}.",
        hint="Give a CSV with the columns quantity, sex, mean and sd; docs/outputs.md has an example.",
        code=ErrorCode.REFERENCE_RANGES,
    )
