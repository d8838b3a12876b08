"""Uncertainty: Gaussian posteriors of the networks, posterior samples, calibrated intervals."""
