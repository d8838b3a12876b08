"""Statistics: segmentation metrics, agreement with a reference, paired tests, differences between groups."""
