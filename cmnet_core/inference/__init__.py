"""Inference for one subject: segmentation, motion tracking, refinement, and motion between any two frames."""
