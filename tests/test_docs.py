"""Documentation: links and anchors, paths of modules, generated pages, example manifests."""

import csv
import re
from pathlib import Path

import pytest

from cmnet_cli.tables.schema import TABLES
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode
from cmnet_core.methods.registry import METHODS
from cmnet_core.qc.flags import FLAGS
from cmnet_core.training.stages import TrainingStage
from docs import generate_architecture, generate_commands, generate_outputs

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "manifests").glob("*.md"),
        *ROOT.glob("cmnet_*/**/*.md"),
    ]
)
EXAMPLES = sorted((ROOT / "manifests").glob("*.csv"))
FOLDERS_OF_PATHS = (".", "cmnet_core", "cmnet_cli", "cmnet_core/models")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def in_order(first: Path) -> str:
    return str(first.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=in_order)
def test_links_and_anchors_exist(page: Path) -> None:
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if link.startswith("http"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", ROOT / "docs" / "glossary.md", ROOT / "CONTRIBUTING.md"], ids=in_order
)
def test_paths_of_code_exist(page: Path) -> None:
    written, _, _ = page.read_text(encoding="utf-8").partition("<!-- Everything below")
    paths = set(re.findall(r"`([\w/.]+/[\w.]*)`", written)) | set(re.findall(r"`([\w/]+\.py)`", written))
    # Tests move with the folders that they test, and pages name output files, too.
    paths = {path for path in paths if not path.startswith(("tests/", "report/index")) and "sub-" not in path}
    assert len(paths) > 10
    folders = [ROOT / folder for folder in FOLDERS_OF_PATHS]
    assert [path for path in sorted(paths) if not any((folder / path).exists() for folder in folders)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=in_order)
def test_modules_and_functions_on_pages_exist(page: Path) -> None:
    missing = []
    for name in re.findall(
        r"(?:`|^::: )(cmnet_(?:core|cli)(?:\.\w+)+)`?", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        path, _, last = name.replace(".", "/").rpartition("/")
        module = ROOT / f"{path}.py"
        if not (ROOT / path / last).exists() and not (ROOT / path / f"{last}.py").exists():
            defined = module.read_text(encoding="utf-8") if module.exists() else ""
            if not re.search(rf"^(?:def |class )?{last}\b", defined, re.MULTILINE):
                missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=in_order)
def test_quality_flags_and_error_codes_on_pages_exist(page: Path) -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", page.read_text(encoding="utf-8")))
    methods = {*METHODS, *(entry.package for entry in METHODS.values())}
    assert named <= {*FLAGS, *map(str, ErrorCode), *map(str, TrainingStage), *methods, "cmnet-run", "lint-imports"}


def test_identifiers_of_the_glossary_exist() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for package in ("cmnet_core", "cmnet_cli")
        for path in (ROOT / package).rglob("*.py")
    ]
    identifiers = set(re.findall(r"\w+", "\n".join(sources)))
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = {name.rpartition(".")[2] for name in re.findall(r"`([A-Za-z_][\w.]*)`", page) if not name.endswith(".py")}
    columns = {column.name for columns in TABLES.values() for column in columns}
    assert named - identifiers - columns - set(TABLES) == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_manifest_has_whole_rows_of_invented_subjects(example: Path) -> None:
    header, *rows = list(csv.reader(example.read_text(encoding="utf-8").splitlines()))
    assert {len(row) for row in rows} == {len(header)}
    assert all(row[0].startswith("990") for row in rows)


def test_page_of_commands_is_up_to_date() -> None:
    assert generate_commands.render() == generate_commands.PAGE.read_text(encoding="utf-8"), (
        "run: python docs/generate_commands.py"
    )


def test_pages_of_columns_and_flags_have_those_of_the_code() -> None:
    columns, flags = generate_outputs.render().items()
    for path, text in (columns, flags):
        assert path.read_text(encoding="utf-8") == text, "run: python docs/generate_outputs.py"
    rows = [f"| `{name}` | {flag.severity} | {flag.raised} |" for name, flag in FLAGS.items()]
    assert [row for row in rows if row not in flags[1]] == []
    for expected in ("| `lvedv_ml` ± |", "| 24100 |", "sub-&lt;id>"):
        assert expected in columns[1]


def test_page_of_architecture_has_the_modules_and_layers_of_the_code() -> None:
    page = generate_architecture.PAGE.read_text(encoding="utf-8")
    assert generate_architecture.render(page) == page, "run: python docs/generate_architecture.py"
    assert page.count(generate_architecture.MARK) == 1
    for expected in ("### `cmnet_core/mechanics/`", "| `strain.py` |", " · errors"):
        assert expected in page


def test_page_of_error_codes_has_every_code_once() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)`", page, flags=re.MULTILINE) == [str(code) for code in ErrorCode]


def test_citation_and_changelog_have_the_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [Unreleased] {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_accuracy_in_the_readme_is_that_of_the_validation() -> None:
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    measured = {
        name: f"{float(value):.1f}"
        for name, value in re.findall(r"^\| ([^|]+), (?:%|percentage points) \| (-?[\d.]+)", page, flags=re.MULTILINE)
    }
    dice = ", ".join(measured[f"SegNet Dice, mean of ED and ES, {name}"] for name in ("lv", "myo", "rv"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in (
        f"| Dice of the segmentation: LV, myocardium, RV | {dice} % |",
        f"mean of both ways and all structures | {measured['Dice, mean of both ways and all structures']} % |",
        f"| LVEF, RVEF: RMSE | {measured['LVEF RMSE']}, {measured['RVEF RMSE']} percentage points |",
    ):
        assert row in readme
