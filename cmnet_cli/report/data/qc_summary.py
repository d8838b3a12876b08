"""Quality control of a cohort: failures by their reason, and quality flags."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from cmnet_cli.report.data.cohort_context import CohortContext, SubjectLink
from cmnet_cli.report.data.cohort_table import Population, most_flagged
from cmnet_cli.report.formatting import is_warning, severity_of
from cmnet_core.qc.flags import FLAGS, Severity

# So many subjects are listed with a finding; the tables list all of them.
MOST_LISTED = 20

_STATES = ("done", "failed", "stale", "pending")


@dataclass(frozen=True, slots=True)
class QCFinding:
    """A reason of failure or a quality flag, with the subjects that it concerns.

    Attributes:
        code: Error code or flag.
        meaning: When it is raised.
        advice: What to do.
        severity: Severity of a flag; empty for a failure.
        count: Number of subjects, as the page states it.
        percentage: Percentage of all subjects as text; empty where it is suppressed.
        bar_pct: The same as a number, for the bar.
        links: The first of the subjects.
        more: Number of subjects that are not listed.
    """

    code: str
    meaning: str
    advice: str
    severity: str
    count: str
    percentage: str
    bar_pct: float
    links: tuple[SubjectLink, ...]
    more: int


def count_states(population: Population) -> dict[str, int]:
    """Count the subjects that are done, failed, stale and pending; states without subjects are left out."""
    if not population.status.num_rows:
        return {"done": population.size}
    counted = population.status.group_by("state").aggregate([([], "count_all")])
    counts = dict(zip(counted["state"].to_pylist(), counted["count_all"].to_pylist(), strict=True))
    return {state: counts[state] for state in (*_STATES, *sorted(set(counts) - {*_STATES})) if counts.get(state)}


def failure_findings(context: CohortContext) -> list[QCFinding]:
    """Return the failures by code and advice, the most frequent first."""
    status = context.population.status
    if "state" not in status.column_names:
        return []
    failed = status.filter(pc.equal(status["state"], "failed"))
    # Nulls cannot be grouped.
    for column, instead in (("error_code", "unknown"), ("hint", ""), ("message", "")):
        number = failed.schema.get_field_index(column)
        failed = failed.set_column(number, column, pc.fill_null(failed[column], instead))
    counted = failed.group_by(["error_code", "hint"]).aggregate([([], "count_all")]).to_pylist()
    counted.sort(key=lambda row: (-row["count_all"], row["error_code"], row["hint"]))
    return [_failure(context, failed, row, status.num_rows) for row in counted]


def _failure(context: CohortContext, failed: Any, row: dict[str, Any], total: int) -> QCFinding:
    number: int = row["count_all"]
    alike = failed.filter(
        pc.and_(pc.equal(failed["error_code"], row["error_code"]), pc.equal(failed["hint"], row["hint"]))
    )
    first = alike.select(["case_id", "message"]).slice(0, MOST_LISTED)
    rows = context.population.rows_of(first["case_id"].combine_chunks()).tolist()
    links = [
        SubjectLink(case["case_id"], context.pages.get(row, ""), case["message"])
        for case, row in zip(first.to_pylist(), rows, strict=True)
    ]
    subjects = _subjects(context, links, number=number, total=total)
    return QCFinding(row["error_code"], "", context.deidentifier.text(row["hint"]), "", **subjects)


def flag_findings(context: CohortContext) -> list[QCFinding]:
    """Return the quality flags, the most severe first, the most frequent first."""
    population, flagged = context.population, context.population.flagged
    findings = []
    for flag, rows in zip(flagged.flags, flagged.subjects, strict=True):
        of_subjects = is_warning(flag) and flag not in population.shared
        first = most_flagged(population, rows)[:MOST_LISTED] if of_subjects else []
        meaning, advice = (FLAGS[flag].raised, FLAGS[flag].advice) if flag in FLAGS else ("", "")
        subjects = _subjects(context, context.links(first), number=len(rows), total=population.size)
        findings.append(QCFinding(flag, f"{meaning[:1].upper()}{meaning[1:]}", advice, severity_of(flag), **subjects))
    return sorted(findings, key=lambda finding: list(Severity).index(severity_of(finding.code)))


def _subjects(context: CohortContext, links: Sequence[SubjectLink], *, number: int, total: int) -> dict[str, Any]:
    """Return those attributes of a finding that describe its subjects."""
    listed = () if context.deidentifier.share_safe else tuple(links)
    return {
        "count": context.counts.told(number),
        "percentage": context.counts.share(number, total),
        "bar_pct": 0.0 if context.deidentifier.hides(number) else round(100 * number / max(total, 1), 1),
        "links": listed,
        "more": number - len(listed) if listed else 0,
    }
