"""The time as cmnet's records have it."""

from datetime import UTC, datetime


def utc_now(timespec: str = "seconds") -> str:
    """Return the present time in UTC in ISO 8601, to the precision that ``timespec`` names."""
    return datetime.now(UTC).isoformat(timespec=timespec)
