"""Inference for one subject: segmentation, motion tracking, and motion between any two frames."""
