"""Names of UK Biobank's data fields as columns of a table, in the styles of its tools."""

import re
from typing import NamedTuple

# p21003_i2, p21003_i2_a0, 21003-2.0, f.21003.2.0, and p31 or 24100 without an instance.
_COLUMN = re.compile(r"(?:p|f\.?)?(?P<field>\d{2,6})(?:(?:_i|[-.])(?P<instance>\d+))?(?:(?:_a|\.)\d+)?")


class UkbField(NamedTuple):
    """A data field, and the instance (visit) that a column holds; None where the column names no instance."""

    field: str
    instance: str | None


def parse_ukb_column(name: str) -> UkbField | None:
    """Return the data field that the name of a column stands for, or None where it is no field of UK Biobank.

    >>> parse_ukb_column("p21003_i2"), parse_ukb_column("f.31.0.0"), parse_ukb_column("lvef_pct")
    (UkbField(field='21003', instance='2'), UkbField(field='31', instance='0'), None)
    """
    match = _COLUMN.fullmatch(name)
    return UkbField(match["field"], match["instance"]) if match else None
