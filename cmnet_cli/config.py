"""The settings of each command: a frozen dataclass, read from TOML. An unknown key is an error, never ignored."""

import dataclasses
import difflib
import hashlib
import json
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from cmnet_core.errors import ErrorCode, ManifestError


class SaveMotion(StrEnum):
    """How much of the motion a run keeps."""

    FULL = "full"
    ED2ES = "ed2es"
    NONE = "none"


ConfigT = TypeVar("ConfigT")
CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """Settings of ``cmnet preprocess``: the window that the networks look at.

    Attributes:
        spacing_mm: In-plane voxel size; the slices stay as they are.
        size: Voxels along each in-plane axis, a multiple of 16.
    """

    spacing_mm: float = 1.5
    size: int = 128


@dataclass(frozen=True, slots=True)
class InferConfig:
    """Settings of ``cmnet infer``.

    Attributes:
        model: A shipped model's name, or the path of a safetensors file.
        save_motion: ``full`` keeps every step of the cycle, ``ed2es`` the field between ED and ES, ``none`` neither.
        refine: Steps of the optimiser with which the motion of each step of the cycle is fitted to the subject's own
            shapes; 0 leaves the network's motion as it is.
        close: Whether the drift round the cycle is spread over its steps, so that the motion closes.
    """

    model: str = "default"
    save_motion: SaveMotion = SaveMotion.FULL
    refine: int = 0
    close: bool = True


@dataclass(frozen=True, slots=True)
class IndicesConfig:
    """Settings of ``cmnet indices``.

    Attributes:
        reference: A CSV of reference ranges; empty for the table that comes with cmnet.
        samples: Draws of the posterior behind the intervals; 0 for no intervals. 20 tell a standard deviation to 16 %.
        seed: What the draws start from.
    """

    reference: str = ""
    samples: int = 20
    seed: int = 1


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """Settings of ``cmnet evaluate``.

    Attributes:
        heart_margin_mm: How far around the reference mask folded voxels count as within the heart.
    """

    heart_margin_mm: float = 10.0


def shipped_configs() -> dict[str, Path]:
    """The settings of ``cmnet train`` that come with the package, by name."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.toml"))}


def find_config(source: str | None) -> Path | None:
    """The file behind the name of shipped settings, or behind a path.

    Raises:
        ManifestError: There is neither.
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
    """Read a command's settings: its defaults, then the TOML file, then what the command line gave.

    Args:
        kind: The dataclass of the command.
        path: A TOML file, or None; a table in it fills a dataclass within the dataclass.
        **given: Settings from the command line; None means not given.

    Raises:
        ManifestError: The file cannot be read, or holds an unknown key or an unusable value.
    """
    from_line = {name: value for name, value in given.items() if value is not None}
    return _changed(kind(), {**_read_toml(path), **from_line}, path)


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


def _changed(base: ConfigT, values: dict[str, Any], path: Path | None) -> ConfigT:
    """The settings with some of them replaced."""
    kinds = get_type_hints(type(base))
    for name in values:
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Known keys: {', '.join(kinds)}."
            raise ManifestError(f"Unknown key '{name}' in {path}.", hint=hint, code=ErrorCode.CONFIG)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        inner = getattr(base, name)
        is_table = dataclasses.is_dataclass(inner) and isinstance(value, dict)
        changes[name] = _changed(inner, value, path) if is_table else _convert(name, value, kinds[name], path)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _convert(name: str, value: object, kind: Any, path: Path | None) -> object:
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        inner = [item for item in get_args(kind) if item is not ...]
        return tuple(_convert(name, item, inner[min(n, len(inner) - 1)], path) for n, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise _wrong_value(name, value, f"one of {', '.join(kind)}", path)
        return kind(str(value))
    if type(value) is not kind:
        raise _wrong_value(name, value, f"of type {getattr(kind, '__name__', kind)}", path)
    return value


def _wrong_value(name: str, value: object, expected: str, path: Path | None) -> ManifestError:
    where = f" in {path}" if path else ""
    return ManifestError(
        f"The setting '{name}'{where} must be {expected}, found {value!r}.",
        hint="Correct the value, or leave the key out to have the default.",
        code=ErrorCode.CONFIG,
    )


def digest_settings(*settings: object) -> str:
    """A digest of settings that tells whether an output was made with the same ones.

    >>> digest_settings(PreprocessConfig()) == digest_settings(PreprocessConfig(size=128))
    True
    """
    plain = [dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item for item in settings]  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
