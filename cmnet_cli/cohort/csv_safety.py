"""Text tables that a spreadsheet may open: a cell that it would take for a formula is kept from being run.

See https://owasp.org/www-community/attacks/CSV_Injection. Cells of a data set come from others, and a group named
``=HYPERLINK(...)`` must stay a name.
"""

import re

_STARTS_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guard(cell: str) -> str:
    """Put an apostrophe before what would be a formula: spreadsheets then show it as text.

    >>> guard("=1+1"), guard("-1.5"), guard("DCM")
    ("'=1+1", '-1.5', 'DCM')
    """
    return f"'{cell}" if cell.startswith(_STARTS_FORMULA) and not _NUMBER.fullmatch(cell) else cell


def unguard(cell: str) -> str:
    """The cell as it was.

    >>> unguard(guard("@here")), unguard("'tis")
    ('@here', "'tis")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS_FORMULA) else cell
