"""The identifier of a subject and visit, as in BIDS."""


def case_id_of(subject_id: str, session: str | None) -> str:
    """Return the name of a subject and visit: ``sub-<id>`` or ``sub-<id>_ses-<n>``."""
    return f"sub-{subject_id}" + (f"_ses-{session}" if session else "")


def without_prefix(text: str, prefix: str) -> str:
    """Return an id without the ``sub-`` or ``ses-`` of BIDS, which :func:`case_id_of` adds.

    >>> without_prefix("sub-01", "sub-"), without_prefix("01", "sub-"), without_prefix("sub-", "sub-")
    ('01', '01', 'sub-')
    """
    return text.removeprefix(prefix) or text
