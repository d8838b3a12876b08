"""Write docs/columns.md and docs/flags.md from the code: python docs/generate_outputs.py."""

import re
from collections.abc import Iterator
from pathlib import Path

from cmnet_cli.tables.columns.column import HALF_WIDTH, INTERVAL_FORMULAS, Column, Interval
from cmnet_cli.tables.schema import DECLARED, SCHEMA_VERSION
from cmnet_core.qc.flags import GROUPS, SEVERITIES

FOLDER = Path(__file__).parent
INTERVAL_QUANTITIES = {
    Interval.UNBOUNDED: "stroke volume, ejection fraction, strain, rates, rotation, thickening",
    Interval.NON_NEGATIVE: "volume, mass, thickness, dyssynchrony",
    Interval.TIME: "time",
}
_GENERATED = "Generated from the code by `docs/generate_outputs.py`; a test checks that it is up to date."
_HEAD = "| column | meaning | unit | type | formula | source | UK Biobank |\n|---|---|---|---|---|---|---|"


def render() -> dict[Path, str]:
    """Return the pages for the current columns and quality flags, with their paths."""
    return {FOLDER / "columns.md": _page(_columns()), FOLDER / "flags.md": _page(_flags())}


def _page(lines: Iterator[str]) -> str:
    return "\n".join(lines) + "\n"


def _columns() -> Iterator[str]:
    yield f"# Columns\n\n{_GENERATED}\n"
    yield f"Version {SCHEMA_VERSION} of the tables of [a run folder](outputs.md#tables). The 95 % interval of a"
    yield "quantity marked ± is stored in two further columns, `<name>_lo` and `<name>_hi`, with this formula:\n"
    yield "| quantity | lower end | upper end |\n|---|---|---|"
    for interval, (lower, upper) in INTERVAL_FORMULAS.items():
        yield f"| {INTERVAL_QUANTITIES[interval]} | `{lower}` | `{upper}` |"
    yield f"\n{HALF_WIDTH[0].upper()}{HALF_WIDTH[1:]}."
    yield "A column that is a multiple of another without error has as many times its interval.\n"
    yield "Type `number` is a 64-bit float, `integer` a 64-bit integer, `text_list` a list of strings and `curve`"
    yield "a list with one 32-bit float per frame."
    for table, columns in DECLARED.items():
        yield f"\n## {table}\n\n{_HEAD}"
        yield from map(_line, columns)


def _line(column: Column) -> str:
    name = f"`{column.name}`" + (" ±" if column.interval or column.scaled_from else "")
    texts = (column.meaning, column.unit, column.kind, column.formula, column.source, column.ukb_field)
    return f"| {' | '.join((name, *map(_cell, texts)))} |"


def _cell(text: str) -> str:
    # An unescaped bar within a formula would end the cell, and <id> outside of code would be an HTML element.
    return re.sub(r"<(?=\w)", "&lt;", text).replace("|", "\\|")


def _flags() -> Iterator[str]:
    yield f"# Quality flags\n\n{_GENERATED}\n\nValues of `qc_flags`, and when each is raised.\n"
    yield "| severity | what it means |\n|---|---|"
    yield from (f"| {severity} | {meaning} |" for severity, meaning in SEVERITIES.items())
    for group, flags in GROUPS.items():
        yield f"\n## {group}\n\n| flag | severity | raised when | what it means, what to do |\n|---|---|---|---|"
        yield from (f"| `{flag.name}` | {flag.severity} | {flag.raised} | {flag.advice} |" for flag in flags)


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
