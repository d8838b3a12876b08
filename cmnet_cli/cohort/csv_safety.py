"""Protection of text tables against CSV injection: a spreadsheet must not run a cell as a formula.

See https://owasp.org/www-community/attacks/CSV_Injection. The cells of a data set are written by others, and a group
named ``=HYPERLINK(...)`` must remain a name.
"""

import re

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# All but the tab and the ends of lines, which a quoted cell may contain.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guard(cell: str) -> str:
    """Put an apostrophe before a cell that would be a formula, so that spreadsheets show it as text.

    >>> guard("=1+1"), guard("-1.5"), guard("DCM")
    ("'=1+1", '-1.5', 'DCM')

    Control characters, with which a cell could command a terminal, become question marks.
    """
    cell = _CONTROLS.sub("?", cell)
    return f"'{cell}" if cell.startswith(_STARTS_FORMULA) and not _NUMBER.fullmatch(cell) else cell


def unguard(cell: str) -> str:
    """Return a guarded cell as it was before.

    >>> unguard(guard("@here")), unguard("'tis")
    ('@here', "'tis")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS_FORMULA) else cell
