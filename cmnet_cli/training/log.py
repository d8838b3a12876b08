"""The log of a training: one row per epoch as Parquet, a table on the terminal and, on request, TensorBoard."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmnet_cli.console import LiveTable
from cmnet_cli.tables.schema import read_rows, write_arrow
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.training.loop import EpochRecord

_TRIPLE = re.compile(r"(?P<metric>dice|hd95)_lv_(?P<phase>\w+?)_(?P<unit>pct|mm)")
_TITLES = {"dice": "Dice %", "hd95": "HD95 mm"}


def flat_row(record: EpochRecord) -> dict[str, Any]:
    """Return the record of an epoch as one row; epochs count from 1, and names of loss terms start with ``loss``."""
    losses = {name if name == "loss" else f"loss_{name}": value for name, value in record.loss.items()}
    row = {"epoch": record.epoch + 1, "seconds": record.seconds, "learning_rate": record.learning_rate}
    return row | losses | record.validation


class TrainingLog:
    """The Parquet log. It is complete after every epoch; an epoch that is repeated replaces its row.

    Args:
        path: The file.
        resume: Keep the rows of an interrupted training.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._rows = read_rows(path) if resume and path.exists() else []

    def add(self, record: EpochRecord) -> None:
        """Write the row of an epoch."""
        row = flat_row(record)
        self._rows = [before for before in self._rows if before["epoch"] < row["epoch"]] + [row]
        names = dict.fromkeys(name for row in self._rows for name in row)
        write_arrow(self._path, pa.table({name: [row.get(name) for row in self._rows] for name in names}))


class TensorBoardLog:
    """The same metrics for TensorBoard.

    Args:
        folder: The log folder of TensorBoard.

    Raises:
        ManifestError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ManifestError(
                "TensorBoard is not installed.",
                hint="Install it with: pip install 'cmnet[tensorboard]', or omit --tensorboard.",
                code=ErrorCode.CONFIG,
            ) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, record: EpochRecord) -> None:
        """Write the metrics of an epoch."""
        for name, value in flat_row(record).items():
            self._writer.add_scalar(name, value, record.epoch + 1)
        self._writer.flush()


def print_epoch(record: EpochRecord, live_table: LiveTable) -> None:
    """Add an epoch to the table on the terminal, or print a line with all of its metrics where there is no table."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in {**record.loss, **record.validation}.items())
    live_table.add(summary_cells(record), f"epoch {record.epoch + 1}: {metrics} ({record.seconds:.0f} s)")


def summary_cells(record: EpochRecord) -> dict[str, str]:
    """Return the main metrics of an epoch, with LV, myocardium and RV in one cell."""
    cells = {"epoch": str(record.epoch + 1), "loss": f"{record.loss['loss']:.4f}"}
    for name in record.validation:
        if found := _TRIPLE.fullmatch(name):
            metric, phase, unit = found["metric"], found["phase"], found["unit"]
            names = [f"{metric}_{structure}_{phase}_{unit}" for structure in ("lv", "myo", "rv")]
            cells[f"{_TITLES[metric]} {phase}"] = _joined(record.validation, names)
    if "folded_voxels" in record.validation:
        cells["folds"] = f"{record.validation['folded_voxels']:.1f}"
    return cells | {"s": f"{record.seconds:.0f}"}


def _joined(metrics: Mapping[str, float], names: list[str]) -> str:
    return " / ".join(f"{metrics[name]:.1f}" if name in metrics else "-" for name in names)
