"""The identifier of a subject and visit, as in BIDS."""


def case_id_of(subject_id: str, session: str | None) -> str:
    """Return the name of a subject and visit: ``sub-<id>`` or ``sub-<id>_ses-<n>``."""
    return f"sub-{subject_id}" + (f"_ses-{session}" if session else "")
