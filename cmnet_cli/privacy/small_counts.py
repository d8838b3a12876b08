"""How many people a page says there are: exactly, or so that nobody can be counted out of it."""

from dataclasses import dataclass

from cmnet_cli.privacy.deidentify import MIN_GROUP_SIZE, Deidentifier

# A count that is hidden must not follow from a total and the other counts.
_ROUND_TO = 5


@dataclass(frozen=True, slots=True)
class CountSuppression:
    """Counts of people, as a page tells them.

    Attributes:
        deidentifier: Whether the page may leave the room.
    """

    deidentifier: Deidentifier

    def told(self, number: int) -> str:
        """A count in words.

        >>> counting = Counting(Sharing(share_safe=True, key=b""))
        >>> counting.told(7), counting.told(98_762), Counting(Sharing(share_safe=False, key=b"")).told(7)
        ('10 or fewer', '98,760', '7')
        """
        return self.deidentifier.count(number) if self.deidentifier.hides(number) else f"{self.rounded(number):,}"

    def rounded(self, number: int) -> int:
        """A count that is not hidden; 0 stays 0."""
        if not self.deidentifier.share_safe or not number:
            return number
        return max(_ROUND_TO * round(number / _ROUND_TO), _ROUND_TO * -(-MIN_GROUP_SIZE // _ROUND_TO))

    def share(self, number: int, total: int) -> str:
        """A count as a share of all; nothing where the count is hidden."""
        if self.deidentifier.hides(number) or not total:
            return ""
        return f"{100 * self.rounded(number) / max(self.rounded(total), 1):.1f} %"
