"""The public interface of cmnet_core: light import, every name available and documented, the example of the page."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cmnet_core
from tests.phantoms import write_heart
from tests.tiny_model import write_tiny_model

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
REFERENCE = Path(__file__).parents[1] / "docs" / "api.md"
NAMES = [name for name in cmnet_core.__all__ if name != "__version__"]


def test_import_of_the_package_is_light() -> None:
    check = "import sys, cmnet_core; print(sorted({'torch', 'numpy', 'nibabel', 'pydicom'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_available_and_documented(name: str) -> None:
    assert getattr(cmnet_core, name).__doc__
    assert name in dir(cmnet_core)
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
    module = getattr(cmnet_core, name).__module__
    assert f"\n::: {module}.{name}\n" in REFERENCE.read_text(encoding="utf-8")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'analyze'"):
        _ = cmnet_core.analyze


def test_version_is_a_development_version_of_pep_440() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", cmnet_core.__version__)


def test_example_of_the_page_runs_on_a_phantom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    image, _ = write_heart(tmp_path, "9900001")
    image.rename(tmp_path / "sub-9900001_cine.nii.gz")
    monkeypatch.chdir(tmp_path)
    weights = write_tiny_model(tmp_path / "tiny.safetensors")
    # Small weights that know the phantom of the tests in place of the shipped ones, which do not fit in a test's time.
    exec(example.replace('"default"', repr(str(weights))), {})
    found = re.fullmatch(r"LVEF ([\d.]+) %, RVEF ([\d.]+) %, (\d+) folded voxels\n", capsys.readouterr().out)
    assert found
    # Circles whose radii shrink to 0.7: 1 - 0.7² = 51 % in each slice.
    assert float(found[1]) == pytest.approx(51.0, abs=3.0)
