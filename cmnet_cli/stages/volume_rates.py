"""Columns of the ejection and filling rates of the ventricles."""

from typing import Any

from cmnet_core.function.volumes import ClinicalIndices, Volumes
from cmnet_core.mechanics.strain_curves import Timing, summarise

Row = dict[str, Any]


def volume_rate_columns(volumes: Volumes, function: ClinicalIndices, timing: Timing) -> Row:
    """Compute peak ejection and filling rates; null for a ventricle whose stroke volume is not reported.

    Args:
        volumes: Volumes in every frame of the cycle.
        function: Indices of the same volumes.
        timing: Timing of the cycle.
    """
    row: Row = {}
    ventricles = (
        ("lv", volumes.lv_ml, function.lvsv_ml, function.lvedv_ml),
        ("rv", volumes.rv_ml, function.rvsv_ml, function.rvedv_ml),
    )
    for name, curve, stroke, edv in ventricles:
        rates = None if stroke is None else summarise(curve - curve[timing.ed], timing, sign=-1.0)
        ejection = None if rates is None or rates.systolic_rate is None else -rates.systolic_rate
        filling = None if rates is None else rates.early_diastolic_rate
        row |= {
            f"{name}_peak_ejection_rate_ml_s": ejection,
            f"{name}_peak_filling_rate_ml_s": filling,
            f"{name}_peak_ejection_rate_edv_per_s": divided(ejection, edv),
            f"{name}_peak_filling_rate_edv_per_s": divided(filling, edv),
            f"{name}_time_to_peak_filling_rate_ms": None if rates is None else rates.es_to_filling_ms,
        }
    return row


def divided(value: float | None, by: float | None) -> float | None:
    """Divide two numbers; None where either is unknown."""
    return None if value is None or by is None else value / by
