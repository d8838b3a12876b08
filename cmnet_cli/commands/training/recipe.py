"""The recipes of the shipped weights: every network is trained from nothing, step by step.

``python -m cmnet_cli.commands.training.recipe --data ../shared/data --out weights-run`` runs all steps. Each is a file
in ``cmnet_core/weights/recipe``, and the same command continues an interrupted recipe. The weights of the last step are
what is shipped. With ``--recipe cmnet_core/weights/recipe-paper`` it is CardioMorphNet as published.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.datasets import from_acdc
from cmnet_cli.cohort.manifest import read_manifest, write_manifest
from cmnet_cli.commands.demo import simulate_phantoms
from cmnet_cli.commands.training.average import average_segnets
from cmnet_cli.commands.training.settings import TrainConfig, TrainingRun
from cmnet_cli.commands.training.slice_cines import SliceCine, find_slice_cines, with_reference_masks
from cmnet_cli.commands.training.train import train
from cmnet_cli.config import find_config, load_changes, load_config
from cmnet_cli.console import Messages
from cmnet_cli.runs.paths import RecipeFolder
from cmnet_core.errors import CmnetError, ErrorCode, ManifestError
from cmnet_core.io import atomic
from cmnet_core.models.checkpoint import WEIGHTS, load_tensors, save_tensors
from cmnet_core.training.stages import TrainingStage

RECIPE = WEIGHTS / "recipe"
VALIDATION_EVERY = 5
"""Every n-th patient of ACDC, from the first, is used for validation only."""


@dataclass(frozen=True, slots=True)
class PhantomCohort:
    """The phantoms that a recipe trains on.

    Attributes:
        subjects: Number of phantoms.
        frames: Frames per cardiac cycle.
        seed: Random seed.
    """

    subjects: int = 10
    frames: int = 20
    seed: int = 71


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """One step of the recipe: the training of one or more networks.

    Attributes:
        stage: Which networks are trained.
        data: Names of the data sets, each the name of its collection in the manifest.
        members: Number of networks that are trained one after the other, each from a seed one higher than the last.
        teacher: Name of the earlier step whose networks are the teacher; empty for none.
        init: Name of the earlier step whose weights are the start; empty for random weights. A step of the motion
            network starts from a step with SegNet.
        average: Names of earlier steps of SegNet. The step then trains nothing: its network has the average of their
            weights, with the wall's volume matched to the reference masks.
        left_out: Ids of subjects that are not taken.
        phantoms: The phantoms, where ``data`` names them.
        settings: Name of shipped settings (``cmnet train --config NAME``) that ``train`` changes; empty for the
            defaults.
        half_precision: Whether the weights of this step, if it is the last, are shipped in half precision.
        train: Settings of the training, as ``cmnet train --config`` takes them.
    """

    stage: TrainingStage = TrainingStage.SEGNET
    data: tuple[str, ...] = ("acdc",)
    members: int = 1
    teacher: str = ""
    init: str = ""
    average: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    phantoms: PhantomCohort = field(default_factory=PhantomCohort)
    settings: str = ""
    half_precision: bool = False
    train: TrainConfig = field(default_factory=TrainConfig)


def load_step(path: Path) -> RecipeStep:
    """Read one step of a recipe.

    Raises:
        ManifestError: The file cannot be read, has an unknown key or value, or names settings that are not shipped.
    """
    step = load_config(RecipeStep, path)
    if not step.settings:
        return step
    shipped = load_config(TrainConfig, find_config(step.settings))
    return load_changes(RecipeStep(train=shipped), path)


def run_recipe(recipe: Path, *, data: Path, out: Path, messages: Messages, device: str = "auto") -> Path:
    """Run all steps of a recipe, or those that an earlier call has not finished.

    Args:
        recipe: Folder with one TOML file per step, run in the order of their names.
        data: Folder of the data sets, as docs/data.md describes it.
        out: Folder to write to; every step has a run folder in it.
        messages: Where to print.
        device: Name of the device, as on the command line.

    Returns:
        The weights of the last step.

    Raises:
        ManifestError: Data of a step are missing, or ``out`` belongs to another recipe; nothing was trained.
        CmnetError: A training cannot continue.
    """
    steps = {path.stem: load_step(path) for path in sorted(recipe.glob("*.toml"))}
    folder = RecipeFolder(out)
    _require_data(steps, data)
    _require_same_recipe(recipe, folder)
    last = list(steps.values())[-1]
    shipped = weights = folder.weights(last.train.name)
    for name, step in steps.items():
        manifest = _write_step_manifest(name, step, data=data, folder=folder, messages=messages)
        for member in range(1, step.members + 1):
            run = folder.network(name, member)
            weights = run.weights(step.stage)
            if weights.exists():
                continue
            if step.average:
                sources = [path for used in step.average for path in _weights(used, steps, folder)]
                average_segnets(sources, manifest, weights, config=step.train, messages=messages)
            else:
                messages.note(f"{name}, network {member} of {step.members}")
                training = TrainingRun(
                    manifest,
                    run.root,
                    str(_weights(step.init, steps, folder)[-1]) if step.init else None,
                    resume=True,
                    messages=messages,
                    device=device,
                    teacher=tuple(map(str, _weights(step.teacher, steps, folder))) if step.teacher else (),
                )
                train(step.stage, _with_seed_of(step, member), training)
    atomic.write_bytes(shipped, weights.read_bytes())
    if last.half_precision:
        tensors, card = load_tensors(weights)
        halved = {name: values.half() if values.is_floating_point() else values for name, values in tensors.items()}
        save_tensors(shipped, halved, card)
    return shipped


def _weights(name: str, steps: dict[str, RecipeStep], folder: RecipeFolder) -> list[Path]:
    """Return the weights files of an earlier step."""
    step = steps[name]
    return [folder.network(name, member).weights(step.stage) for member in range(1, step.members + 1)]


def _with_seed_of(step: RecipeStep, member: int) -> TrainConfig:
    settings = step.train.of(step.stage)
    schedule = replace(settings.schedule, seed=settings.schedule.seed + member - 1)
    changed: dict[str, Any] = {step.stage.replace("-", "_"): replace(settings, schedule=schedule)}
    return replace(step.train, **changed)


def _require_data(steps: dict[str, RecipeStep], data: Path) -> None:
    """Check the data of all steps before the first one is run.

    Raises:
        ManifestError: Steps have data that are missing; all of these are listed.
    """
    missing = []
    for number, (name, step) in enumerate(steps.items()):
        for source in step.data:
            if source not in DATA_SETS:
                missing.append(f"{name}: '{source}' is no data set of the recipe ({', '.join(DATA_SETS)})")
            elif source != "phantoms":
                try:
                    DATA_SETS[source](data)
                except CmnetError as error:
                    missing.append(f"{name}: {source}: {error.message}")
        known = ("", *list(steps)[:number])
        missing += [
            f"{name}: no step '{used}' before it"
            for used in (step.teacher, step.init, *step.average)
            if used not in known
        ]
    if missing:
        raise ManifestError(
            "The recipe cannot run:\n  " + "\n  ".join(missing),
            hint="Name the folder of the data sets with --data; docs/data.md lists them.",
            code=ErrorCode.TRAINING_CASES,
        )


def _require_same_recipe(recipe: Path, folder: RecipeFolder) -> None:
    """Record the steps in the output folder, or compare them with those that it was started with.

    Raises:
        ManifestError: The folder was started with another recipe.
    """
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(recipe.glob("*.toml"))
    ]
    if folder.record.exists() and folder.record.read_text(encoding="utf-8") != "".join(lines):
        raise ManifestError(
            f"{folder.root} was started with another recipe than {recipe}.",
            hint="Give another folder with --out, or restore the steps.",
            code=ErrorCode.RESUME,
        )
    folder.root.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(folder.record, "".join(lines).encode())


def _write_step_manifest(name: str, step: RecipeStep, *, data: Path, folder: RecipeFolder, messages: Messages) -> Path:
    """Write the manifest of a step: its data sets one after the other, each with the name of its collection."""
    cases: list[Case] = []
    for source in step.data:
        found = DATA_SETS[source](data)
        if source == "phantoms":
            found = _phantoms(step.phantoms, folder, messages)
        elif source == "acdc-cycles":
            found = _acdc_cycles(data, folder)
        for case in found:
            if case.subject_id not in step.left_out:
                extra = {"collection": source, "split": case.extra.get("split", "train")}
                cases.append(replace(case, row=len(cases) + 2, extra=extra))
    path = folder.manifest(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, cases)
    return path


def _phantoms(cohort: PhantomCohort, folder: RecipeFolder, messages: Messages) -> Sequence[Case]:
    """Return the cases of a cohort of phantoms, which is simulated unless an earlier call has done so."""
    simulated = folder.phantoms(f"{cohort.subjects}-{cohort.frames}-{cohort.seed}")
    if not simulated.manifest.exists():
        simulate_phantoms(simulated.root, messages, subjects=cohort.subjects, frames=cohort.frames, seed=cohort.seed)
    return read_manifest(simulated.manifest).cases


# ── data sets ────────────────────────────────────────────────────────────────────────────────────────────────────


def _acdc(data: Path) -> list[Case]:
    """Return the patients of ACDC at ED and ES, every fifth of them for validation."""
    cases = sorted(from_acdc(data / "acdc").cases, key=lambda case: case.subject_id)
    splits = ["train" if number % VALIDATION_EVERY else "validation" for number in range(len(cases))]
    return [replace(case, extra={"split": split}) for case, split in zip(cases, splits, strict=True)]


def _acdc_cine(data: Path) -> list[Case]:
    """Return the whole cines among the training patients of ACDC, without their masks."""
    cines = [case for case in _acdc(data) if case.extra["split"] == "train" and len(case.image) == 1]
    return _found(
        data / "acdc",
        [replace(case, session="cine", labels_ed=None, labels_es=None, ed=None, es=None) for case in cines],
        "patientNNN_4d.nii.gz",
    )


def _acdc_cycles(data: Path, folder: RecipeFolder) -> list[Case]:
    """Return the cines of single slices of training patients of ACDC, with masks that are written to the folder."""
    return [with_reference_masks(cine, folder.masks("acdc-cycles")) for cine in _slice_cines(data)]


def _slice_cines(data: Path) -> list[SliceCine]:
    training = [case for case in _acdc(data) if case.extra["split"] == "train"]
    return find_slice_cines(data / "acdc-cycles", training)


def _chla(data: Path) -> list[Case]:
    """Return the pairs of images of CHLA, each with the masks of one blood pool."""
    table = data / "chla" / "cohort.csv"
    cases = read_manifest(table).cases
    masks = [[image.with_name(image.name.replace(".nii", "_gt.nii")) for image in case.image] for case in cases]
    return [replace(case, labels_ed=ed, labels_es=es) for case, (ed, es) in zip(cases, masks, strict=True)]


def _sunnybrook(data: Path) -> list[Case]:
    """Return the cines of Sunnybrook, without masks."""
    folder = data / "sunnybrook"
    zips = sorted(path for path in folder.glob("*.zip") if not path.stem.endswith("_contours"))
    return _found(folder, [Case(row, path.stem, (path,)) for row, path in enumerate(zips, start=2)], "SC-*.zip")


def _found(folder: Path, cases: list[Case], expected: str) -> list[Case]:
    if not cases:
        raise ManifestError(
            f"{folder}: expected files like {expected}, found none.",
            hint="Check the folder.",
            code=ErrorCode.MANIFEST_EMPTY,
        )
    return cases


DATA_SETS: dict[str, Callable[[Path], Sequence[Case]]] = {
    "acdc": _acdc,
    "acdc-cine": _acdc_cine,
    "acdc-cycles": lambda data: [cine.patient for cine in _slice_cines(data)],
    "chla": _chla,
    "sunnybrook": _sunnybrook,
    "phantoms": lambda data: (),
}
"""The data sets that a step can name; phantoms are simulated, and masks of single slices are written."""


def main() -> None:
    """Run the recipe of the shipped weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, and to continue from")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="folder of the steps")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    messages = Messages()
    try:
        weights = run_recipe(given.recipe, data=given.data, out=given.out, messages=messages, device=given.device)
    except CmnetError as error:
        messages.error(error)
        raise SystemExit(3) from error
    messages.result(str(weights))


if __name__ == "__main__":
    main()
