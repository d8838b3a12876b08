"""Columns of the evaluation against reference masks, and of the comparison with an outside table."""

from collections.abc import Iterator

from cmnet_cli.tables.columns.case import GROUP, IDENTITY
from cmnet_cli.tables.columns.column import Column

_METHOD = Column("method", "text", "cardiomorphnet or another; segnet; no-motion: the other phase's mask")
_COMPARISON_OF_MASKS = Column("comparison", "text", "ed-to-es, es-to-ed, at-ed, at-es, or pooled over both phases")
_STRUCTURE = Column("structure", "text", "lv, myo or rv")
_GROUP_OR_ALL = Column("group", "text", "Group of the manifest, or all")

_DICE = "100 x 2|A and B| / (|A| + |B|)"
_HD95 = "larger of the two directed 95th percentiles of the surface distances"
_MONAI = "MONAI's definition; the article's code pools both directions before the percentile"

EVALUATION = (
    *IDENTITY,
    GROUP,
    _METHOD,
    _COMPARISON_OF_MASKS,
    _STRUCTURE,
    Column("dsc_pct", "number", "Dice similarity coefficient", "%", f"{_DICE}; pooled: voxels of both phases"),
    Column("jac_pct", "number", "Jaccard index", "%", "100 x |A and B| / |A or B|; pooled: voxels of both phases"),
    Column("hd95_mm", "number", "95th percentile Hausdorff distance", "mm", f"{_HD95}; pooled: mean of both phases",
           _MONAI),
    Column("msd_mm", "number", "Symmetric mean surface distance", "mm",
           "mean over the surface voxels of both masks; pooled: mean of both phases"),
    Column("failure", "text", "Why there is no distance: empty-prediction or empty-reference"),
)  # fmt: skip
"""One row per case, method, comparison and structure."""

_NJD = "voxels with det F <= 0, on the network's grid"

FOLDING = (
    *IDENTITY,
    GROUP,
    Column("comparison", "text", "ed-to-es or es-to-ed"),
    Column("njd_field", "integer", "Folded voxels of the displacement field in the whole window", "", _NJD),
    Column("njd_field_pct", "number", "Fraction of the window that is folded", "%", "100 x njd_field / voxels"),
    Column("njd_heart", "integer", "Folded voxels within the reference mask and a margin around it", "", _NJD),
    Column("njd_heart_pct", "number", "Fraction of that region that is folded", "%", "100 x njd_heart / voxels"),
)
"""One row per case and comparison."""

_UNIT_OF_INDEX = "that of the index"
_INDEX = Column("index", "text", "A clinical index, a column of the table indices")

AGREEMENT = (
    *IDENTITY,
    GROUP,
    _INDEX,
    Column("estimate", "number", "Index from SegNet's labels", _UNIT_OF_INDEX, "as the index"),
    Column("reference", "number", "Index from the reference masks", _UNIT_OF_INDEX, "as the index"),
)
"""One row per case and index."""

CORRECTION_OVERLAPS = (
    *IDENTITY,
    Column("frame", "integer", "Frame, from 0"),
    Column("edited", "integer", "1 where the mask of this frame was edited, 0 where the correction was propagated"),
    _STRUCTURE,
    Column("dsc_pct", "number", "Dice similarity coefficient of automatic and corrected masks", "%", _DICE),
    Column("automatic_ml", "number", "Volume by the automatic masks", "mL", "voxels x voxel volume"),
    Column("corrected_ml", "number", "Volume by the corrected masks", "mL", "voxels x voxel volume"),
)
"""One row per corrected case, frame and structure."""

CORRECTION_INDICES = (
    *IDENTITY,
    Column("index", "text", "A measured column of the table indices"),
    Column("automatic", "number", "Index from the automatic results", _UNIT_OF_INDEX, "as the index"),
    Column("corrected", "number", "Index from the corrected results", _UNIT_OF_INDEX, "as the index"),
)
"""One row per corrected case and index."""

_MEAN, _SD, _MEDIAN = "mean over subjects", "SD over subjects, n - 1", "median over subjects"

EVALUATION_SUMMARY = (
    _GROUP_OR_ALL,
    _METHOD,
    _COMPARISON_OF_MASKS,
    _STRUCTURE,
    Column("n", "integer", "Number of subjects"),
    Column("failures", "integer", "Number of subjects with an empty prediction, which has no distance"),
    Column("dsc_mean_pct", "number", "Mean Dice similarity coefficient", "%", _MEAN),
    Column("dsc_sd_pct", "number", "Standard deviation of the Dice similarity coefficient", "%", _SD),
    Column("dsc_median_pct", "number", "Median Dice similarity coefficient", "%", _MEDIAN),
    Column("jac_mean_pct", "number", "Mean Jaccard index", "%", _MEAN),
    Column("jac_median_pct", "number", "Median Jaccard index", "%", _MEDIAN),
    Column("hd95_mean_mm", "number", "Mean 95th percentile Hausdorff distance", "mm", _MEAN),
    Column("hd95_sd_mm", "number", "Standard deviation of the 95th percentile Hausdorff distance", "mm", _SD),
    Column("hd95_median_mm", "number", "Median 95th percentile Hausdorff distance", "mm", _MEDIAN),
    Column("msd_mean_mm", "number", "Mean of the mean surface distance", "mm", _MEAN),
    Column("msd_median_mm", "number", "Median of the mean surface distance", "mm", _MEDIAN),
)
"""One row per group, method, comparison and structure."""

EVALUATED = {
    f"{name}_{comparison}": (method, comparison.replace("_", "-"))
    for name, method, comparisons in (
        ("motion", "cardiomorphnet", ("ed_to_es", "es_to_ed", "pooled")),
        ("segnet", "segnet", ("at_ed", "at_es", "pooled")),
    )
    for comparison in comparisons
}
"""Column prefix in ``evaluation_subjects`` → method and comparison in ``evaluation``."""


def _of_subject() -> Iterator[Column]:
    for prefix, (method, comparison) in EVALUATED.items():
        for suffix, metric, unit, formula in (
            ("dsc_pct", "Dice similarity coefficient", "%", _DICE),
            ("hd95_mm", "95th percentile Hausdorff distance", "mm", _HD95),
        ):
            for structure in ("lv", "myo", "rv"):
                meaning = f"{metric}: {method}, {comparison}, {structure}"
                yield Column(f"{prefix}_{structure}_{suffix}", "number", meaning, unit, formula)


EVALUATION_SUBJECTS = (
    *IDENTITY,
    GROUP,
    *_of_subject(),
    Column("failures", "integer", "Number of empty predictions of a structure, by motion and by SegNet, at ED and ES"),
    *(Column(f"njd_{region}_{direction}", "integer", f"Folded voxels {where}, {direction.replace('_', '-')}", "", _NJD)
      for direction in ("ed_to_es", "es_to_ed")
      for region, where in (("field", "in the whole window"), ("heart", "within the heart and a margin"))),
    Column("cycle_consistency_error_mm", "number", "Cycle-consistency error in the heart", "mm",
           "as in the table motion"),
    Column("entropy_heart_nats", "number", "Mean entropy of the velocity field's posterior within the reference masks",
           "nats", "mean over voxels at ED and ES"),
    Column("entropy_background_nats", "number", "Mean entropy in the rest of the window", "nats",
           "mean over voxels at ED and ES"),
    Column("entropy_auroc", "number",
           "Probability that a background voxel's entropy exceeds that of a heart voxel, at ED and ES", "1",
           "Mann-Whitney U / (n m)"),
)  # fmt: skip
"""One row per case."""

_UNIT_OF_QUANTITY = "that of the quantity"

EVALUATION_QUANTITIES = (
    _GROUP_OR_ALL,
    Column("quantity", "text", "A column of evaluation_subjects"),
    Column("n", "integer", "Number of subjects with a value"),
    Column("mean", "number", "Mean", _UNIT_OF_QUANTITY, _MEAN),
    Column("sd", "number", "Standard deviation", _UNIT_OF_QUANTITY, _SD),
    Column("median", "number", "Median", _UNIT_OF_QUANTITY, _MEDIAN),
    Column("minimum", "number", "Minimum", _UNIT_OF_QUANTITY, "minimum over subjects"),
    Column("maximum", "number", "Maximum", _UNIT_OF_QUANTITY, "maximum over subjects"),
)
"""One row per group and quantity."""

_HOLM = "Holm 1979, over all tests of the group"
_STEP_DOWN = "p x (number of tests left), monotone, at most 1"

EVALUATION_TESTS = (
    _GROUP_OR_ALL,
    Column("target", "text", "Reference that both methods are compared with: es, ed, or pooled over both"),
    _STRUCTURE,
    Column("metric", "text", "dsc_pct or hd95_mm"),
    Column("first", "text", "First method"),
    Column("second", "text", "Second method"),
    Column("n", "integer", "Number of subjects with both values"),
    Column("mean_difference", "number", "Mean difference", "that of the metric", "mean of first - second"),
    Column("t_test_p", "number", "Two-sided p-value of the paired t-test", "1", "t = mean / (SD / sqrt(n))"),
    Column("t_test_p_holm", "number", "Holm-adjusted p-value of the paired t-test", "1", _STEP_DOWN, _HOLM),
    Column("wilcoxon_p", "number", "Two-sided p-value of the Wilcoxon signed-rank test", "1", "sum of signed ranks"),
    Column("wilcoxon_p_holm", "number", "Holm-adjusted p-value of the Wilcoxon test", "1", _STEP_DOWN, _HOLM),
)  # fmt: skip
"""One row per group, reference, structure, metric and pair of methods."""

_BLAND_ALTMAN = "Bland and Altman 1986"
_LIMITS_INTERVAL = "limit -+ t(n - 1) SD sqrt(1 / n + 1.96^2 / (2n - 2))"


def _interval(name: str, meaning: str, unit: str, formula: str, source: str) -> tuple[Column, Column]:
    """The two ends of a 95 % confidence interval."""
    ends = (("low", "Lower"), ("high", "Upper"))
    return tuple(  # type: ignore[return-value]
        Column(f"{name}_{end}", "number", f"{side} end of the 95 % interval of the {meaning}", unit, formula, source)
        for end, side in ends
    )


_LIMITS = (
    Column("n", "integer", "Number of subjects with both values"),
    Column("bias", "number", "Mean difference", _UNIT_OF_INDEX, "mean of estimate - reference", _BLAND_ALTMAN),
    *_interval("bias", "bias", _UNIT_OF_INDEX, "bias -+ t(n - 1) SD / sqrt(n)", _BLAND_ALTMAN),
    Column("lower", "number", "Lower limit of agreement", _UNIT_OF_INDEX, "bias - 1.96 SD", _BLAND_ALTMAN),
    *_interval("lower", "lower limit of agreement", _UNIT_OF_INDEX, _LIMITS_INTERVAL, "Bland and Altman 1999"),
    Column("upper", "number", "Upper limit of agreement", _UNIT_OF_INDEX, "bias + 1.96 SD", _BLAND_ALTMAN),
    *_interval("upper", "upper limit of agreement", _UNIT_OF_INDEX, _LIMITS_INTERVAL, "Bland and Altman 1999"),
    Column("rmse", "number", "Root mean squared difference", _UNIT_OF_INDEX, "sqrt(mean of (estimate - reference)^2)"),
    Column("r", "number", "Pearson correlation coefficient", "1", "covariance / (SD x SD)"),
    Column(
        "icc",
        "number",
        "Intraclass correlation coefficient ICC(2,1): two-way random effects, absolute agreement, single value",
        "1",
        "(MS_R - MS_E) / (MS_R + MS_E + 2 (MS_C - MS_E) / n)",
        "Shrout and Fleiss 1979",
    ),
    *_interval("icc", "intraclass correlation", "1", "case 2A", "McGraw and Wong 1996"),
    Column(
        "ccc",
        "number",
        "Concordance correlation coefficient",
        "1",
        "2 covariance / (variance of estimate + variance of reference + bias^2), divisor n",
        "Lin 1989",
    ),
    Column("slope", "number", "Proportional bias", "1", "slope of estimate - reference on the mean of both"),
    Column("slope_p", "number", "Two-sided p of slope 0", "1", "t-test of the regression slope"),
    Column("repeat_subjects", "integer", "Number of subjects with an estimate at two visits or more"),
    Column(
        "within_sd",
        "number",
        "Within-subject standard deviation of the estimate",
        _UNIT_OF_INDEX,
        "root of the mean square within subjects",
        "Bland and Altman 1996",
    ),
    Column(
        "within_cv_pct",
        "number",
        "Within-subject coefficient of variation of the estimate",
        "%",
        "100 x within_sd / |mean|",
    ),
)

AGREEMENT_SUMMARY = (_GROUP_OR_ALL, _INDEX, *_LIMITS)
"""One row per group and index."""

COMPARISON = (
    Column("index", "text", "A column of the table indices, or of segments with the segment's number"),
    Column("reference_column", "text", "Column of the outside table that the index is compared with"),
    Column("unreadable", "integer", "Number of cells of that column that are neither empty nor a number"),
    *_LIMITS,
)
"""One row per index and column of the outside table."""
