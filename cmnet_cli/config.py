"""The settings of each command: one frozen dataclass each, read from TOML. An unknown key is an error."""

import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cmnet_core.errors import ErrorCode, ManifestError


class SaveMotion(StrEnum):
    """The motion that a run stores: every frame, the field between ED and ES alone, or none."""

    FULL = "full"
    ED2ES = "ed2es"
    NONE = "none"


class SimulatedMotion(StrEnum):
    """The class of motion of simulated cines.

    ``velocity`` is the exponential of a stationary velocity between the masks of ED and ES, with twist and descent of
    the base; ``cylinder`` is contraction, twist and descent in closed form around the long axis, which is no such
    exponential.
    """

    VELOCITY = "velocity"
    CYLINDER = "cylinder"


class Protocol(StrEnum):
    """How ``cmnet benchmark`` compares propagated with reference masks."""

    NATIVE = "native"
    ACDC = "acdc"


ConfigT = TypeVar("ConfigT")
CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """Settings of ``cmnet preprocess``: the window around the heart that the networks take as input.

    Attributes:
        spacing_mm: In-plane voxel size in mm; slices are not resampled.
        size: Number of voxels along each in-plane axis, a multiple of 16.
    """

    spacing_mm: float = 1.5
    size: int = 128


@dataclass(frozen=True, slots=True)
class InferConfig:
    """Settings of ``cmnet infer``.

    Attributes:
        model: The name of a shipped model, or the path of a safetensors file.
        method: The method that estimates the motion; ``cmnet benchmark --help`` lists them. Methods other than
            ``cardiomorphnet`` take the position of the heart, and label maps if they have none, from the model's
            SegNet.
        save_motion: ``full`` stores the motion of every frame, ``ed2es`` the displacement field between ED and ES
            alone, ``none`` neither.
    """

    model: str = "default"
    method: str = "cardiomorphnet"
    save_motion: SaveMotion = SaveMotion.FULL


@dataclass(frozen=True, slots=True)
class IndicesConfig:
    """Settings of ``cmnet indices``.

    Attributes:
        reference: Path of a CSV file with reference ranges; empty for the table that is part of cmnet.
        samples: Number of posterior samples from which the spread is computed; 0 for no intervals. With 50 samples a
            spread is known to 14 %.
        seed: Seed of the random generator that draws the samples.
        experimental: Also compute the table ``experimental``, of strain that is not measured reliably.
        calibration: Path of a file that ``cmnet calibrate`` wrote; empty for the calibration of the weights.
    """

    reference: str = ""
    samples: int = 50
    seed: int = 1
    experimental: bool = False
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """Settings of ``cmnet evaluate``.

    Attributes:
        heart_margin_mm: Distance from the reference mask in mm up to which folded voxels count as in the heart.
    """

    heart_margin_mm: float = 10.0


def shipped_configs() -> dict[str, Path]:
    """Return the paths of the settings of ``cmnet train`` that are part of the package, by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.toml"))}


def find_config(source: str | None) -> Path | None:
    """Return the path of settings that are given by a shipped name or by a path.

    Raises:
        ManifestError: There are no shipped settings of this name and no such file.
    """
    path = None if source is None else shipped_configs().get(source, Path(source))
    if path is None or path.is_file():
        return path
    raise ManifestError(
        f"There are no settings named '{source}', and no such file.",
        hint=f"Give one of the shipped ones ({', '.join(shipped_configs())}) or the path of a TOML file.",
        code=ErrorCode.CONFIG,
    )


def load_config(kind: type[ConfigT], path: Path | None, **given: object) -> ConfigT:
    """Read the settings of a command: its defaults, then the TOML file, then the options of the command line.

    Args:
        kind: The dataclass of the command's settings.
        path: A TOML file, or None for the defaults; a table of the file fills a nested dataclass.
        **given: Settings from the command line; None means that the option was not given.

    Raises:
        ManifestError: The file cannot be read, or it holds an unknown key or an unusable value.
    """
    changes = _read_toml(path) | {name: value for name, value in given.items() if value is not None}
    return _converted(kind, kind(), changes, path)


def load_changes(settings: ConfigT, path: Path) -> ConfigT:
    """Return settings with the changes of a TOML file.

    Raises:
        ManifestError: The file cannot be read, or it holds an unknown key or an unusable value.
    """
    return _converted(type(settings), settings, _read_toml(path), path)


def _converted(kind: type[ConfigT], settings: ConfigT, changes: dict[str, Any], path: Path | None) -> ConfigT:
    import msgspec  # here, because `cmnet --help` reads no settings

    values = _merged(dataclasses.asdict(settings), changes, path)  # type: ignore[call-overload]
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _unusable_value(kind, values, str(error), path) from error


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(
            f"The configuration {path} cannot be read: {error}.",
            hint='Give a TOML file with lines such as: model = "default"',
            code=ErrorCode.CONFIG,
        ) from error


def _merged(defaults: dict[str, Any], changes: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Return the defaults, table by table, with the values of the file and of the command line."""
    merged = dict(defaults)
    for name, value in changes.items():
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known keys: {', '.join(defaults)}."
            raise ManifestError(f"Unknown key '{name}'{_in_file(path)}.", hint=hint, code=ErrorCode.CONFIG)
        is_table = isinstance(defaults[name], dict) and isinstance(value, dict)
        merged[name] = _merged(defaults[name], value, path) if is_table else value
    return merged


def _unusable_value(kind: type, values: dict[str, Any], reason: str, path: Path | None) -> ManifestError:
    """Turn msgspec's message, such as "Expected `str`, got `int` - at `$.model`", into cmnet's."""
    expectation, _, place = reason.removesuffix("`").partition(" - at `$")
    expected: Any = kind
    found: Any = values
    for name in re.findall(r"\.(\w+)", place):
        expected, found = get_type_hints(expected)[name], found[name]
    if isinstance(expected, type) and issubclass(expected, StrEnum):
        wanted = f"one of {', '.join(expected)}"
    else:
        wanted = re.sub(r"Expected `(\w+)`(, got .*)?", r"of type \1", expectation.replace("`object`", "`table`"))
    return ManifestError(
        f"The setting '{place.removeprefix('.')}'{_in_file(path)} must be {wanted}, found {found!r}.",
        hint="Correct the value, or leave the key out to use the default.",
        code=ErrorCode.CONFIG,
    )


def _in_file(path: Path | None) -> str:
    return f" in {path}" if path else ""


def digest_settings(*settings: object) -> str:
    """Return the SHA-256 digest of settings; equal settings have equal digests.

    >>> digest_settings(PreprocessConfig()) == digest_settings(PreprocessConfig(size=128))
    True
    """
    plain = [dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item for item in settings]  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
