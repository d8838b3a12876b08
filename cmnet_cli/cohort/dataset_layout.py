"""The layouts of data sets on disk that cmnet can read."""

from enum import StrEnum


class DatasetLayout(StrEnum):
    """How a data set on disk is laid out."""

    ACDC = "acdc"
    MNMS = "mnms"
    UKB = "ukb"
    UKBB_CARDIAC = "ukbb_cardiac"
    NIFTI = "nifti"
    AUTO = "auto"
