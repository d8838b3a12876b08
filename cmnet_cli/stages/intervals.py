"""95 % intervals of a row of the indices, from what infer stored of the networks' doubt."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch

from cmnet_cli.layout import CaseFolder
from cmnet_cli.sidecar import read_sidecar
from cmnet_cli.stages.stored import StoredCase
from cmnet_cli.stages.stored_posterior import read_posterior
from cmnet_core.calibration import find_calibration, intervals, spread
from cmnet_core.posterior import draw_indices

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Draws:
    """How intervals are drawn.

    Attributes:
        samples: How many draws; 0 for no intervals.
        seed: What they start from; every subject starts from it, whoever else is in the cohort.
    """

    samples: int
    seed: int

    def generator(self) -> torch.Generator:
        """A generator at its start."""
        return torch.Generator().manual_seed(self.seed)


def with_intervals(row: Row, folder: CaseFolder, stored: StoredCase, draws: Draws) -> Row:
    """The row with the intervals of its volumes, or with the reason why there are none.

    Raises:
        ImageError: The stored posterior is damaged.
    """
    if not draws.samples or not folder.posterior.exists():
        reason = "posterior-not-stored" if draws.samples else "no-samples"
        return row | {"qc_flags": [*row["qc_flags"], reason]}
    posterior = read_posterior(folder.posterior)
    drawn = draw_indices(posterior, stored.facts.window.spacing, draws.generator())
    sd = spread([_numbers(asdict(found)) for found in islice(drawn, draws.samples)])
    sidecar = read_sidecar(folder.sidecar("infer"))
    calibration = find_calibration(sidecar.model_digest) if sidecar else None
    flags = row["qc_flags"] if calibration else [*row["qc_flags"], "intervals-not-calibrated"]
    return {**row, **intervals(row, sd, calibration), "qc_flags": flags}


def _numbers(values: Row) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if name != "flags"}
