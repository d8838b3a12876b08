"""The training of all methods that cmnet is compared with, on the same data.

``python -m cmnet_cli.commands.training.baseline_recipe --data ../shared/data --out baselines-run`` trains every method
for which ``cmnet_core/weights/baselines/recipe`` has a file; the same command continues after an interruption. The
weights are those of the package, and the validation patients of ACDC are seen by no training.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import read_manifest, write_manifest
from cmnet_cli.commands.demo import simulate_phantoms
from cmnet_cli.commands.simulate import simulate
from cmnet_cli.commands.training.recipe import DATA_SETS
from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.commands.training.train_baseline import Data, train_method
from cmnet_cli.config import load_config
from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import BaselineRecipeFolder
from cmnet_cli.training.data import load_motion_data
from cmnet_core.errors import CmnetError
from cmnet_core.io import atomic
from cmnet_core.models.baselines.checkpoint import BASELINE_WEIGHTS

RECIPE = BASELINE_WEIGHTS / "recipe"

SIMULATED_EVERY, SIMULATED_FRAMES, SIMULATED_SEED = 16, 8, 5
"""Cines are simulated from every n-th training patient, with this number of frames, from this seed."""

PHANTOMS, PHANTOM_FRAMES, PHANTOM_SEED = 24, 8, 73
"""Number of phantoms, their frames and their seed. With the simulated cines they are a quarter of the cases: patients
of ACDC have two frames, and a method that composes steps from frame to frame must learn from whole cycles as well."""


def train_baselines(
    recipe: Path, *, data: Path, out: Path, messages: Messages, device: str = "auto", only: Sequence[str] = ()
) -> list[Path]:
    """Train all methods, or those that an earlier call has not finished.

    Args:
        recipe: Folder with one TOML file per method, which is named by the method and has the settings of
            ``cmnet train --config``; all have the same voxel spacing.
        data: Folder of the data sets, as docs/data.md describes it.
        out: Folder to write to; every method has a run folder in it, and ``weights`` has the results.
        messages: Where to print.
        device: Name of the device, as on the command line.
        only: Names of the methods to train, in their order; empty for all.

    Returns:
        The weights of the methods.

    Raises:
        ManifestError: Data are missing.
        CmnetError: A training cannot continue.
    """
    folder = BaselineRecipeFolder(out)
    manifest = _write_manifest(data, folder, messages)
    methods = only or sorted(path.stem for path in recipe.glob("*.toml"))
    settings = {method: load_config(TrainConfig, recipe / f"{method}.toml") for method in methods}
    loaded: Data | None = None
    for method, config in settings.items():
        weights = folder.weights(method)
        if weights.exists():
            continue
        # The cases are loaded once, since all methods are trained on the same ones.
        loaded = loaded or load_motion_data(
            read_manifest(manifest).cases, 0, spacing_mm=config.baseline.spacing_mm, messages=messages
        )
        messages.note(method)
        run = folder.run(method)
        training = TrainingRun(manifest, run.root, None, resume=True, messages=messages, device=device)
        train_method(method, config, training, loaded)
        weights.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(weights, run.weights(method).read_bytes())
    return [folder.weights(method) for method in settings]


def _write_manifest(data: Path, folder: BaselineRecipeFolder, messages: Messages) -> Path:
    """Write the manifest of all methods: the training patients of ACDC, cines simulated from some, and phantoms."""
    if folder.manifest.exists():
        return folder.manifest
    training = [case for case in DATA_SETS["acdc"](data) if case.extra["split"] == "train"]
    folder.manifest.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(folder.simulation_source, _renumbered(training[::SIMULATED_EVERY]))
    simulate(
        folder.simulation_source,
        folder.simulation.root,
        messages,
        frames=SIMULATED_FRAMES,
        variants=1,
        seed=SIMULATED_SEED,
    )
    simulate_phantoms(folder.phantoms.root, messages, subjects=PHANTOMS, frames=PHANTOM_FRAMES, seed=PHANTOM_SEED)
    cycles = [
        replace(case, extra={"split": "train"})
        for simulated in (folder.simulation, folder.phantoms)
        for case in read_manifest(simulated.manifest).cases
    ]
    write_manifest(folder.manifest, _renumbered([*training, *cycles]))
    return folder.manifest


def _renumbered(cases: Sequence[Case]) -> list[Case]:
    return [replace(case, row=row) for row, case in enumerate(cases, start=2)]


def main() -> None:
    """Train the methods that cmnet is compared with."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, and to continue from")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="folder of the settings, one file per method")
    parser.add_argument("--only", nargs="*", default=(), metavar="METHOD", help="methods to train")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    messages = Messages()
    try:
        paths = train_baselines(
            given.recipe, data=given.data, out=given.out, messages=messages, device=given.device, only=given.only
        )
    except CmnetError as error:
        messages.error(error)
        raise SystemExit(3) from error
    for path in paths:
        messages.result(str(path))


if __name__ == "__main__":
    main()
