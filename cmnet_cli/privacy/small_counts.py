"""Counts of subjects in a report: exact, or with small counts suppressed, so that no subject can be identified."""

from dataclasses import dataclass

from cmnet_cli.privacy.deidentify import MIN_GROUP_SIZE, Deidentifier

# Counts are rounded, so that a suppressed count cannot be computed from a total and the other counts.
_ROUND_TO = 5


@dataclass(frozen=True, slots=True)
class CountSuppression:
    """Counts of subjects, exact or, in a share-safe report, rounded and with small counts suppressed.

    Attributes:
        deidentifier: Whether the report must be share-safe.
    """

    deidentifier: Deidentifier

    def told(self, number: int) -> str:
        """Return a count as text.

        >>> shared = CountSuppression(Deidentifier(share_safe=True, key=b""))
        >>> shared.told(7), shared.told(98_762), CountSuppression(Deidentifier(share_safe=False, key=b"")).told(7)
        ('10 or fewer', '98,760', '7')
        """
        return self.deidentifier.count(number) if self.deidentifier.hides(number) else f"{self.rounded(number):,}"

    def rounded(self, number: int) -> int:
        """Return a count that is not suppressed; 0 remains 0."""
        if not self.deidentifier.share_safe or not number:
            return number
        return max(_ROUND_TO * round(number / _ROUND_TO), _ROUND_TO * -(-MIN_GROUP_SIZE // _ROUND_TO))

    def share(self, number: int, total: int) -> str:
        """Return a count as a percentage of a total; an empty text where the count is suppressed."""
        if self.deidentifier.hides(number) or not total:
            return ""
        return f"{100 * self.rounded(number) / max(self.rounded(total), 1):.1f} %"
