"""An MIT package must not require one under the GPL."""

import re
from importlib import metadata

from packaging.requirements import Requirement


def required(name: str, seen: set[str]) -> set[str]:
    """All packages that a package needs without extras, by name."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.name.lower() in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name.lower())
        required(requirement.name, seen)
    return seen


def test_no_required_package_is_under_the_gpl() -> None:
    packages = required("cmnet", set())
    assert {"torch", "pydicom", "nibabel"} <= packages
    for name in packages:
        about = metadata.metadata(name)
        licence = " ".join([about.get("License-Expression") or "", *(about.get_all("Classifier") or ())])
        assert not re.search(r"(?<![A-Z])A?GPL|GNU (Affero )?General Public", licence), name
