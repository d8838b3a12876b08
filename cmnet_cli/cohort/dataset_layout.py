"""The layouts of data sets on disk that cmnet can read."""

from enum import StrEnum


class DatasetLayout(StrEnum):
    """The layout of a data set on disk: the names and folders of its files."""

    ACDC = "acdc"
    MNMS = "mnms"
    UKB = "ukb"
    UKBB_CARDIAC = "ukbb_cardiac"
    NIFTI = "nifti"
    AUTO = "auto"
