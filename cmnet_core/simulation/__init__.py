"""Simulated data with ground truth: real ED images warped along a known motion, and label maps in closed form."""
