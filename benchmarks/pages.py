"""Sections of the documentation that are written by benchmarks."""

from pathlib import Path


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace the text between a page's marks ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        SystemExit: The page has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no section between '{begin}' and '{end}'")
    page.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose first column is text and whose other columns are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
