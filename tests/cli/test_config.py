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


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = _toml(tmp_path, 'model = "mine.safetensors"\nsave_motion = "none"\n')
    assert load_config(InferConfig, path, model=None, save_motion="ed2es") == InferConfig(
        model="mine.safetensors", save_motion=SaveMotion.ED2ES
    )


def test_a_whole_number_serves_as_a_length(tmp_path: Path) -> None:
    assert load_config(PreprocessConfig, _toml(tmp_path, "spacing_mm = 2")).spacing_mm == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "x"', "Did you mean 'model'?"),
        ("colour = 3", "Known keys: model, save_motion, refine, close."),
        ("model = 3", "must be of type str"),
        ('save_motion = "some"', "one of full, ed2es, none"),
        ("model = ", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
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


def test_tables_fill_dataclasses_and_arrays_fill_tuples(tmp_path: Path) -> None:
    path = _toml(tmp_path, "window = [96, 64]\n[inner]\nwidths = [8, 16, 32]\n")
    assert load_config(Outer, path) == Outer(window=(96, 64), inner=Inner((8, 16, 32), weight=3.0))


def test_defaults_of_a_table_are_those_of_the_settings_that_hold_it(tmp_path: Path) -> None:
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
def test_the_message_of_an_unusable_value_names_setting_file_type_and_value(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        load_config(Outer, _toml(tmp_path, text))


def test_an_unknown_key_in_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"Unknown key 'wieght' in .*settings\.toml.* Did you mean 'weight'"):
        load_config(Outer, _toml(tmp_path, "[inner]\nwieght = 2.0\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.toml"):
        load_config(InferConfig, tmp_path / "nowhere.toml")


def test_another_setting_has_another_digest() -> None:
    assert digest_settings(InferConfig()) != digest_settings(InferConfig(model="other"))
