"""What a training tells while it runs: a row an epoch as Parquet, a table on the screen, and TensorBoard if asked."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmnet_cli.console import LiveTable
from cmnet_cli.tables.schema import read_rows, write_arrow
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.training.loop import EpochRecord

_TRIPLE = re.compile(r"(?P<figure>dice|hd95)_lv_(?P<phase>\w+?)_(?P<unit>pct|mm)")
_SHOWN = {"dice": "Dice %", "hd95": "HD95 mm"}


def flat_row(record: EpochRecord) -> dict[str, Any]:
    """A record as one row; epochs count from 1, and terms of the loss begin with ``loss``."""
    losses = {name if name == "loss" else f"loss_{name}": value for name, value in record.loss.items()}
    told = {"epoch": record.epoch + 1, "seconds": record.seconds, "learning_rate": record.learning_rate}
    return told | losses | record.validation


class TrainingLog:
    """The Parquet log. It is whole after every epoch, and an epoch that is done again replaces its row.

    Args:
        path: Where it lies.
        resume: Go on with what is there.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._rows = read_rows(path) if resume and path.exists() else []

    def add(self, record: EpochRecord) -> None:
        """Write the row of one more epoch."""
        row = flat_row(record)
        self._rows = [before for before in self._rows if before["epoch"] < row["epoch"]] + [row]
        names = dict.fromkeys(name for row in self._rows for name in row)
        write_arrow(self._path, pa.table({name: [row.get(name) for row in self._rows] for name in names}))


class TensorBoardLog:
    """The same figures for TensorBoard.

    Args:
        folder: Where it looks for them.

    Raises:
        ManifestError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ManifestError(
                "TensorBoard is not installed.",
                hint="Install it with: pip install 'cmnet[tensorboard]', or leave --tensorboard out.",
                code=ErrorCode.CONFIG,
            ) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, record: EpochRecord) -> None:
        """Write the figures of one more epoch."""
        for name, value in flat_row(record).items():
            self._writer.add_scalar(name, value, record.epoch + 1)
        self._writer.flush()


def tell(record: EpochRecord, live_table: LiveTable) -> None:
    """Add an epoch to the table on the screen; all of its figures where there is no room for a table."""
    figures = {**record.loss, **record.validation}
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    live_table.row(short_cells(record), f"epoch {record.epoch + 1}: {told} ({record.seconds:.0f} s)")


def short_cells(record: EpochRecord) -> dict[str, str]:
    """The figures that decide, three structures in a cell."""
    cells = {"epoch": str(record.epoch + 1), "loss": f"{record.loss['loss']:.4f}"}
    for name in record.validation:
        if found := _TRIPLE.fullmatch(name):
            figure, phase, unit = found["figure"], found["phase"], found["unit"]
            names = [f"{figure}_{structure}_{phase}_{unit}" for structure in ("lv", "myo", "rv")]
            cells[f"{_SHOWN[figure]} {phase}"] = _joined(record.validation, names)
    if "folded_voxels" in record.validation:
        cells["folds"] = f"{record.validation['folded_voxels']:.1f}"
    return cells | {"s": f"{record.seconds:.0f}"}


def _joined(figures: Mapping[str, float], names: list[str]) -> str:
    return " / ".join(f"{figures[name]:.1f}" if name in figures else "-" for name in names)
