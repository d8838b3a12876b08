"""Columns that set a subject beside other people."""

from cmnet_cli.tables.columns.column import Column
from cmnet_core.function.reference_ranges import RANGE_Z, Z_COLUMNS

_Z_SOURCE = "the table of reference ranges; the shipped one has none for the RV"

Z_SCORES = (
    *(
        Column(z, "number", f"{quantity} against healthy people of that sex", "SD", "(value - mean) / SD", _Z_SOURCE)
        for quantity, z in Z_COLUMNS.items()
    ),
    Column("reference_flags", "words", f"Values outside their reference range, mean ± {RANGE_Z} SD: lvedv-high, …"),
)
"""z-scores against the reference ranges."""
