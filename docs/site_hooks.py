"""Hooks of MkDocs: pages from outside of docs/, and formulas as MathML, which browsers draw without a script.

https://www.mkdocs.org/user-guide/configuration/#hooks
"""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

# File of the repository → file of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    "manifests/README.md": "manifests.md",
    "cmnet_core/weights/default.md": "model-card.md",
}
_LINK = re.compile(r"(\]\()(?!\w+:)([^)\s#]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files from outside of docs/ to the site."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead to the pages of the site."""
    folder = Path(str(page.file.abs_src_path)).parent.relative_to(ROOT).as_posix()

    def place(link: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(folder, link[2]))
        return link[1] + OUTSIDE.get(file, file.removeprefix("docs/"))

    return _LINK.sub(place, markdown)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML; those of a line of their own scroll on a narrow screen."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    latex = html.unescape(found[2]).strip()
    if found[1] == "div":
        return f'<div class="formula">{convert(latex, display="block")}</div>'
    return convert(latex, display="inline")
