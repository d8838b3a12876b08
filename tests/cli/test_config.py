"""Settings: defaults, then the file, then the command line; what is not known is refused."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cmnet_cli.config import InferConfig, PreprocessConfig, SaveMotion, digest_settings, load_config
from cmnet_core.errors import ErrorCode, ManifestError


def _toml(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_precedence_of_command_line_file_and_defaults(tmp_path: Path) -> None:
    path = _toml(tmp_path, 'model = "mine.safetensors"\nsave_motion = "none"\n')
    assert load_config(InferConfig, path, model=None, save_motion="ed2es") == InferConfig(
        model="mine.safetensors", save_motion=SaveMotion.ED2ES
    )


def test_integer_is_accepted_for_a_float_setting(tmp_path: Path) -> None:
    assert load_config(PreprocessConfig, _toml(tmp_path, "spacing_mm = 2")).spacing_mm == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', "Did you mean 'model'?"),
        ("colour = 3", "Known keys: model, method, save_motion."),
        ("model = 3", "must be of type str"),
        ('save_motion = "some"', "one of full, ed2es, none"),
        ("model = ", "cannot be read"),
    ],
)
def test_unusable_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_config(InferConfig, _toml(tmp_path, text))
    assert caught.value.code == ErrorCode.CONFIG
    assert message in str(caught.value)


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (16, 32)
    weight: float = 1.0


@dataclass(frozen=True)
class Outer:
    window: tuple[int, int] = (128, 128)
    inner: Inner = field(default_factory=lambda: Inner(weight=3.0))


def test_toml_tables_fill_dataclasses_and_arrays_fill_tuples(tmp_path: Path) -> None:
    path = _toml(tmp_path, "window = [96, 64]\n[inner]\nwidths = [8, 16, 32]\n")
    assert load_config(Outer, path) == Outer(window=(96, 64), inner=Inner((8, 16, 32), weight=3.0))


def test_nested_defaults_are_those_of_the_outer_settings(tmp_path: Path) -> None:
    assert load_config(Outer, _toml(tmp_path, "window = [96, 64]\n")).inner == Inner(weight=3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[inner]\nwidths = [8, "x"]', r"'inner\.widths\[1\]' in .*settings\.toml must be of type int"),
        ("window = [96, 64, 32]", r"'window' in .*settings\.toml must be of type array of length 2"),
        ("inner = 3", r"'inner' in .*settings\.toml must be of type table, found 3"),
        ("[inner]\nweight = true", r"'inner\.weight' in .*settings\.toml must be of type float, found True"),
    ],
)
def test_error_of_an_unusable_value_names_setting_file_type_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        load_config(Outer, _toml(tmp_path, text))


def test_unknown_key_in_a_toml_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"Unknown key 'wieght' in .*settings\.toml.* Did you mean 'weight'"):
        load_config(Outer, _toml(tmp_path, "[inner]\nwieght = 2.0\n"))


def test_error_names_a_missing_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.toml"):
        load_config(InferConfig, tmp_path / "nowhere.toml")


def test_digest_depends_on_settings() -> None:
    assert digest_settings(InferConfig()) != digest_settings(InferConfig(model="other"))
