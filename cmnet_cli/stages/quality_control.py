"""The clinical indices of a case, as far as they can be believed, with the flags that say how far."""

from cmnet_cli.cohort.case import Case
from cmnet_cli.derivatives.tracking import StoredTracking
from cmnet_core.function.volumes import ClinicalIndices, Volumes, clinical_indices
from cmnet_core.imaging.preprocess import extract_labels
from cmnet_core.qc.result_checks import (
    PhaseLabels,
    check_contours,
    check_function,
    check_volume_curve,
    withhold_truncated,
)


def judged_indices(case: Case, stored: StoredTracking, volumes: Volumes) -> tuple[ClinicalIndices, list[str]]:
    """The indices from SegNet's labels, those left out that miss a part of their ventricle, and all flags."""
    facts = stored.facts
    found = clinical_indices(volumes, ed=facts.ed, es=facts.es)
    phases = stored.segmented[[facts.ed, facts.es]]
    own, window = PhaseLabels(*phases), PhaseLabels(*extract_labels(phases, facts.window))
    raised = [*check_contours(own, window), *check_volume_curve(volumes.lv_ml, given_ed=case.ed, given_es=case.es)]
    believed = withhold_truncated(found, set(raised))
    return believed, [*found.flags, *raised, *check_function(believed)]
