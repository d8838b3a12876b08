"""The commands of the panel "Models and training": train, benchmark and models."""

import typer

from cmnet_cli.command_line.root import MODELS, execution_settings, exit_with, open_messages
from cmnet_cli.exit_code import ExitCode
from cmnet_cli.help_page import Command, Group
from cmnet_cli.option_groups import (
    BenchmarkOptions,
    EngineOptions,
    ExecutionOptions,
    PrivacyOptions,
    SelectionOptions,
    VerbosityOptions,
    expand_options,
)
from cmnet_cli.options import (
    DEFAULT_RUN,
    AsJson,
    Device,
    FreshMotion,
    InitWeights,
    KnownModel,
    ManifestFile,
    ModelName,
    OutFolder,
    Resume,
    StageOption,
    TeacherWeights,
    TensorBoard,
    TrainedMethod,
    TrainSettings,
)

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


models = typer.Typer(cls=Group, help="List, describe and verify trained models.", no_args_is_help=True)


@part.command(cls=Command, rich_help_panel=MODELS, short_help="Compare methods of motion estimation.")
@expand_options
def benchmark(
    manifest: ManifestFile,
    compared: BenchmarkOptions,
    selection: SelectionOptions,
    execution: ExecutionOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    out: OutFolder = DEFAULT_RUN,
    model: ModelName = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare methods of motion estimation on a cohort with reference masks at ED and ES, by one protocol.

    Examples:
        cmnet benchmark --manifest cohort.csv --out run --methods cardiomorphnet,syn
    """
    from cmnet_cli.commands.accuracy import benchmark as command

    names = (compared.listed(compared.methods), compared.listed(compared.exclude))
    request = command.BenchmarkRequest(*names, model or "default", compared.protocol, device)
    settings = execution_settings(selection, execution, engine)
    exit_with(command.benchmark(manifest, out, request, settings, open_messages(verbosity)), verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MODELS, short_help="Train the networks.")
@expand_options
def train(
    manifest: ManifestFile,
    verbosity: VerbosityOptions,
    stage: StageOption = None,
    method: TrainedMethod = None,
    out: OutFolder = DEFAULT_RUN,
    init: InitWeights = None,
    teacher: TeacherWeights = None,
    fresh_motion: FreshMotion = False,
    resume: Resume = False,
    config: TrainSettings = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
) -> None:
    """Train SegNet on reference masks, then a motion network on masks and on motion that is known.

    --method trains a method that cmnet is compared with instead of a stage of cmnet's own.
    The folder --out receives the weights, the metrics of every epoch (logs/train-STAGE.parquet) and, every few
    minutes, the state from which --resume continues. On several GPUs, run:
    torchrun --nproc-per-node N -m cmnet_cli train ...

    Examples:
        cmnet train --stage segnet --manifest cohort.csv --out weights
        cmnet train --stage motion --manifest cohort.csv --out weights --resume
    """
    from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
    from cmnet_cli.commands.training.train_baseline import train_stage_or_method
    from cmnet_cli.config import find_config, load_config

    settings = load_config(TrainConfig, find_config(config))
    training = TrainingRun(
        manifest,
        out,
        init,
        resume,
        open_messages(verbosity),
        device=device,
        fresh_motion=fresh_motion,
        teacher=tuple(teacher or ()),
        tensorboard=tensorboard,
    )
    left_out = train_stage_or_method(stage, method, settings, training)
    raise typer.Exit(ExitCode.SOME_FAILED if left_out else ExitCode.SUCCESS)


part.add_typer(models, name="models", rich_help_panel=MODELS)


@models.command("list", cls=Command, short_help="List the shipped models.")
def models_list(as_json: AsJson = False) -> None:
    """List the models that are part of cmnet.

    Examples:
        cmnet models list
    """
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.list_models(Messages(), as_json=as_json)


@models.command("info", cls=Command, short_help="Describe a model.")
def models_info(name: KnownModel, as_json: AsJson = False) -> None:
    """Show what a model was trained on, with which settings, its metrics and its terms of use.

    Examples:
        cmnet models info default
    """
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.show_model(name, Messages(), as_json=as_json)


@models.command("verify", cls=Command, short_help="Load every shipped model.")
def models_verify() -> None:
    """Load every shipped model and print its checksum.

    Examples:
        cmnet models verify
    """
    from cmnet_cli.commands import models as command
    from cmnet_cli.console import Messages

    command.verify_models(Messages())
