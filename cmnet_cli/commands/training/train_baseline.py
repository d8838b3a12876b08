"""The command train --method: a method that cmnet is compared with, from a manifest to its weights and card."""

import dataclasses
from dataclasses import replace
from typing import TypeAlias

import torch

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.commands.training.train import flat_settings, run_logged, train, training_device
from cmnet_cli.console import Messages
from cmnet_cli.execution.summary import print_unusable_rows
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import sha256_of
from cmnet_cli.runs.run_folder import record_command
from cmnet_cli.training.data import TrainingData, load_motion_data
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.models.baselines.build import BASELINES
from cmnet_core.models.baselines.checkpoint import BaselineCard, save_baseline
from cmnet_core.training import processes
from cmnet_core.training.baseline_stage import METRICS, train_baseline
from cmnet_core.training.stages import TrainingStage
from cmnet_core.training.training_case import TrainingCase


def train_stage_or_method(
    stage: TrainingStage | None, method: str | None, config: TrainConfig, training: TrainingRun
) -> int:
    """Train a stage of cmnet's own networks, or a method that cmnet is compared with.

    Returns:
        The number of subjects that could not be used.

    Raises:
        ManifestError: Both or neither is given, or see :func:`train_method` and
            :func:`cmnet_cli.commands.training.train.train`.
        CheckpointError: See there.
    """
    if stage is not None and method is None:
        return train(stage, config, training)
    if method is not None and stage is None:
        return train_method(method, config, training)
    raise ManifestError(
        "What to train is not clear: exactly one of --stage and --method must be given.",
        hint=f"Give --stage with one of {', '.join(TrainingStage)}, or --method with one of {', '.join(BASELINES)}.",
        code=ErrorCode.CONFIG,
    )


Data: TypeAlias = TrainingData[TrainingCase, TrainingCase]


def train_method(method: str, config: TrainConfig, training: TrainingRun, data: Data | None = None) -> int:
    """Train a method, together with the other processes of torchrun if there are any.

    Args:
        method: Name of the method.
        config: Settings; the table ``baseline`` is that of all methods.
        training: The input and the output.
        data: The cases of the manifest, where they have been loaded before.

    Returns:
        The number of subjects that could not be used.

    Raises:
        ManifestError: There is no such method, or the manifest, the settings or the options cannot be used.
        CheckpointError: The state to resume belongs to another training.
    """
    _require_usable(method, config, training)
    device = training_device(training.device)
    with processes.process_group(device):
        if processes.rank() > 0:
            training = replace(training, messages=Messages(quiet=True))
        return _train_in_this_process(method, config, training, device, data)


def _require_usable(method: str, config: TrainConfig, training: TrainingRun) -> None:
    if method not in BASELINES:
        raise ManifestError(
            f"There is no method '{method}' to train.",
            hint=f"Give one of {', '.join(BASELINES)}, or --stage for the networks of cmnet.",
            code=ErrorCode.CONFIG,
        )
    if training.init or training.teacher or training.fresh_motion:
        raise ManifestError(
            "--init, --teacher and --fresh-motion do not apply to --method, whose training starts from random weights.",
            hint="Leave these options out.",
            code=ErrorCode.CONFIG,
        )
    monitored = config.baseline.schedule.monitored
    if monitored and monitored not in METRICS:
        raise ManifestError(
            f"The setting monitored = '{monitored}' of baseline names no metric of the validation.",
            hint=f"Name one of {', '.join(METRICS)}, or set monitored = ''.",
            code=ErrorCode.CONFIG,
        )


def _train_in_this_process(
    method: str, config: TrainConfig, training: TrainingRun, device: torch.device, data: Data | None
) -> int:
    run, settings = RunFolder(training.out), config.baseline
    manifest = read_manifest(training.manifest)
    print_unusable_rows(manifest.left_out, training.messages)
    data = data or load_motion_data(
        manifest.cases, config.validate_every, spacing_mm=settings.spacing_mm, messages=training.messages
    )
    plain = dataclasses.asdict(settings)
    if processes.rank() == 0:
        record_command(run, f"train-{method}", manifest_digest=manifest.digest, settings=plain)
    network, metrics = run_logged(
        method,
        settings.schedule,
        lambda monitor: train_baseline(method, data.training, data.validation, settings=settings, monitor=monitor),
        identity={f"baseline.{name}": value for name, value in flat_settings(plain)}
        | {"method": method, "cases": data.digest[:12], "processes": str(processes.world_size())},
        checkpoint_minutes=config.checkpoint_minutes,
        training=training,
        device=device,
    )
    if processes.rank() == 0:
        card = BaselineCard(
            method=method,
            spacing_mm=settings.spacing_mm,
            window=settings.validation_window,
            training_data=config.training_data,
            terms=config.terms,
            version=__version__,
            training=plain,
            metrics=metrics,
        )
        path = run.weights(method)
        save_baseline(path, network, card)
        training.messages.result(f"{path} (sha256 {sha256_of(path)[:12]}…)")
    return data.left_out + len({problem.row for problem in manifest.left_out})
