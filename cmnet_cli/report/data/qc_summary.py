"""What needs a look: failures by their reason, and quality flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from cmnet_cli.report.data.cohort_context import Link, Showing
from cmnet_cli.report.data.cohort_table import Population, most_flagged
from cmnet_cli.report.formatting import is_warning
from cmnet_core.qc.flags import FLAGS

# As many subjects are named under a reason; the tables name all.
MOST_NAMED = 20

_STATES = ("done", "failed", "stale", "pending")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some subjects failed, or what is said of some.

    Attributes:
        code: Error code or flag.
        told: What it means.
        advice: What to do.
        count: How many subjects, as the page tells it.
        share: Their share of all, in per cent; empty where it is hidden.
        width: The same as a number, for the bar.
        links: The first of them.
        more: How many are not named.
    """

    code: str
    told: str
    advice: str
    count: str
    share: str
    width: float
    links: tuple[Link, ...]
    more: int


def states_of(population: Population) -> dict[str, int]:
    """How many subjects are done, failed, stale and pending; those that are none are left out."""
    if not population.status.num_rows:
        return {"done": population.size}
    counted = population.status.group_by("state").aggregate([([], "count_all")])
    counts = dict(zip(counted["state"].to_pylist(), counted["count_all"].to_pylist(), strict=True))
    return {state: counts[state] for state in (*_STATES, *sorted(set(counts) - {*_STATES})) if counts.get(state)}


def failures_of(showing: Showing) -> list[Reason]:
    """Failures by code and advice, the most frequent first."""
    status = showing.population.status
    if "state" not in status.column_names:
        return []
    failed = status.filter(pc.equal(status["state"], "failed"))
    named = _worded(failed)
    counted = named.group_by(["error_code", "hint"]).aggregate([([], "count_all")]).to_pylist()
    counted.sort(key=lambda row: (-row["count_all"], row["error_code"], row["hint"]))
    return [_failure(showing, named, row, status.num_rows) for row in counted]


def _worded(failed: Any) -> Any:
    """The failures with words in place of nulls, so that they can be grouped."""
    for column, instead in (("error_code", "unknown"), ("hint", ""), ("message", "")):
        place = failed.schema.get_field_index(column)
        failed = failed.set_column(place, column, pc.fill_null(failed[column], instead))
    return failed


def _failure(showing: Showing, failed: Any, row: dict[str, Any], total: int) -> Reason:
    number: int = row["count_all"]
    alike = failed.filter(
        pc.and_(pc.equal(failed["error_code"], row["error_code"]), pc.equal(failed["hint"], row["hint"]))
    )
    first = alike.select(["case_id", "message"]).slice(0, MOST_NAMED)
    places = showing.population.places(first["case_id"].combine_chunks()).tolist()
    links = [
        Link(case["case_id"], showing.pages.get(place, ""), case["message"])
        for case, place in zip(first.to_pylist(), places, strict=True)
    ]
    advice = showing.deidentifier.text(row["hint"])
    return _reason(showing, row["error_code"], ("", advice), number=number, total=total, links=links)


def flags_of(showing: Showing) -> list[Reason]:
    """Quality flags, those that ask for a look first, the most frequent first."""
    population, found = showing.population, showing.population.flagged
    reasons = []
    for flag, places in zip(found.flags, found.subjects, strict=True):
        first = most_flagged(population, places)[:MOST_NAMED] if is_warning(flag) else []
        words = (FLAGS[flag].raised, FLAGS[flag].advice) if flag in FLAGS else ("", "")
        links = showing.links(first)
        reasons.append(_reason(showing, flag, words, number=len(places), total=population.size, links=links))
    return sorted(reasons, key=lambda reason: not is_warning(reason.code))


def _reason(
    showing: Showing, code: str, words: tuple[str, str], *, number: int, total: int, links: Sequence[Link]
) -> Reason:
    named = () if showing.deidentifier.share_safe else tuple(links)
    return Reason(
        code=code,
        told=f"{words[0][:1].upper()}{words[0][1:]}",
        advice=words[1],
        count=showing.counting.told(number),
        share=showing.counting.share(number, total),
        width=0.0 if showing.deidentifier.hides(number) else round(100 * number / max(total, 1), 1),
        links=named,
        more=number - len(named) if named else 0,
    )
