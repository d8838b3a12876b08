"""Uncertainty: the stored posterior, samples of it, and calibrated intervals of the indices."""
