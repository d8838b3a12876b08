"""The part of an evaluation about corrections: what the edited masks changed."""

from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.correction_changes import CorrectionChanges
from cmnet_cli.tables.schema import write_table

Row = dict[str, Any]

_SHOWN = ("lvedv_ml", "lvesv_ml", "lvef_pct", "lvm_g", "rvedv_ml", "rvesv_ml", "rvef_pct", "gcs_line_midwall_peak_pct")
_OVERLAP_HEAD = ("frames", "structure", "n", "mean DSC %", "smallest DSC %")
_INDEX_HEAD = ("index", "n", "mean automatic", "mean corrected", "mean change", "largest change")


def write_corrections(folder: RunFolder, found: Sequence[CorrectionChanges], messages: Messages) -> None:
    """Write the tables about corrections, also where there are none, and print their summary.

    Args:
        folder: The run folder.
        found: The changes of every corrected case.
        messages: The console.
    """
    overlaps = list(chain.from_iterable(item.overlaps for item in found))
    indices = list(chain.from_iterable(item.indices for item in found))
    write_table(folder.table("correction_overlaps"), "correction_overlaps", overlaps)
    write_table(folder.table("correction_indices"), "correction_indices", indices)
    if not found:
        return
    messages.table(f"Corrected masks of {len(found)} subject(s), automatic and corrected", _OVERLAP_HEAD, [
        _overlap_cells(title, structure, [row for row in overlaps if row["edited"] == edited])
        for edited, title in ((1, "edited"), (0, "propagated"))
        for structure in ("lv", "myo", "rv")
    ])  # fmt: skip
    messages.table("Indices, corrected - automatic", _INDEX_HEAD, [_index_cells(name, indices) for name in _SHOWN])


def _overlap_cells(title: str, structure: str, rows: Sequence[Row]) -> list[str]:
    values = [row["dsc_pct"] for row in rows if row["structure"] == structure and row["dsc_pct"] is not None]
    numbers = [f"{fmean(values):.1f}", f"{min(values):.1f}"] if values else ["", ""]
    return [title, structure, str(len(values)), *numbers]


def _index_cells(name: str, rows: Sequence[Row]) -> list[str]:
    both = [
        (row["automatic"], row["corrected"])
        for row in rows
        if row["index"] == name and None not in (row["automatic"], row["corrected"])
    ]
    if not both:
        return [name, "0", "", "", "", ""]
    changes = [after - before for before, after in both]
    means = [fmean(values) for values in (*zip(*both, strict=True), changes)]
    return [name, str(len(both)), *(f"{value:.1f}" for value in (*means, max(changes, key=abs)))]
