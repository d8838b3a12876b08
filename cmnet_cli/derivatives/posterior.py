"""The posterior of the networks on disk: a few hundred kB, from which intervals are sampled without a network."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmnet_cli.derivatives.arrays import open_arrays
from cmnet_cli.derivatives.tracking import RUN_AGAIN
from cmnet_core.io.atomic import replacing
from cmnet_core.uncertainty.posterior import LEAST_PROBABILITY, Posterior

# Quantisation steps of log-odds and log σ, whose error is small compared with the width of an interval.
_LOG_ODDS_QUANTUM = 1 / 8
_LOG_SD_QUANTUM = 1 / 20
_LEVELS = 127


def write_posterior(path: Path, posterior: Posterior) -> None:
    """Store a posterior with one byte per value."""
    log_odds = posterior.shapes.clamp_min(LEAST_PROBABILITY).log()
    log_odds = log_odds[:, 1:] - log_odds[:, :1]
    quantum = max(float(posterior.factor.abs().max()) / _LEVELS, 1e-12)
    with replacing(path) as partial:
        np.savez_compressed(
            partial,
            log_odds=_quantised(log_odds, _LOG_ODDS_QUANTUM),
            log_sd=_quantised(posterior.log_sd, _LOG_SD_QUANTUM),
            factor=_quantised(posterior.factor, quantum),
            factor_quantum=np.float64(quantum),
        )


def _quantised(values: Tensor, quantum: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.int8]]":
    whole: Tensor = torch.round(values.detach().cpu() / quantum).clamp(-_LEVELS, _LEVELS)
    return whole.numpy().astype(np.int8)


def read_posterior(path: Path) -> Posterior:
    """Read the posterior that :func:`write_posterior` stored.

    Raises:
        ImageError: The file is missing or damaged.
    """
    with open_arrays(path, content="stored posterior", hint=RUN_AGAIN) as stored:
        log_odds = _LOG_ODDS_QUANTUM * torch.from_numpy(stored["log_odds"]).float()
        background = torch.zeros_like(log_odds[:, :1])
        return Posterior(
            shapes=torch.cat([background, log_odds], dim=1).softmax(1),
            log_sd=_LOG_SD_QUANTUM * torch.from_numpy(stored["log_sd"]).float(),
            factor=float(stored["factor_quantum"]) * torch.from_numpy(stored["factor"]).float(),
        )
