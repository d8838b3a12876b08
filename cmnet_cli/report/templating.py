"""The page templates and the scripts that the pages embed."""

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def open_templates() -> Environment:
    """Open the templates: every value is escaped, and a missing value is an error."""
    pages = Environment(
        loader=PackageLoader("cmnet_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals.update(script=script, script_digests=script_digests)
    return pages


def script(name: str) -> Markup:
    """Return a shipped script as an element of a page."""
    return Markup("<script>{}</script>").format(Markup(_source(name)))


def script_digests(names: Iterable[str]) -> str:
    """Return the digests for a page's content security policy, which allows the shipped scripts and no other."""
    digests = (base64.b64encode(hashlib.sha256(_source(name).encode()).digest()).decode() for name in names)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


@cache
def _source(name: str) -> str:
    return resources.files("cmnet_cli.report").joinpath("static", name).read_text(encoding="utf-8")
