"""Write the generated part of docs/outputs.md from the code: python docs/generate_outputs.py.

Everything above the mark is written by hand; what follows it are the columns of every table and all quality flags.
"""

from collections.abc import Iterator
from pathlib import Path

from cmnet_cli.tables.columns.column import Column
from cmnet_cli.tables.schema import DECLARED, SCHEMA_VERSION
from cmnet_core.qc.flags import GROUPS

PAGE = Path(__file__).with_name("outputs.md")
MARK = "<!-- From here on made by docs/generate_outputs.py; a test checks that it is up to date. -->"
_HEAD = "| column | meaning | unit | type | formula | source | UK Biobank |\n|---|---|---|---|---|---|---|"


def render(page: str) -> str:
    """The page as it should be.

    Args:
        page: The page as it is, of which what stands above the mark is kept.
    """
    written, _, _ = page.partition(MARK)
    return "\n".join([written + MARK, "", *_columns(), *_flags()]) + "\n"


def _columns() -> Iterator[str]:
    yield f"## Every column\n\nVersion {SCHEMA_VERSION} of the tables. A quantity marked ± has its 95 % interval in two"
    yield "columns more, `<name>_lo` and `<name>_hi`. Numbers are floats, counts integers, words lists of text,"
    yield "curves lists with one number a frame."
    for table, columns in DECLARED.items():
        yield f"\n### {table}\n\n{_HEAD}"
        yield from map(_line, columns)


def _line(column: Column) -> str:
    name = f"`{column.name}`" + (" ±" if column.interval else "")
    cells = (name, column.meaning, column.unit, column.kind, column.formula, column.source, column.ukb_field)
    # A bar within a formula would end the cell.
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"


def _flags() -> Iterator[str]:
    yield "\n## Every quality flag\n\nWords in `qc_flags`, and when they are raised."
    for group, flags in GROUPS.items():
        yield f"\n### {group}\n\n| flag | raised when | what it means, what to do |\n|---|---|---|"
        yield from (f"| `{flag.name}` | {flag.raised} | {flag.advice} |" for flag in flags)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
