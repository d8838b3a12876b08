"""Every quality flag that is declared and documented is raised somewhere."""

import ast
from pathlib import Path

from cmnet_core.flags import QCFlag

ROOT = Path(__file__).parents[3]
DECLARATIONS = {ROOT / "cmnet_core" / "flags.py", ROOT / "cmnet_core" / "qc" / "flags.py"}


def members_used(source: str) -> set[str]:
    """Names of the members of QCFlag that a module mentions."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "QCFlag"
    }


def test_every_declared_flag_has_a_producer() -> None:
    sources = {path for package in ("cmnet_core", "cmnet_cli") for path in (ROOT / package).rglob("*.py")}
    used = set().union(*(members_used(path.read_text(encoding="utf-8")) for path in sources - DECLARATIONS))
    assert {flag.name for flag in QCFlag} - used == set()


def test_no_module_writes_the_name_of_a_flag_as_text() -> None:
    names = {str(flag) for flag in QCFlag}
    for package in ("cmnet_core", "cmnet_cli"):
        for path in (ROOT / package).rglob("*.py"):
            if path in DECLARATIONS:
                continue
            literals = {
                node.value
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not literals & names, path


def test_every_check_is_called_by_another_module() -> None:
    checks = ROOT / "cmnet_core" / "qc" / "result_checks.py"
    public = {
        node.name
        for node in ast.parse(checks.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    called: set[str] = set()
    for package in ("cmnet_core", "cmnet_cli"):
        for path in (ROOT / package).rglob("*.py"):
            if path != checks:
                tree = ast.parse(path.read_text(encoding="utf-8"))
                called |= {
                    node.func.id
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                }
    assert public - called == set()
