"""Columns that compare a subject with published reference ranges."""

from cmnet_cli.tables.columns.column import Column
from cmnet_core.function.reference_ranges import RANGE_Z, Z_COLUMNS

_SOURCE = "reference ranges by sex (indices --reference); the shipped table has none for the RV"

Z_SCORES = (
    *(
        Column(z, "number", f"z-score of {quantity} in the healthy population of the same sex", "SD",
               f"({quantity} - bias - mean) / SD", _SOURCE)
        for quantity, z in Z_COLUMNS.items()
    ),
    Column("reference_flags", "text_list", f"Quantities outside the reference range, |z| > {RANGE_Z}: lvedv-high, …"),
)  # fmt: skip
"""z-scores against the reference ranges."""
