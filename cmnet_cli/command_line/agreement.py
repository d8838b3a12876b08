"""The commands that compare results with references: evaluate, calibrate and compare."""

from pathlib import Path

import typer

from cmnet_cli.command_line.root import MAIN, execution_settings, exit_with, open_messages
from cmnet_cli.help_page import Command
from cmnet_cli.option_groups import EngineOptions, PrivacyOptions, RecomputeOptions, SelectionOptions, expand_options
from cmnet_cli.options import (
    DEFAULT_RUN,
    AsJson,
    ConfigFile,
    DrawSeed,
    LabelMap,
    NewCalibration,
    OutsideTable,
    Population,
    ReferenceManifest,
    RunPath,
    Samples,
    SubjectColumn,
    VerdictsFile,
)

part = typer.Typer()
"""The commands of this part; :mod:`cmnet_cli.app` adds them to the command line."""


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Compare results with reference masks.")
@expand_options
def evaluate(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    manifest: ReferenceManifest = None,
    label_map: LabelMap = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare results with reference masks at ED and ES: Dice, surface distances, folding and clinical indices.

    Examples:
        cmnet evaluate --run run
        cmnet evaluate --run run --manifest masks.csv --label-map 500=1,200=2,600=3
    """
    from cmnet_cli.commands.accuracy import evaluate as command
    from cmnet_cli.config import EvaluateConfig, load_config

    settings = execution_settings(selection, execution, engine)
    loaded = load_config(EvaluateConfig, config)
    summary = command.evaluate(run, manifest, loaded, settings, open_messages(verbosity), label_map=label_map)
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Calibrate the intervals on subjects with masks.")
@expand_options
def calibrate(
    selection: SelectionOptions,
    execution: RecomputeOptions,
    engine: EngineOptions,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    manifest: ReferenceManifest = None,
    out: NewCalibration = Path("calibration.json"),
    population: Population = None,
    samples: Samples = None,
    seed: DrawSeed = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate the 95 % intervals on subjects with reference masks, for cmnet indices --calibration.

    Examples:
        cmnet calibrate --run run --manifest masks.csv --out calibration.json
    """
    from cmnet_cli.commands import calibrate as command
    from cmnet_cli.config import IndicesConfig, load_config
    from cmnet_cli.stages.intervals import SamplingSettings

    config = load_config(IndicesConfig, None, samples=samples, seed=seed)
    draws = SamplingSettings(config.samples, config.seed)
    settings = execution_settings(selection, execution, engine)
    summary = command.calibrate(run, manifest, out, draws, settings, open_messages(verbosity), population=population)
    exit_with(summary, verbosity, as_json=as_json)


@part.command(cls=Command, rich_help_panel=MAIN, short_help="Compare the indices with another table.")
@expand_options
def compare(
    against: OutsideTable,
    verbosity: PrivacyOptions,
    run: RunPath = DEFAULT_RUN,
    on: SubjectColumn = "subject_id",
    verdicts: VerdictsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the indices with another table, such as UK Biobank's fields: bias, limits of agreement, ICC, CCC.

    Examples:
        cmnet compare --run run --against ukb-fields.csv --on eid
    """
    from cmnet_cli.commands import compare as command

    command.compare(run, against, open_messages(verbosity), on=on, as_json=as_json, verdicts=verdicts)
